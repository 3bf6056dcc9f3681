"""The birth of a pool against the emulator over real HTTPS, and its audit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geumgo._base import SystemClock
from geumgo.attestation import TrustRoots
from geumgo.keys import (
    Caller,
    ConfigurationError,
    Credentials,
    KmsClient,
    KmsError,
    KmsSettings,
    MeasuredConfiguration,
    Operation,
    PoolError,
    PoolKeyPair,
    audit,
    create_pool,
    first_policy,
    generate_recipient_key,
    public_key_der,
    release,
    release_policy,
    tcp_dial,
)
from geumgo.nitro import NsmClient
from geumgo.testing.kms import read_audit, serve
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

PCRS = {0: b"\xab" * 48, 1: b"\xbc" * 48, 2: b"\xcd" * 48}
HEX = {index: value.hex() for index, value in PCRS.items()}
ADMIN = "arn:aws:iam::111122223333:user/geumgo-admin"
PARENT = "arn:aws:iam::111122223333:role/geumgo-parent"


@dataclass
class World:
    """An emulator that runs, and enclaves that may ask it."""

    ready: dict[str, Any]
    state: Path
    authority: NsmAuthority

    def client(self, credentials: str = "credentials", pcrs: dict[int, bytes] | None = None) -> KmsClient:
        content = json.loads(Path(self.ready[credentials]).read_text())

        async def load() -> Credentials:
            return Credentials(
                content["access_key_id"], content["secret_access_key"], content["session_token"]
            )

        async def recipient() -> Any:
            key = generate_recipient_key()
            assert pcrs is not None
            return NsmClient(SoftwareNsm(self.authority, pcrs)).attest(public_key=public_key_der(key)), key

        return KmsClient(
            endpoint=self.ready["endpoint"],
            region=self.ready["region"],
            ca_pem=Path(self.ready["ca"]).read_text(),
            credentials=load,
            dial=tcp_dial,
            clock=SystemClock(),
            recipient=None if pcrs is None else recipient,
        )

    def settings(self) -> KmsSettings:
        return KmsSettings(self.ready["endpoint"], self.ready["region"], Path(self.ready["ca"]).read_text())

    async def create(self, **changes: Any) -> Any:
        arguments: dict[str, Any] = {
            "pool": "demo",
            "purposes": ["customers", "marketing"],
            "operations": {"deidentify": Operation(callers=("records",)), "echo": {"open": True}},
            "callers": {"records": Caller(public_key=b"r" * 32, purposes=("customers",), policies="any")},
            "kms_settings": self.settings(),
            "egress": ["example.com:443"],
            "admin": ADMIN,
        }
        return await create_pool(self.client(), **{**arguments, **changes})


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    authority = NsmAuthority.generate()
    ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(
        serve(
            0,
            tmp_path / "kms",
            roots=TrustRoots.from_pem(authority.root_pem, simulated=True),
            on_ready=ready.set_result,
        )
    )
    try:
        await asyncio.wait({ready, server}, return_when=asyncio.FIRST_COMPLETED)
        yield World(ready.result(), tmp_path / "kms", authority)
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


async def test_birth(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        material = await here.create()
        configuration = MeasuredConfiguration.from_json(material.configuration.to_json())
        assert configuration == material.configuration
        assert configuration.pool_key is not None
        assert {key.key_id for key in (configuration.pool_key, *configuration.purposes.values())} == {
            material.key_id
        }
        assert configuration.egress == (here.ready["endpoint"].removeprefix("https://"), "example.com:443")
        assert configuration.purposes["marketing"].context == {
            "geumgo:pool": "demo",
            "geumgo:purpose": "marketing",
        }
        await release(here.client(), material.key_id, HEX, ADMIN)
        seeds = set()
        for _ in range(2):
            kms = here.client("parent_credentials", PCRS)
            wrapped = configuration.pool_key
            seed = await kms.decrypt(wrapped.ciphertext, key_id=wrapped.key_id, context=wrapped.context)
            seeds.add(PoolKeyPair.from_seed(seed).key_id)
        assert len(seeds) == 1, "every enclave of the pool has the same key pair"
        records = read_audit(here.state)
    assert audit(records, key_id=material.key_id, admin=ADMIN, pcrs=HEX) == ()


async def denied(call: Any, code: str = "access_denied") -> None:
    with pytest.raises(KmsError) as caught:
        await call
    assert caught.value.code == code


async def test_nobody_else_gets_the_seed(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        material = await here.create()
        wrapped = material.configuration.pool_key
        arguments = {"ciphertext": wrapped.ciphertext, "key_id": wrapped.key_id, "context": wrapped.context}
        for stage in ("before", "after"):
            if stage == "after":
                await release(here.client(), material.key_id, HEX, ADMIN)
            changed = {**PCRS, 2: b"\xce" * 48}
            debug = {index: bytes(48) for index in PCRS}
            for who in ("credentials", "parent_credentials"):
                await denied(here.client(who).decrypt(**arguments))
                await denied(
                    here.client(who).encrypt(bytes(32), key_id=material.key_id, context=wrapped.context)
                )
                await denied(here.client(who).generate_data_key(material.key_id, wrapped.context))
                for pcrs in (changed, debug, *([PCRS] if stage == "before" else [])):
                    await denied(here.client(who, pcrs).decrypt(**arguments))
        # A purpose key passed off as the seed: the encryption context is part of the measured configuration.
        other = material.configuration.purposes["customers"]
        enclave = here.client("parent_credentials", PCRS)
        await denied(
            enclave.decrypt(other.ciphertext, key_id=other.key_id, context=wrapped.context),
            "invalid_ciphertext",
        )
        # Nobody can write another policy or make more keys; the administrator may still end it.
        admin = here.client()
        policy = first_policy(ADMIN)
        await denied(admin.put_key_policy(material.key_id, policy, bypass_lockout_check=True))
        await denied(admin.generate_data_key_without_plaintext(material.key_id, wrapped.context))
        await denied(admin.call("EnableKey", {"KeyId": material.key_id}))
        assert json.loads(await admin.get_key_policy(material.key_id)) == json.loads(
            release_policy(HEX, ADMIN)
        )
        await admin.call("DisableKey", {"KeyId": material.key_id})
        await denied(enclave.decrypt(**arguments), "key_unusable")
        await denied(here.client("parent_credentials").call("DisableKey", {"KeyId": material.key_id}))


async def test_parents_by_name(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        material = await here.create()
        wrapped = material.configuration.pool_key
        arguments = {"ciphertext": wrapped.ciphertext, "key_id": wrapped.key_id, "context": wrapped.context}
        await release(here.client(), material.key_id, HEX, ADMIN, parents=[PARENT])
        assert len(await here.client("parent_credentials", PCRS).decrypt(**arguments)) == 32
        await denied(here.client("credentials", PCRS).decrypt(**arguments))
        records = read_audit(here.state)
    assert audit(records, key_id=material.key_id, admin=ADMIN, pcrs=HEX, parents=[PARENT]) == ()
    assert codes(audit(records, key_id=material.key_id, admin=ADMIN, pcrs=HEX)) == ["release_policy"]


async def test_a_mistake_leaves_no_key_behind(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        mistakes: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"pool": "de mo"}, PoolError),
            ({"purposes": ["seed"]}, PoolError),
            ({"purposes": ["a b"]}, PoolError),
            ({"admin": "ada"}, PoolError),
            ({"callers": {"records": {"publik_key": ""}}}, PoolError),
            ({"operations": {"deidentify": {"callers": ["nobody"]}}}, ConfigurationError),
            ({"purposes": []}, ConfigurationError),
            ({"egress": ["nothing"]}, ConfigurationError),
        ]
        for changes, kind in mistakes:
            with pytest.raises(kind):
                await here.create(**changes)
        assert (await here.client().call("ListKeys", {}))["Keys"] == []


def codes(findings: Any) -> list[str]:
    return [finding.code for finding in findings]


KEY = "arn:aws:kms:ap-northeast-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def event(name: str, **members: Any) -> dict[str, Any]:
    return {
        "eventSource": "kms.amazonaws.com",
        "eventName": name,
        "requestParameters": {"keyId": KEY, **members.pop("parameters", {})},
        "resources": [{"ARN": KEY}],
        **members,
    }


def created(**parameters: Any) -> dict[str, Any]:
    given = {"policy": first_policy(ADMIN), "origin": "AWS_KMS", "multiRegion": False, **parameters}
    return {
        "eventSource": "kms.amazonaws.com",
        "eventName": "CreateKey",
        "requestParameters": given,
        "responseElements": {"keyMetadata": {"arn": KEY, "keyId": KEY.rpartition("/")[2]}},
    }


def put(policy: str = release_policy(HEX, ADMIN)) -> dict[str, Any]:
    return event("PutKeyPolicy", parameters={"policy": policy})


MAKE = event("GenerateDataKeyWithoutPlaintext")
LAX = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}],
    }
)


@pytest.mark.parametrize(
    ("records", "found"),
    [
        pytest.param([created(), MAKE, MAKE, put(), event("Decrypt")], [], id="as it should be"),
        pytest.param(
            [created(), MAKE, put(), event("DescribeKey"), event("DisableKey")], [], id="with old age"
        ),
        pytest.param([MAKE, put()], ["creation_missing"], id="no creation"),
        pytest.param([created(), created(), put()], ["creation_missing"], id="two creations"),
        pytest.param([created(policy=LAX), MAKE, put()], ["first_policy"], id="another first policy"),
        pytest.param([created(policy=None), MAKE, put()], ["first_policy"], id="the default policy"),
        pytest.param([created(origin="EXTERNAL"), put()], ["origin"], id="imported material"),
        pytest.param([created(multiRegion=True), put()], ["multi_region"], id="a multi-Region key"),
        pytest.param([created(), MAKE], ["release_missing"], id="not released"),
        pytest.param([created(), put(LAX), put()], ["policy_rewritten"], id="opened and closed again"),
        pytest.param(
            [created(), put(), put(LAX)], ["policy_rewritten", "release_policy"], id="opened afterwards"
        ),
        pytest.param([created(), put("not JSON")], ["release_policy"], id="a policy that is none"),
        pytest.param([created(), put(first_policy(ADMIN))], ["release_policy"], id="the first policy again"),
        pytest.param([created(), event("Encrypt"), put()], ["unexpected_use"], id="a planted seed"),
        pytest.param(
            [created(), event("Decrypt"), put()], ["unexpected_use"], id="opened before the release"
        ),
        pytest.param([created(), put(), event("CreateGrant")], ["unexpected_use"], id="a grant"),
        pytest.param([created(), event("ImportKeyMaterial"), put()], ["unexpected_use"], id="imported later"),
        pytest.param(
            [created(), event("Encrypt", errorCode="AccessDenied"), put()], [], id="refused attempts"
        ),
        pytest.param(
            [
                created(),
                {**event("Encrypt"), "requestParameters": {"keyId": "x"}, "resources": [{"ARN": "y"}]},
                put(),
            ],
            [],
            id="another key",
        ),
    ],
)
def test_audit(records: list[dict[str, Any]], found: list[str]) -> None:
    assert codes(audit(records, key_id=KEY, admin=ADMIN, pcrs=HEX)) == found


def test_audit_before_the_release() -> None:
    assert audit([created(), MAKE], key_id=KEY, admin=ADMIN, pcrs=None) == ()
    assert codes(audit([created(), put()], key_id=KEY, admin=ADMIN, pcrs=None)) == ["policy_rewritten"]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"eventName": 1, "requestParameters": [], "responseElements": None, "resources": {}},
        {"requestParameters": {"keyId": KEY, "policy": 1}, "eventName": "CreateKey"},
        {"resources": ["x", {"ARN": 1}]},
    ],
)
def test_audit_of_records_that_are_none(record: dict[str, Any]) -> None:
    assert codes(audit([record, created(), put()], key_id=KEY, admin=ADMIN, pcrs=HEX)) in (
        [],
        ["creation_missing"],
    )


def test_first_policy_gives_nobody_encryption() -> None:
    (statement,) = json.loads(first_policy(ADMIN))["Statement"]
    assert statement["Principal"] == {"AWS": ADMIN}
    assert set(statement["Action"]) == {
        "kms:DescribeKey",
        "kms:GetKeyPolicy",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:PutKeyPolicy",
    }


def test_release_policy() -> None:
    decrypt, old_age = json.loads(release_policy({"PCR0": "AB" * 48, "pcr2": HEX[2]}, ADMIN))["Statement"]
    assert decrypt["Action"] == "kms:Decrypt"
    assert decrypt["Principal"] == {"AWS": "arn:aws:iam::111122223333:root"}
    assert decrypt["Condition"] == {
        "StringEqualsIgnoreCase": {
            "kms:RecipientAttestation:PCR0": HEX[0],
            "kms:RecipientAttestation:PCR2": HEX[2],
        }
    }
    assert old_age["Principal"] == {"AWS": ADMIN}
    assert "kms:PutKeyPolicy" not in old_age["Action"]
    china = json.loads(release_policy(HEX, ADMIN.replace("arn:aws:", "arn:aws-cn:")))
    assert china["Statement"][0]["Principal"] == {"AWS": "arn:aws-cn:iam::111122223333:root"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda: release_policy({}, ADMIN), "PCR0", id="nothing"),
        pytest.param(lambda: release_policy({1: HEX[1]}, ADMIN), "PCR0", id="no PCR0"),
        pytest.param(lambda: release_policy({0: "00" * 48}, ADMIN), "zero", id="zeros"),
        pytest.param(lambda: release_policy({0: HEX[0], 2: "00" * 48}, ADMIN), "zero", id="a zero besides"),
        pytest.param(lambda: release_policy({0: "xyz"}, ADMIN), "hex", id="no hex"),
        pytest.param(lambda: release_policy({0: HEX[0][:-2]}, ADMIN), "hex", id="a short value"),
        pytest.param(lambda: release_policy({32: HEX[0]}, ADMIN), "PCR", id="PCR32"),
        pytest.param(lambda: release_policy({"PCRx": HEX[0]}, ADMIN), "PCR", id="PCRx"),
        pytest.param(lambda: release_policy(HEX, "ada"), "ARN", id="no ARN"),
        pytest.param(lambda: release_policy(HEX, ADMIN, parents=["*"]), "ARN", id="everyone as parent"),
        pytest.param(lambda: first_policy("*"), "ARN", id="everyone as administrator"),
    ],
)
def test_policies_that_cannot_be(make: Callable[[], str], says: str) -> None:
    with pytest.raises(PoolError) as caught:
        make()
    assert says in str(caught.value)
