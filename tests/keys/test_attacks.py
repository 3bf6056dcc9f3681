"""Configurations that give away more than a reviewer sees: the same key by another name, the pool's own contexts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from geumgo.keys import ConfigurationError, MeasuredConfiguration

ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:ap-northeast-2:111122223333:key/{ID}"
OTHER = "arn:aws:kms:ap-northeast-2:111122223333:key/99999999-12ab-34cd-56ef-1234567890ab"


def configuration(*, grant: Any = None, pool_key: str = ARN, purpose_key: str = ARN) -> MeasuredConfiguration:
    def wrapped(key_id: str, purpose: str) -> dict[str, Any]:
        return {
            "key_id": key_id,
            "ciphertext": base64.b64encode(b"wrapped").decode(),
            "context": {"geumgo:pool": "demo", "geumgo:purpose": purpose},
        }

    content = {
        "version": 1,
        "pool": "demo",
        "operations": {"decrypt": {"callers": ["crm"]}},
        "callers": {
            "crm": {
                "public_key": base64.b64encode(b"k" * 32).decode(),
                "keys": [grant or {"key_id": OTHER, "context": {"app": "crm"}}],
            }
        },
        "kms": {"endpoint": "https://localhost:8443", "region": "ap-northeast-2"},
        "pool_key": wrapped(pool_key, "seed"),
        "purposes": {"customers": wrapped(purpose_key, "customers")},
        "egress": ["localhost:8443"],
    }
    return MeasuredConfiguration.from_json(json.dumps(content).encode())


def test_the_honest_one_is_accepted() -> None:
    assert configuration().callers["crm"].keys[0].key_id == OTHER


@pytest.mark.parametrize(
    "name",
    [
        ID,
        f"key/{ID}",
        "alias/pool",
        "arn:aws:kms:ap-northeast-2:111122223333:alias/pool",
        f"arn:aws:kms:us-east-1:111122223333:key/{ID}",
        ARN + "\u200b",
        ARN.upper(),
        f" {ARN}",
    ],
)
def test_the_pools_key_cannot_be_granted_by_another_name(name: str) -> None:
    with pytest.raises(ConfigurationError):
        configuration(grant={"key_id": name, "context": {"app": "crm"}})


@pytest.mark.parametrize("which", ["pool_key", "purpose_key"])
@pytest.mark.parametrize("name", [ID, "alias/pool", "arn:aws:kms:ap-northeast-2:111122223333:alias/pool"])
def test_wrapped_keys_lie_under_an_arn(which: str, name: str) -> None:
    """Anything shorter is resolved in whatever account the parent's credentials belong to."""
    with pytest.raises(ConfigurationError, match="ARN"):
        configuration(**{which: name})


@pytest.mark.parametrize("name", ["geumgo:pool", "geumgo:purpose", "Geumgo:Pool", "geumgo:anything"])
def test_a_callers_context_is_none_of_the_pools_own(name: str) -> None:
    with pytest.raises(ConfigurationError, match="geumgo:"):
        configuration(grant={"key_id": OTHER, "context": {name: "demo"}})
