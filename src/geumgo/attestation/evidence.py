"""Evidence as it travels: the attestation document and its statement, in JSON or CBOR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from geumgo.attestation.errors import MalformedEvidence
from geumgo.attestation.statement import MAX_STATEMENT_SIZE
from geumgo.codec import cbor

__all__ = ("MAX_DOCUMENT", "MAX_EVIDENCE_SIZE", "NITRO", "Evidence")

NITRO = "nitro"
"""Kind of evidence: an AWS Nitro attestation document."""

MAX_DOCUMENT = 64 << 10
"""Bytes of a document of any kind; a Nitro document has under 17 KiB, a quote with its certificates under 20."""

MAX_EVIDENCE_SIZE = 128 << 10
"""Bytes of evidence in either encoding: base64 adds a third."""

_FIELDS = frozenset({"kind", "document", "statement"})


class _Json(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    document: bytes
    statement: bytes | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an enclave shows. NOT verified.

    Attributes:
        kind: which hardware's evidence it is; "nitro" is known.
        document: the attestation document or quote.
        statement: the statement whose digest the document carries; None for a document that stands alone.
    """

    kind: str
    document: bytes
    statement: bytes | None = None

    def __post_init__(self) -> None:
        if self.kind != NITRO:
            raise MalformedEvidence(
                "the evidence is of a kind that is not known", fix="Upgrade the verifier."
            )
        if not 0 < len(self.document) <= MAX_DOCUMENT:
            raise MalformedEvidence(f"the evidence's document is not 1 to {MAX_DOCUMENT} bytes")
        if self.statement is not None and not 0 < len(self.statement) <= MAX_STATEMENT_SIZE:
            raise MalformedEvidence(f"the evidence's statement is not 1 to {MAX_STATEMENT_SIZE} bytes")

    def to_json(self) -> bytes:
        """Return `{"kind", "document", "statement"}`, the bytes in base64."""
        return msgspec.json.encode(_Json(self.kind, self.document, self.statement))

    @classmethod
    def from_json(cls, data: bytes | str) -> Evidence:
        """Return the evidence in a JSON text.

        Raises:
            MalformedEvidence: it is not evidence in JSON, or over a limit.
        """
        _check_size(len(data))
        try:
            value = msgspec.json.decode(data, type=_Json)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise MalformedEvidence(
                "this is not evidence in JSON",
                fix="Evidence is what GET /v1/attestation answers with status 200.",
            ) from None
        return cls(value.kind, value.document, value.statement)

    def to_cbor(self) -> bytes:
        """Return the map of kind, document and statement."""
        return cbor.dumps({"kind": self.kind, "document": self.document, "statement": self.statement})

    @classmethod
    def from_cbor(cls, data: bytes) -> Evidence:
        """Return the evidence in a CBOR map.

        Raises:
            MalformedEvidence: it is not evidence in CBOR, or over a limit.
        """
        _check_size(len(data))
        try:
            return cls._from_map(cbor.loads(data, max_size=MAX_EVIDENCE_SIZE, max_depth=2))
        except cbor.CborError as error:
            raise MalformedEvidence(f"this is not evidence in CBOR: {error.what}") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Return the evidence in a file: JSON, CBOR, or a bare Nitro document.

        Raises:
            MalformedEvidence: it is none of them.
        """
        _check_size(len(data))
        if data.lstrip(b" \t\r\n")[:1] == b"{":
            return cls.from_json(data)
        if data[:1] in (b"\xa2", b"\xa3"):  # a map of two or three; a document is an array or a tag
            return cls.from_cbor(data)
        return cls(NITRO, data)

    @classmethod
    def _from_map(cls, value: Any) -> Evidence:
        if isinstance(value, dict) and value.keys() <= _FIELDS:
            match value:
                case {"kind": str(kind), "document": bytes(document)}:
                    statement = value.get("statement")
                    if statement is None or isinstance(statement, bytes):
                        return cls(kind, document, statement)
        raise MalformedEvidence("this is not evidence in CBOR: not a map of kind, document and statement")


def _check_size(size: int) -> None:
    if size > MAX_EVIDENCE_SIZE:
        raise MalformedEvidence(f"evidence has at most {MAX_EVIDENCE_SIZE} bytes, not {size}")
