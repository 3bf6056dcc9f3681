"""Fixtures of the emulator's tests: a service without a server, and enclaves to ask it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from geumgo.attestation import TrustRoots
from geumgo.keys import generate_recipient_key, open_ciphertext_for_recipient, public_key_der
from geumgo.nitro import NsmClient
from geumgo.testing.kms._errors import ServiceError
from geumgo.testing.kms._evaluate import Principal
from geumgo.testing.kms._service import KmsService
from geumgo.testing.kms._store import Store
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

ACCOUNT = "111122223333"
REGION = "ap-northeast-2"


class ManualClock:
    """A clock that a test sets."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms


class Refused(AssertionError):
    """Raised by `Kms.refused` when a call was not refused."""


class Kms:
    """The service with Python values for JSON's."""

    admin = Principal(f"arn:aws:iam::{ACCOUNT}:user/geumgo-admin")
    parent = Principal(f"arn:aws:sts::{ACCOUNT}:assumed-role/geumgo-parent/emulator")
    account, region = ACCOUNT, REGION

    def __init__(self, service: KmsService, store: Store) -> None:
        self.service = service
        self.store = store

    def call(self, action: str, principal: Principal | None = None, **members: Any) -> dict[str, Any]:
        body = json.dumps(members, default=lambda data: base64.b64encode(data).decode()).encode()
        return self.service.handle(action, body, principal or self.admin)

    def refused(self, action: str, principal: Principal | None = None, **members: Any) -> ServiceError:
        try:
            answer = self.call(action, principal, **members)
        except ServiceError as error:
            return error
        raise Refused(f"{action} was answered: {sorted(answer)}")

    def key(self, policy: dict[str, Any] | None = None, *, bypass: bool = True) -> str:
        members = (
            {} if policy is None else {"Policy": json.dumps(policy), "BypassPolicyLockoutSafetyCheck": bypass}
        )
        return str(self.call("CreateKey", **members)["KeyMetadata"]["Arn"])

    def blob(self, key: str, context: dict[str, str] | None = None) -> bytes:
        answer = self.call(
            "GenerateDataKeyWithoutPlaintext", KeyId=key, KeySpec="AES_256", EncryptionContext=context or {}
        )
        return base64.b64decode(answer["CiphertextBlob"])


class Enclave:
    """A software NSM and an RSA key, as an enclave has them."""

    def __init__(
        self, authority: NsmAuthority, pcrs: dict[int, bytes], key: RSAPrivateKey, clock: Any
    ) -> None:
        nsm = SoftwareNsm(authority, pcrs, instance_id="i-0123456789abcdef0", region=REGION, clock=clock)
        self.nsm = NsmClient(nsm)
        self.key = key

    def recipient(self, **changes: Any) -> dict[str, Any]:
        document = self.nsm.attest(**{"public_key": public_key_der(self.key), **changes})
        return {"AttestationDocument": document, "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"}

    def open(self, answer: dict[str, Any]) -> bytes:
        return open_ciphertext_for_recipient(base64.b64decode(answer["CiphertextForRecipient"]), self.key)


PCRS = {0: b"\xab" * 48, 1: b"\xbc" * 48, 2: b"\xcd" * 48}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def rsa_key() -> RSAPrivateKey:
    return generate_recipient_key()


@pytest.fixture
def authority(clock: ManualClock) -> NsmAuthority:
    return NsmAuthority.generate(clock=clock)


@pytest.fixture
def enclave(authority: NsmAuthority, rsa_key: RSAPrivateKey, clock: ManualClock) -> Enclave:
    return Enclave(authority, PCRS, rsa_key, clock)


@pytest.fixture
def debug_enclave(authority: NsmAuthority, rsa_key: RSAPrivateKey, clock: ManualClock) -> Enclave:
    return Enclave(authority, {n: bytes(48) for n in (0, 1, 2, 8)}, rsa_key, clock)


@pytest.fixture
def other_authority_enclave(rsa_key: RSAPrivateKey, clock: ManualClock) -> Enclave:
    return Enclave(NsmAuthority.generate(clock=clock), PCRS, rsa_key, clock)


@pytest.fixture
def kms(tmp_path: Path, authority: NsmAuthority, clock: ManualClock) -> Iterator[Kms]:
    store = Store(tmp_path / "kms.sqlite3")
    roots = TrustRoots.from_pem(authority.root_pem, simulated=True)
    yield Kms(KmsService(store, roots=roots, clock=clock, account=ACCOUNT, region=REGION), store)
    store.close()
