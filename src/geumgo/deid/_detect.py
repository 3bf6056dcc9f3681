"""Finds identifiers in text, in linear time.

Digits are looked at as groups: every maximal run of digits is a group, and a number is one to five
groups with short separators between them. The lengths of the groups (their shape) say which
identifiers the window can be; a rule then looks at the digits and scores them. A group is maximal by
construction, so nothing depends on word boundaries, which fail before Hangul particles. What isn't
made of digits (e-mail, passport, plate, address, IPv6) has bounded patterns of its own in `_words`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from geumgo.deid._context import context_of
from geumgo.deid._entities import PRIORITY
from geumgo.deid._errors import InputError
from geumgo.deid._fold import fold, strip_invisible
from geumgo.deid._limits import MAX_TEXT_CHARS
from geumgo.deid._numbers import MAX_GROUPS, SHAPES, Window
from geumgo.deid._words import find_words

__all__ = ("DEFAULT_MIN_SCORE", "Finding", "detect", "resolve")

DEFAULT_MIN_SCORE = 0.5

_GROUP = re.compile(r"[0-9]+")
_SEPARATOR = re.compile(r"[-. ()]{1,3}")
_MAX_GROUP = 19
"""Digits of the longest identifier; a longer run is none of ours."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An identifier in a text.

    Attributes:
        entity: one of `ENTITIES`.
        start: offset of the first character.
        end: offset after the last character.
        score: how sure the detector is, 0 … 1.
    """

    entity: str
    start: int
    end: int
    score: float


def detect(text: str, *, min_score: float = DEFAULT_MIN_SCORE) -> list[Finding]:
    """Return the identifiers in `text`, by start, without overlaps.

    Raises:
        InputError: the text has more than MAX_TEXT_CHARS characters.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise InputError(
            f"a text of {len(text)} characters is over the limit of {MAX_TEXT_CHARS}", code="too_large"
        )
    visible, offsets = strip_invisible(text)
    folded = fold(visible)
    found = _find_numbers(folded)
    found += find_words(folded)
    if not found:
        return []
    candidates = [
        Finding(entity, start, end, score)
        for entity, start, end, base in found
        if (score := context_of(folded, entity, start, end, base)) >= min_score
    ]
    findings = resolve(candidates)
    if offsets is None:
        return findings
    return [Finding(f.entity, offsets[f.start], offsets[f.end - 1] + 1, f.score) for f in findings]


def _find_numbers(text: str) -> list[tuple[str, int, int, float]]:
    groups = [match.span() for match in _GROUP.finditer(text)]
    found: list[tuple[str, int, int, float]] = []
    count = len(groups)
    for first in range(count):
        start, end = groups[first]
        lengths: tuple[int, ...] = ()
        separators: tuple[str, ...] = ()
        for last in range(first, min(first + MAX_GROUPS, count)):
            begin, stop = groups[last]
            if last > first:
                between = text[end:begin]
                if len(between) > 3 or _SEPARATOR.fullmatch(between) is None:
                    break
                separators += (between,)
            if stop - begin > _MAX_GROUP:
                break
            end = stop
            lengths += (stop - begin,)
            rules = SHAPES.get(lengths)
            if rules is None:
                continue
            window = Window(text, start, end, lengths, separators)
            for rule in rules:
                hit = rule(window)
                if hit is not None:
                    found.append(hit)
    return found


def resolve(findings: list[Finding]) -> list[Finding]:
    """Return findings without overlaps, by start; nothing that was found stays uncovered.

    Overlapping findings form a cluster. Its best finding (score, then length, then the order of
    `ENTITIES`, then start) names it, and the cluster's whole extent is its span.
    """
    if len(findings) < 2:
        return findings
    ordered = sorted(findings, key=lambda f: (f.start, f.end, PRIORITY.get(f.entity, -1)))
    out: list[Finding] = []
    cluster = [ordered[0]]
    end = ordered[0].end
    for finding in ordered[1:]:
        if finding.start < end:
            cluster.append(finding)
            end = max(end, finding.end)
            continue
        out.append(_best(cluster, end))
        cluster, end = [finding], finding.end
    out.append(_best(cluster, end))
    return out


def _best(cluster: list[Finding], end: int) -> Finding:
    if len(cluster) == 1:
        return cluster[0]
    best = min(cluster, key=lambda f: (-f.score, f.start - f.end, PRIORITY.get(f.entity, -1), f.start))
    return Finding(best.entity, cluster[0].start, end, best.score)
