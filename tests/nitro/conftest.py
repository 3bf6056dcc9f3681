"""Fixtures of the nitro tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from geumgo.codec.cose import Algorithm, CoseSign1

KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture(scope="session")
def real_document() -> bytes:
    """A document of real hardware."""
    root = Path(os.environ.get("GEUMGO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    path = root / "fixtures" / "aws_nitro_document.cbor"
    if not path.is_file():
        pytest.skip(f"no reference fixtures in {root}; set GEUMGO_SHARED to the folder that has them")
    return path.read_bytes()


@pytest.fixture
def payload() -> dict[str, Any]:
    """The fields of a well-formed document."""
    return {
        "module_id": "i-1234567890abcdef0-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": 1_700_000_000_000,
        "pcrs": {index: bytes([index]) * 48 for index in range(16)},
        "certificate": b"leaf",
        "cabundle": [b"root", b"region"],
        "public_key": None,
        "user_data": None,
        "nonce": None,
    }


@pytest.fixture
def document_of() -> Callable[[Any], bytes]:
    """Wraps a payload, whatever it is, into a signed message."""

    def wrap(payload: Any) -> bytes:
        data = payload if isinstance(payload, bytes) else cbor2.dumps(payload)
        return CoseSign1.sign(data, KEY, Algorithm.ES384).encode()

    return wrap
