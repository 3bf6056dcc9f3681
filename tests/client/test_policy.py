"""The policy compiler: shorthands, shared options, and messages that name the line and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.client import policy as module
from geumgo.client.policy import KEYED, PolicySourceError, compile_policy
from geumgo.deid import TECHNIQUES, CompiledPolicy, PolicyError

HEAD = "version: 1\nname: test\n"


def refused(text: str, source: str = "policy.yaml") -> PolicySourceError:
    with pytest.raises(PolicyError) as caught:
        compile_policy(text, source=source)
    assert isinstance(caught.value, PolicySourceError)
    return caught.value


def test_shorthand_and_shared_options():
    short = compile_policy(
        HEAD
        + """
description: ignored by the compiled policy
purpose: p
on_invalid: suppress
fields:
  a: keep
  b: pseudonym
  c: {technique: token, purpose: q, on_invalid: reject}
  memo:
    technique: text
    entities: {RRN: suppress, PHONE: token}
    others: keep
    known_values: {a: mask}
"""
    )
    long = compile_policy(
        HEAD
        + """
unlisted: suppress
fields:
  a: {technique: keep, on_invalid: suppress}
  b: {technique: pseudonym, purpose: p, on_invalid: suppress}
  c: {technique: token, purpose: q, on_invalid: reject}
  memo:
    technique: text
    purpose: p
    on_invalid: suppress
    entities: {RRN: {technique: suppress}, PHONE: {technique: token}}
    others: {technique: keep}
    known_values: {a: {technique: mask}}
"""
    )
    assert short == long
    assert short.purposes == {"p", "q"}
    assert CompiledPolicy.from_bytes(short.to_bytes()) == short


def test_bare_words_stay_text():
    compiled = compile_policy(
        HEAD
        + """
fields:
  no: {technique: replace, with: 010}
  on: {technique: replace, with: yes}
  y: {technique: replace, with: 2026-01-01}
  1: {technique: replace, with: "7"}
  값: {technique: round, to: 0.5}
"""
    )
    assert list(compiled.fields) == ["no", "on", "y", "1", "값"]
    assert [compiled.fields[n].to_map()["with"] for n in ("no", "on", "y", "1")] == [
        "010",
        "yes",
        "2026-01-01",
        "7",
    ]
    assert compiled.fields["값"].to_map()["to"] == "0.5"


BAD = [
    pytest.param("", 1, "empty", "version", id="nothing"),
    pytest.param("- a", 1, "map", "version", id="a list"),
    pytest.param(HEAD + "fields:\n  a: [", 4, "YAML", "indentation", id="no YAML"),
    pytest.param(HEAD + "fields:\n  a: keep\n b: keep", 5, "YAML", "indentation", id="indentation"),
    pytest.param(HEAD + "fields:\n\t a: keep", 4, "YAML", "indentation", id="a tab"),
    pytest.param(HEAD + "fields: &x\n  a: keep", 3, "anchors", "out", id="an anchor"),
    pytest.param(HEAD + "fields:\n  a: *x", 4, "anchors", "out", id="an alias"),
    pytest.param(HEAD + "fields:\n  a: !!python/object:os.system {}", 4, "tags", "out", id="a tag"),
    pytest.param("%YAML 1.1\n---\n" + HEAD, 1, "directives", "out", id="a directive"),
    pytest.param(HEAD + "fields: {a: keep}\n---\n", 4, "YAML", "indentation", id="two documents"),
    pytest.param(HEAD + "fields:\n  a: keep\n  a: mask", 5, "twice", "Keep one", id="a field twice"),
    pytest.param(HEAD + "fields:\n  ? [a]\n  : keep", 4, "name must be text", "", id="a list for a name"),
    pytest.param("name: x\nfields: {a: keep}", 1, "version", "version: 1", id="no version"),
    pytest.param("version: 2\nname: x\nfields: {a: keep}", 1, "version", "version: 1", id="another version"),
    pytest.param(HEAD + "field:\n  a: keep", 3, "'field'", "'fields'", id="field for fields"),
    pytest.param(HEAD + "zzz: 1\nfields: {a: keep}", 3, "'zzz'", "unlisted", id="an unknown name at the top"),
    pytest.param(HEAD + "purpose: 7\nfields: {a: keep}", 3, "text", "quotes", id="a number for a purpose"),
    pytest.param(HEAD + "on_invalid: keep\nfields: {a: keep}", 3, "reject", "", id="an unknown on_invalid"),
    pytest.param(HEAD + "unlisted: drop\nfields: {a: keep}", 3, "drop", "remove", id="an unknown default"),
    pytest.param(HEAD + "fields:", 3, "fields", "fields", id="no fields"),
    pytest.param(HEAD + "fields:\n  a: kepp", 4, "kepp", "'keep'", id="a misspelt technique"),
    pytest.param(HEAD + "fields:\n  a:", 4, "map", "technique", id="no rule"),
    pytest.param(HEAD + "fields:\n  a: hash", 4, "not offered", "pseudonym", id="a plain hash"),
    pytest.param(
        HEAD + "fields:\n  a:\n    technique: mask\n    keep_lst: 4", 6, "keep_lst", "'keep_last'", id="an option"
    ),
    pytest.param(
        HEAD + "fields:\n  a: keep\n  pin:\n    technique: token\n    purpose: p\n    min_length: 4",
        8, "10000 values", "min_length 6", id="a small domain",
    ),
    pytest.param(HEAD + "fields:\n  a: token", 4, "purpose", "purpose: ", id="no purpose"),
    pytest.param(
        HEAD + "fields:\n  m:\n    technique: text\n    entities:\n      RRN: mask\n      PHON: mask",
        8, "PHON", "'PHONE'", id="an unknown entity",
    ),
    pytest.param(
        HEAD + "fields:\n  b: {technique: generalise, as: age}", 4, "age", "reference_date", id="no reference date"
    ),
    pytest.param(
        HEAD + "fields:\n  amount:\n    technique: generalise\n    as: amount\n    bounds: [1, 2,\n      2]",
        7, "above", "", id="bounds",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "what", "fix"), BAD)
def test_messages_name_the_line_and_the_fix(text, line, what, fix):
    error = refused(text, source="my.yaml")
    assert (error.source, error.line) == ("my.yaml", line)
    assert str(error).startswith(f"my.yaml:{line}: ")
    assert error.what == str(error)
    assert what in error.what
    assert fix in error.fix
    assert error.code == "bad_policy"
    assert error.diagnostics().startswith(f"my.yaml:{line}: ")


def test_a_message_for_a_person():
    error = refused(HEAD + "fields:\n  pin: {technique: token, purpose: p, min_length: 4}", "examples/p.yaml")
    assert error.diagnostics().splitlines() == [
        "examples/p.yaml:4: fields.pin.min_length: 4 symbols of 'digits' have only 10000 values [bad_policy]",
        "Format-preserving encryption needs 1000000 or more (NIST SP 800-38G): a smaller set can be tried out.",
        "Use min_length 6 or more (kept characters don't count), or another technique, such as pseudonym.",
    ]


def test_size_depth_and_number_are_capped():
    assert "limit" in refused("# " + "x" * (600 << 10)).what
    assert "deeper" in refused("[" * 40).what
    assert "values" in refused(HEAD + "fields: [" + "a, " * 60_000 + "a]").what


def line_of_error(source: str) -> int:
    """Return the line that a refusal names, 1 where there is none."""
    try:
        compile_policy(source)
    except PolicySourceError as error:
        return error.line
    return 1


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_compiled_or_refused(text):
    for source in (
        text,
        HEAD + "fields:\n  a: " + text,
        HEAD + "fields: {a: {technique: mask, with: " + text + "}}",
    ):
        lines = source.count("\n") + source.count("\r") + source.count("\x85") + 3
        assert 1 <= line_of_error(source) <= lines


SAMPLE = (Path(__file__).parents[2] / "examples" / "deid" / "policy.yaml").read_text(encoding="utf-8")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(SAMPLE) - 1), st.sampled_from(list("{}[]:,-*&!|>'\"#%@` \n\t0~\ud800\x00")))
def test_any_typing_error_is_compiled_or_refused(at, char):
    assert line_of_error(SAMPLE[:at] + char + SAMPLE[at + 1 :]) >= 1


def test_the_example_compiles():
    compiled = compile_policy(SAMPLE)
    assert compiled.keeps == {"id"}
    assert compiled.purposes == {"customers"}
    assert compiled.unlisted == "suppress"
    assert compiled.encrypted_fields == frozenset()
    assert compiled.reversible
    assert compiled.deterministic


def test_keyed_techniques_are_techniques():
    assert KEYED < TECHNIQUES


@pytest.mark.parametrize("technique", sorted(KEYED))
def test_the_shared_purpose_goes_to_keyed_techniques_only(technique):
    by = f"{{technique: {technique}, by: b}}" if technique == "date_shift" else technique
    compiled = compile_policy(HEAD + f"purpose: p\nfields: {{a: {by}, b: keep, c: {{technique: mask}}}}")
    assert {name: field.purpose for name, field in compiled.fields.items()} == {
        "a": "p",
        "b": None,
        "c": None,
    }


def test_exports():
    assert list(module.__all__) == ["KEYED", "PolicySourceError", "compile_policy"]
