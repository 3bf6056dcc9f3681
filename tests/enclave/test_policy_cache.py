"""Operations in threads share the cache of policies."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from geumgo.client.policy import compile_policy
from geumgo.enclave._errors import Refused
from geumgo.enclave.context import PolicyCache


def policy(number: int) -> bytes:
    return compile_policy(f"version: 1\nname: p{number}\nfields:\n  a: keep\n").to_bytes()


def test_threads_that_push_each_others_policies_out():
    """Between a look-up and its move to the end another thread may have dropped the entry: once a KeyError."""
    cache = PolicyCache(2)
    policies = [(hashlib.sha256(data).digest(), data) for data in map(policy, range(6))]

    def work(turn: int) -> str:
        digest, data = policies[turn % len(policies)]
        parsed = cache.parse(digest, data)
        cache.engine(digest, parsed, lambda purpose, use: bytes(32)).deidentify(["a"], [["x"]])
        return parsed.name

    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(work, range(2_000)))
    assert names == [f"p{turn % 6}" for turn in range(2_000)]


def test_what_is_no_policy_is_not_kept():
    cache = PolicyCache(2)
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            cache.parse(b"d" * 32, b"garbage")
        assert caught.value.code == "bad_policy"
