"""A Nitro Secure Module in software, which behaves as the real one was observed to."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Mapping

import cbor2

from geumgo._base import Clock, GeumgoError, SystemClock
from geumgo.nitro import ErrorCode, MessageError
from geumgo.nitro.messages import (
    MAX_PCRS,
    MAX_RANDOM,
    MAX_RESPONSE_SIZE,
    PCR_SIZE,
    Attestation,
    AttestationResponse,
    DescribeNsm,
    DescribeNsmResponse,
    DescribePcr,
    DescribePcrResponse,
    ErrorResponse,
    ExtendPcr,
    ExtendPcrResponse,
    GetRandom,
    GetRandomResponse,
    LockPcr,
    LockPcrResponse,
    LockPcrs,
    LockPcrsResponse,
    Request,
    Response,
    decode_request,
    encode_response,
)
from geumgo.testing.nsm._signer import DocumentSigner
from geumgo.testing.nsm.authority import NsmAuthority

__all__ = ("BOOT_PCRS", "DEFAULT_REGION", "SoftwareNsm", "SoftwareNsmError")

BOOT_PCRS = 16
"""Registers that are locked when an enclave starts: 0 to 15."""

DEFAULT_REGION = "ap-northeast-2"
"""Region in the certificates' names, unless told otherwise."""

_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]{2,10}){1,2}-[0-9]{1,2}")
_MAX_REGION = 19  # so that the leaf's name stays in a common name's 64 characters
_INSTANCE_PCR = 4
_ZERO = bytes(PCR_SIZE)


class SoftwareNsmError(GeumgoError):
    """Raised when a software NSM can't be made of what was given."""

    code = "bad_nsm"


class SoftwareNsm:
    """The NSM of one enclave. It belongs into the launcher; the enclave gets one socket to it.

    Args:
        authority: who issues its certificates.
        pcrs: registers 0 to 15 at boot, 48 bytes each; those not named are zero, but PCR4, which is the
            measurement of the instance id as on hardware. For a debug enclave the launcher gives zeros.
        instance_id: of the instance that the enclave pretends to run on; by default one that follows
            from the authority, so that the enclaves of one machine share it.
        region: of that instance.
        clock: time of documents and certificates.

    Raises:
        SoftwareNsmError: a register, the instance id or the region is none.
    """

    def __init__(
        self,
        authority: NsmAuthority,
        pcrs: Mapping[int, bytes],
        *,
        instance_id: str | None = None,
        region: str = DEFAULT_REGION,
        clock: Clock | None = None,
    ) -> None:
        if instance_id is None:
            instance_id = "i-" + hashlib.sha256(authority.root_pem.encode()).hexdigest()[:17]
        if not _INSTANCE_ID.fullmatch(instance_id):
            raise SoftwareNsmError("an instance id is i- and 8 to 17 hex digits")
        if not _REGION.fullmatch(region) or len(region) > _MAX_REGION:
            raise SoftwareNsmError("the region is not one like ap-northeast-2")
        for index, value in pcrs.items():
            if not 0 <= index < BOOT_PCRS or len(value) != PCR_SIZE:
                raise SoftwareNsmError(f"PCRs at boot are 0 to {BOOT_PCRS - 1}, of {PCR_SIZE} bytes")
        self.module_id = f"{instance_id}-enc{secrets.token_hex(8)}"
        self._pcrs = [pcrs.get(index, _ZERO) for index in range(MAX_PCRS)]
        if _INSTANCE_PCR not in pcrs:
            self._pcrs[_INSTANCE_PCR] = _extend(_ZERO, instance_id.encode())
        self._locked = set(range(BOOT_PCRS))
        self._clock = clock or SystemClock()
        self._signer = DocumentSigner(
            authority, instance_id=instance_id, module_id=self.module_id, region=region
        )
        self._lock = threading.Lock()

    def handle(self, request: bytes) -> bytes:
        """Return the response to one request, whatever its bytes are. Safe from several threads."""
        try:
            parsed = decode_request(request)
        except MessageError as error:
            too_large = error.code == "too_large"
            code = ErrorCode.INPUT_TOO_LARGE if too_large else ErrorCode.INVALID_OPERATION
            return encode_response(ErrorResponse(code))
        with self._lock:
            return encode_response(self._answer(parsed))

    def exchange(self, request: bytes) -> bytes:
        """Do as :meth:`handle`, so that an `NsmClient` can have this object for its transport."""
        return self.handle(request)

    def _answer(self, request: Request) -> Response:
        match request:
            case DescribeNsm():
                return self._describe()
            case GetRandom():
                return GetRandomResponse(os.urandom(MAX_RANDOM))
            case Attestation():
                return self._attest(request)
            case DescribePcr(index) | ExtendPcr(index, _) | LockPcr(index) if index >= MAX_PCRS:
                return ErrorResponse(ErrorCode.INVALID_INDEX)
            case DescribePcr(index):
                return DescribePcrResponse(index in self._locked, self._pcrs[index])
            case ExtendPcr(index, _) | LockPcr(index) if index in self._locked:
                return ErrorResponse(ErrorCode.READ_ONLY_INDEX)
            case ExtendPcr(index, data):
                self._pcrs[index] = _extend(self._pcrs[index], data)
                return ExtendPcrResponse(self._pcrs[index])
            case LockPcr(index):
                self._locked.add(index)
                return LockPcrResponse()
            case LockPcrs(range_):
                if range_ > MAX_PCRS:
                    return ErrorResponse(ErrorCode.INVALID_INDEX)
                self._locked.update(range(range_))
                return LockPcrsResponse()

    def _describe(self) -> DescribeNsmResponse:
        return DescribeNsmResponse(
            version_major=1,
            version_minor=0,
            version_patch=0,
            module_id=self.module_id,
            max_pcrs=MAX_PCRS,
            locked_pcrs=frozenset(self._locked),
            digest="SHA384",
        )

    def _attest(self, request: Attestation) -> Response:
        now_ms = self._clock.now_ms()
        now = dt.datetime.fromtimestamp(now_ms // 1000, dt.UTC)
        certificate, cabundle = self._signer.chain(now)
        # Not the sorted encoding: hardware writes the fields in this order, and the absent ones as null.
        payload = cbor2.dumps(
            {
                "module_id": self.module_id,
                "digest": "SHA384",
                "timestamp": now_ms,
                "pcrs": {index: self._pcrs[index] for index in sorted(self._locked)},
                "certificate": certificate,
                "cabundle": cabundle,
                "public_key": request.public_key,
                "user_data": request.user_data,
                "nonce": request.nonce,
            }
        )
        document = self._signer.sign(payload, now)
        if len(document) > MAX_RESPONSE_SIZE:
            return ErrorResponse(ErrorCode.BUFFER_TOO_SMALL)
        return AttestationResponse(document)


def _extend(register: bytes, data: bytes) -> bytes:
    return hashlib.sha384(register + data).digest()
