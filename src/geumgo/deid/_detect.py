"""Finds identifiers in text, in linear time.

Digits are looked at as groups: every maximal run of digits is a group, and a number is one to five
groups with short separators between them. The lengths of the groups (their shape) say which
identifiers they can be; a rule then looks at the digits and scores them. A group is maximal by
construction, so nothing depends on word boundaries, which fail before Hangul particles. What isn't
made of digits alone has bounded patterns of its own, in `_mixed` (passport, plate) and `_words`.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import NamedTuple

from geumgo.deid._context import context_of
from geumgo.deid._entities import PRIORITY
from geumgo.deid._errors import InputError
from geumgo.deid._fold import fold_visible
from geumgo.deid._limits import MAX_TEXT_CHARS
from geumgo.deid._mixed import find_mixed
from geumgo.deid._numbers import CERTAIN, MAX_GROUPS, SHAPES, Hit, Shape, Window
from geumgo.deid._words import find_words

__all__ = ("DEFAULT_MIN_SCORE", "Finding", "detect", "resolve")

DEFAULT_MIN_SCORE = 0.5

_CHAIN = re.compile(r"[0-9]+(?:[-. ()]{1,3}[0-9]+)*")
"""Groups of digits with up to three marks between them."""

_MARKS = re.compile(r"([-. ()]+)")

_LEAST = 6
"""Shortest chain, separators included, that holds one of our numbers: a birth date, 960101."""


_START = itemgetter(1)


class Finding(NamedTuple):
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
    folded, offsets = fold_visible(text)
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


def _find_numbers(text: str) -> list[Hit]:
    found: list[Hit] = []
    for match in _CHAIN.finditer(text):
        start, end = match.span()
        if end - start >= _LEAST:
            _look_at_chain(text, start, match[0], found)
            continue
        # Too short for a number, but its last group may begin a plate or a passport: "3 12가3456".
        last = len(_MARKS.split(match[0])[-1]) if end - start > 3 else end - start
        if last in (2, 3) and (hit := find_mixed(text, end - last, end)) is not None:
            found.append(hit)
    return found


def _look_at_chain(text: str, start: int, chain: str, found: list[Hit]) -> None:
    parts = _MARKS.split(chain)
    groups, marks = parts[0::2], parts[1::2]
    lengths = tuple(map(len, groups))
    count = len(groups)
    # Most chains are one number: when the whole is certain, there is nothing else to look for.
    shape = SHAPES.get(lengths)
    if shape is not None and _apply(
        shape, Window(text, start, start + len(chain), groups, lengths, marks), found
    ):
        return
    begin = start
    for first in range(count):
        end = begin
        for last in range(first, min(first + MAX_GROUPS, count)):
            end += lengths[last] + (len(marks[last - 1]) if last > first else 0)
            shape = SHAPES.get(lengths[first : last + 1])
            if shape is not None and last - first + 1 < count:
                window = Window(
                    text, begin, end, groups[first : last + 1], lengths[first : last + 1], marks[first:last]
                )
                _apply(shape, window, found)
        if (
            lengths[first] in (2, 3, 8)
            and (hit := find_mixed(text, begin, begin + lengths[first])) is not None
        ):
            found.append(hit)
        begin += lengths[first] + (len(marks[first]) if first + 1 < count else 0)


def _apply(shape: Shape, window: Window, found: list[Hit]) -> bool:
    """Add what the rules of a shape find in a window; return whether one of them is certain."""
    best = 0.0
    for rule in shape.rules:
        hit = rule(window)
        if hit is not None:
            found.append(hit)
            best = max(best, hit[3])
    if best >= CERTAIN:
        return True
    for rule in shape.weak:
        hit = rule(window)
        if hit is not None:
            found.append(hit)
    return False


def resolve(findings: list[Finding]) -> list[Finding]:
    """Return findings without overlaps, by start; nothing that was found stays uncovered.

    Overlapping findings form a cluster. Its best finding (score, then length, then the order of
    `ENTITIES`, then start) names it, and the cluster's whole extent is its span.
    """
    if len(findings) < 2:
        return findings
    ordered = sorted(findings, key=_START)
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
