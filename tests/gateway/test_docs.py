"""The pages say what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from geumgo.api import ApiSettings
from geumgo.gateway import GatewaySettings
from geumgo.gateway._member import MemberState

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (DOCS / "gateway.md", DOCS / "ko" / "gateway.md")


@pytest.mark.parametrize("page", PAGES, ids=("en", "ko"))
def test_every_setting_is_on_the_page_with_its_default(page: Path) -> None:
    shown = dict(
        re.findall(r"^\| `(GEUMGO_\w+)` \| (\S+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    )
    real = {
        prefix + field.name.upper(): str(field.default).lower()
        for prefix, kind in (("GEUMGO_GATEWAY_", GatewaySettings), ("GEUMGO_API_", ApiSettings))
        for field in fields(kind)
    }
    assert shown == real


@pytest.mark.parametrize("page", PAGES, ids=("en", "ko"))
def test_every_state_and_anchor_is_on_the_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for state in MemberState:
        assert state is MemberState.GONE or f"| `{state.value}` |" in text
    for anchor in re.findall(r"\]\(#(\w+)\)", text):
        assert f'<a name="{anchor}"></a>' in text
    for link in re.findall(r"\]\(([^#)]+)\)", text):
        assert (page.parent / link).exists(), link
