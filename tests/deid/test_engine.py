"""The engine: columns, rejected records, reversal, keys and randomness passed in."""

from __future__ import annotations

import ast
import builtins
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo import deid
from geumgo.deid import CompiledPolicy, Engine, InputError, Rejection
from geumgo.deid._limits import MAX_COLUMNS, MAX_TEXT_CHARS, MAX_VALUE_CHARS

KEEP, MASK = {"technique": "keep"}, {"technique": "mask"}
DATE = {"technique": "generalise", "as": "date", "to": "year"}


def test_columns_come_out_in_the_order_they_came_in(engine):
    made = engine({"a": KEEP, "b": MASK, "c": {"technique": "remove"}})
    result = made.deidentify(["b", "c", "a"], [["1", "2", "3"]])
    assert result.columns == ["b", "a"]
    assert result.rows == [["*", "3"]]
    assert result.rejected == []


@pytest.mark.parametrize(
    ("unlisted", "columns", "rows"),
    [("suppress", ["a", "x"], [["1", None]]), ("remove", ["a"], [["1"]]), ("keep", ["a", "x"], [["1", "2"]])],
)
def test_unlisted_columns(engine, unlisted, columns, rows):
    result = engine({"a": KEEP}, unlisted=unlisted).deidentify(["a", "x"], [["1", "2"]])
    assert (result.columns, result.rows) == (columns, rows)


def test_unlisted_columns_can_be_refused(engine):
    with pytest.raises(InputError, match="'x'"):
        engine({"a": KEEP}, unlisted="refuse").deidentify(["a", "x"], [])


def test_missing_columns(engine):
    made = engine({"a": KEEP, "b": MASK})
    assert made.deidentify(["b"], [["1"]]).rows == [["*"]]
    with pytest.raises(InputError, match="'b' is missing"):
        engine({"a": KEEP, "b": MASK | {"required": True}}).deidentify(["a"], [])
    with pytest.raises(InputError, match="'b' is missing") as caught:
        engine({"b": MASK}, unlisted="keep").deidentify(["B"], [["would pass in clear"]])
    assert "misspelt" in caught.value.why
    shift = {"technique": "date_shift", "by": "id", "purpose": "p"}
    with pytest.raises(InputError, match="'id'"):
        engine({"id": KEEP, "d": shift}).deidentify(["d"], [])


@pytest.mark.parametrize(
    "columns",
    [[], ["a", "a"], ["x" * 200], [f"c{n}" for n in range(MAX_COLUMNS + 1)]],
    ids=["no", "two", "long", "many"],
)
def test_bad_columns(engine, columns):
    for work in (engine({"a": KEEP}).deidentify, engine({"a": KEEP}).reidentify):
        with pytest.raises(InputError) as caught:
            work(columns, [])
        assert caught.value.code == "invalid_request"


def test_too_many_rows(engine, monkeypatch):
    monkeypatch.setattr("geumgo.deid._engine.MAX_ROWS", 2)
    assert len(engine({"a": KEEP}).deidentify(["a"], [["1"]] * 2).rows) == 2
    with pytest.raises(InputError) as caught:
        engine({"a": KEEP}).deidentify(["a"], [["1"]] * 3)
    assert caught.value.code == "too_large"


def test_no_rows(engine):
    result = engine({"a": MASK}).deidentify(["a"], [])
    assert (result.columns, result.rows, result.rejected) == (["a"], [], [])


def test_bad_records_are_left_out_and_named(engine):
    made = engine({"a": DATE, "b": DATE | {"on_invalid": "suppress"}, "c": KEEP})
    rows = [
        ["2026-01-01", "2026-01-01", "0"],
        ["secret-1", "2026-01-01", "1"],
        ["2026-01-01", "secret-2", "2"],
        ["2026-01-01", "2026-01-01"],
        ["2026-01-01", "2026-01-01", 5],
        ["secret-3", "secret-4", "5"],
    ]
    result = made.deidentify(["a", "b", "c"], rows)
    assert result.rows == [["2026", "2026", "0"], ["2026", None, "2"]]
    assert result.rejected == [
        Rejection(1, "a", "not_a_date"),
        Rejection(3, "", "wrong_width"),
        Rejection(4, "c", "not_text"),
        Rejection(5, "a", "not_a_date"),
    ]
    assert "secret" not in repr(result.rejected)


def test_values_that_are_too_long(engine):
    made = engine({"a": MASK, "t": {"technique": "text"}})
    result = made.deidentify(
        ["a", "t"], [["x" * (MAX_VALUE_CHARS + 1), ""], ["", "x" * (MAX_TEXT_CHARS + 1)]]
    )
    assert [(r.row, r.field, r.code) for r in result.rejected] == [(0, "a", "too_long"), (1, "t", "too_long")]


def test_errors_and_reprs_hold_no_values(engine):
    made = engine({"a": {"technique": "token", "purpose": "p"}})
    assert repr(made) == "<Engine test: 1 fields, 1 reversible>"
    (rejection,) = made.deidentify(["a"], [["홍길동"]]).rejected
    assert "홍길동" not in repr(rejection)


# Reversal

FIELDS = {
    "id": KEEP,
    "token": {"technique": "token", "purpose": "p", "keep_first": 3},
    "code": {"technique": "token", "purpose": "p", "alphabet": "alphanumeric"},
    "random": {"technique": "encrypt", "purpose": "p"},
    "same": {"technique": "encrypt", "purpose": "q", "mode": "deterministic"},
    "mask": MASK,
}
digits = st.text("0123456789", min_size=9, max_size=20)
words = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20)
record = st.tuples(words, digits, st.text("abXY019", min_size=4, max_size=12), words, words, words).map(list)


@settings(max_examples=60, deadline=None)
@given(st.lists(record, max_size=8))
def test_reversible_fields_come_back_and_others_pass(rows):
    made = Engine(
        CompiledPolicy.from_map({"version": 1, "name": "x", "fields": FIELDS}),
        lambda purpose, use: hashlib.sha256(f"{purpose}/{use}".encode()).digest(),
        random=os.urandom,
    )
    columns = list(FIELDS)
    hidden = made.deidentify(columns, rows)
    assert hidden.rejected == []
    shown = made.reidentify(hidden.columns, hidden.rows)
    assert shown.rejected == []
    assert shown.columns == columns
    for before, middle, after in zip(rows, hidden.rows, shown.rows, strict=True):
        assert after[:5] == before[:5]
        assert after[5] == middle[5]
        assert middle[1] != before[1] or len(before[1]) < 9


def test_reidentify_passes_columns_that_it_does_not_know(engine):
    result = engine(FIELDS).reidentify(["other", "id"], [["a", "b"], [None, ""]])
    assert result.rows == [["a", "b"], [None, ""]]


def test_what_does_not_open_is_always_reported(engine):
    rule = {"technique": "encrypt", "purpose": "p", "on_invalid": "suppress"}
    result = engine({"a": rule}).reidentify(["a"], [["g1r.nonsense"], [None], ["plain"]])
    assert result.rows == [[None]]
    assert [(r.row, r.code) for r in result.rejected] == [(0, "does_not_open"), (2, "does_not_open")]


def test_another_purpose_does_not_open(engine):
    hidden = engine({"a": {"technique": "encrypt", "purpose": "p"}}).deidentify(["a"], [["홍길동"]])
    other = engine({"a": {"technique": "encrypt", "purpose": "q"}}).reidentify(["a"], hidden.rows)
    assert [r.code for r in other.rejected] == ["does_not_open"]


# Keys, threads, purity


def test_each_key_is_asked_for_once_and_only_where_needed(policy, keys, random):
    Engine(policy({"a": MASK, "t": {"technique": "text"}}), keys, random=random)
    assert keys.asked == []
    made = Engine(policy(FIELDS | {"again": FIELDS["token"]}), keys, random=random)
    assert sorted(keys.asked) == [("p", "encrypt"), ("p", "token"), ("q", "encrypt")]
    made.deidentify(["id"], [["1"]])
    assert len(keys.asked) == 3


def test_what_the_keys_raise_passes_through(policy, random):
    class NoKeyError(Exception):
        pass

    def refuse(purpose: str, use: str) -> bytes:
        raise NoKeyError(purpose)

    with pytest.raises(NoKeyError):
        Engine(policy(FIELDS), refuse, random=random)


def test_keyed_results_are_the_same_in_any_batch(engine):
    fields = {"a": FIELDS["token"], "b": {"technique": "pseudonym", "purpose": "p"}}
    rows = [[f"{n:011d}", f"name {n}"] for n in range(50)]
    whole = engine(fields).deidentify(["a", "b"], rows).rows
    one_by_one = [engine(fields).deidentify(["a", "b"], [row]).rows[0] for row in rows[:5]]
    made = engine(fields)
    pieces = [row for i in range(0, 50, 7) for row in made.deidentify(["a", "b"], rows[i : i + 7]).rows]
    assert whole == pieces
    assert whole[:5] == one_by_one


def test_input_is_not_changed(engine):
    rows = [["01012345678", "a", "홍길동", "x", "y", "z"]]
    engine(FIELDS).deidentify(list(FIELDS), rows)
    assert rows == [["01012345678", "a", "홍길동", "x", "y", "z"]]


def test_threads_may_share_an_engine(engine):
    fields = {
        "a": FIELDS["token"],
        "t": {"technique": "text", "others": {"technique": "token"}, "purpose": "p"},
    }
    made = engine(fields)
    rows = [[f"{n:011d}", f"전화 010-1234-{n:04d}"] for n in range(200)]
    expected = made.deidentify(["a", "t"], rows).rows
    wrong: list[int] = []

    def work() -> None:
        for _ in range(3):
            if made.deidentify(["a", "t"], rows).rows != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_engine_opens_nothing_and_reads_no_clock(demo_policy, keys, random, customers, monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the engine is pure")

    made = Engine(demo_policy, keys, random=random)
    header, rows = customers
    made.deidentify(header, rows[:50])
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr("socket.socket", refuse)
    monkeypatch.setattr("time.time", refuse)
    monkeypatch.setattr("os.urandom", refuse)
    assert len(made.deidentify(header, rows[:50]).rows) == 50


ALLOWED = {"geumgo._base", "geumgo.codec", "geumgo.deid", "cryptography", "cbor2", "msgspec"}


def test_imports_are_those_that_an_enclave_has():
    folder = Path(deid.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or any(name.startswith(a) for a in ALLOWED), (
                    file.name,
                    name,
                )


def test_nothing_of_yaml_is_loaded():
    code = "import geumgo.deid, sys; print([m for m in ('yaml', 'httpx2', 'grpc', 'pydantic') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_exports_are_sorted_and_exist():
    constants = [n for n in deid.__all__ if n.isupper()]
    classes = [n for n in deid.__all__ if n[0].isupper() and not n.isupper()]
    functions = [n for n in deid.__all__ if n.islower()]
    assert list(deid.__all__) == sorted(constants) + sorted(classes) + sorted(functions)
    assert all(hasattr(deid, name) for name in deid.__all__)
