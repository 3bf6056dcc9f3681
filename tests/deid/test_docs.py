"""The reference pages: their policies compile, and both languages name everything there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from geumgo.client.policy import compile_policy
from geumgo.deid import ENTITIES, TECHNIQUES, PolicyError, detect

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    name: (DOCS / name).read_text(encoding="utf-8")
    for name in ("deidentification.md", "ko/deidentification.md")
}
SPEC = (DOCS / "spec" / "compiled-policy.md").read_text(encoding="utf-8")


def options() -> set[str]:
    """Return every option and choice that the rules ask for, read from their source."""
    import geumgo.deid._policy
    import geumgo.deid._rules

    found: set[str] = set()
    for module in (geumgo.deid._rules, geumgo.deid._policy):
        source = Path(module.__file__ or "").read_text(encoding="utf-8")
        found |= set(
            re.findall(r'options\.(?:text|choice|integer|decimal|flag|day|take)\(\s*"(\w+)"', source)
        )
        for choices in re.findall(r'options\.choice\(\s*"\w+",\s*\(([^)]*)\)', source):
            found |= set(re.findall(r'"(\w+)"', choices))
    return found


def test_options_are_found_in_the_source():
    assert {"keep_first", "min_score", "unlisted", "laplace", "sigungu", "scope"} <= options()


@pytest.mark.parametrize("name", PAGES)
def test_every_technique_entity_and_option_is_named(name):
    page = PAGES[name]
    blocks = " ".join(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    inline = " ".join(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL)))
    words = set(re.findall(r"\w+", blocks + " " + inline))
    for technique in TECHNIQUES:
        assert f"[{technique}](#" in page
    assert set(ENTITIES) <= words
    missing = options() - words - {"entities", "others", "known_values", "fields"}
    assert missing == set()


def test_the_specification_names_every_option():
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", SPEC))))
    words |= set(re.findall(r'"(\w+)"', SPEC))
    assert options() - words == set()


@pytest.mark.parametrize("name", PAGES)
def test_policies_in_the_pages_compile(name):
    blocks = re.findall(r"```yaml\n(.*?)```", PAGES[name], re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        if not block.startswith("version"):
            block = "version: 1\nname: x\npurpose: p\nfields:\n  name: keep\n" + re.sub(
                "^", "  ", block, flags=re.M
            )
        compile_policy(block)


@pytest.mark.parametrize("name", PAGES)
def test_the_message_in_the_pages_is_the_real_one(name):
    (shown,) = re.findall(r"```\n(policy\.yaml:8:.*?)```", PAGES[name], re.DOTALL)
    source = (
        "version: 1\nname: x\npurpose: p\n\n\nfields:\n  id: keep\n  pin: {technique: token, min_length: 4}\n"
    )
    with pytest.raises(PolicyError) as caught:
        compile_policy(source)
    assert caught.value.diagnostics() == shown.strip()


def test_both_pages_show_the_same_scores_and_headings():
    def scores(page: str) -> list[str]:
        return list(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))

    english, korean = PAGES.values()
    assert scores(english) == scores(korean) == list(dict.fromkeys(scores(english)))
    assert set(scores(english)) == set(ENTITIES)
    assert re.findall(r'<a name="(\w+)">', english) == re.findall(r'<a name="(\w+)">', korean)


@pytest.mark.parametrize(
    ("text", "score"),
    [("900101-1234568", 0.95), ("9001011234568", 0.85), ("960101-1234567", 0.55), ("120-81-47521", 0.9)],
)
def test_scores_of_the_table(text, score):
    assert [f.score for f in detect(text, min_score=0.1)] == [score]
    assert all(str(score) in page for page in PAGES.values())
