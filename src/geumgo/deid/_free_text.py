"""Free text: identifiers are found, and each is replaced by its entity's technique."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from geumgo.deid._detect import Finding, detect, resolve
from geumgo.deid._errors import BadValue
from geumgo.deid._limits import MAX_TEXT_CHARS
from geumgo.deid._policy import Text
from geumgo.deid._rules import Replace, Rule

__all__ = ("FreeText",)

Cell = Callable[[str], str | None]

_MIN_KNOWN = 2
"""Shortest value of another field that is searched for: a single character is in every text."""


class FreeText:
    """Replaces what is found in a text.

    Args:
        rule: the policy's rule.
        compile_rule: makes the function of one rule.
    """

    def __init__(self, rule: Text, compile_rule: Callable[[Rule], Cell]) -> None:
        self._min_score = float(rule.min_score)
        self._others = rule.others
        self._compile = compile_rule
        self._cells: dict[str, Cell] = {
            name: _named(one, name, compile_rule) for name, one in rule.entities.items()
        }
        self._known: dict[str, Cell] = {
            f"={name}": _named(one, name, compile_rule) for name, one in rule.known_values.items()
        }
        self.known_fields = tuple(rule.known_values)

    def replace(self, text: str, known: Mapping[str, str | None]) -> str:
        """Return the text with every identifier, and every value in `known`, replaced.

        A value that its technique can't take (a mistyped number) is replaced by `[ENTITY]`.
        """
        if len(text) > MAX_TEXT_CHARS:
            raise BadValue("too_long")
        findings = detect(text, min_score=self._min_score)
        if self.known_fields:
            extra = self._find_known(text, known)
            if extra:
                findings = resolve(findings + extra)
        if not findings:
            return text
        pieces: list[str] = []
        at = 0
        for finding in findings:
            pieces.append(text[at : finding.start])
            pieces.append(self._replacement(finding.entity, text[finding.start : finding.end]))
            at = finding.end
        pieces.append(text[at:])
        return "".join(pieces)

    def _find_known(self, text: str, known: Mapping[str, str | None]) -> list[Finding]:
        found: list[Finding] = []
        for name in self.known_fields:
            value = (known.get(name) or "").strip()
            if len(value) < _MIN_KNOWN:
                continue
            at = text.find(value)
            while at >= 0:
                found.append(Finding(f"={name}", at, at + len(value), 1.0))
                at = text.find(value, at + len(value))
        return found

    def _replacement(self, entity: str, value: str) -> str:
        cell = self._known.get(entity) or self._cells.get(entity)
        if cell is None:
            cell = self._cells[entity] = _named(self._others, entity, self._compile)
        try:
            return cell(value) or ""
        except BadValue:
            return f"[{entity.removeprefix('=')}]"


def _named(rule: Rule, entity: str, compile_rule: Callable[[Rule], Cell]) -> Cell:
    if isinstance(rule, Replace) and rule.with_ is not None:
        fixed = rule.with_.replace("{entity}", entity)
        return lambda value: fixed
    return compile_rule(rule)
