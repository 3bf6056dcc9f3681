"""Documents that cannot rot: links lead somewhere, and the README's code is code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    if ".venv" not in path.parts
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        path = page.parent / target.partition("#")[0]
        assert path.exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_parse(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        assert ast.parse(block).body


@pytest.mark.parametrize("name", ["deidentification", "operations", "gateway", "images"])
def test_korean_pages_stand_beside_the_english(name: str) -> None:
    """A section that was added to one page is added to the other."""
    english = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    korean = (ROOT / "docs" / "ko" / f"{name}.md").read_text(encoding="utf-8")
    assert english.count("\n## ") == korean.count("\n## ")
    assert english.count("```") == korean.count("```")
