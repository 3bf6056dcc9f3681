"""Amounts: reading them, rounding, ranges, noise, top and bottom coding."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from itertools import pairwise

from geumgo.deid._errors import BadValue
from geumgo.deid._fold import fold
from geumgo.deid._limits import MAX_NUMBER_CHARS
from geumgo.deid._rules import GeneraliseAmount, Noise, Round, TopBottom

__all__ = (
    "Randomness",
    "generalise_amount",
    "noise",
    "parse_amount",
    "round_controlled",
    "rounder",
    "show",
    "top_bottom",
)

Randomness = Callable[[int], bytes]
"""Returns that many random bytes."""

_AMOUNT = re.compile(r"(?:[₩$\\] ?)?([+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)(?: ?원)?")

_CONTEXT = Context(prec=80)
"""Exact for sums and products of numbers of MAX_NUMBER_CHARS."""

_MODES = {"plain": ROUND_HALF_UP, "down": ROUND_FLOOR, "up": ROUND_CEILING}


def parse_amount(value: str) -> Decimal:
    """Return the number that `value` writes: `1,234,000`, `₩1234`, `1234원`, `-3.5`."""
    text = fold(value).strip()
    if len(text) > MAX_NUMBER_CHARS:
        raise BadValue("not_a_number")
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise BadValue("not_a_number")
    return Decimal(match[1].replace(",", ""))


def show(number: Decimal) -> str:
    """Return a number without exponent, trailing zeros or a minus before zero."""
    if number == number.to_integral_value():
        return str(int(number))
    return f"{number.normalize(_CONTEXT):f}"


def _units(number: Decimal, unit: Decimal, rounding: str) -> int:
    return int(_CONTEXT.divide(number, unit).to_integral_value(rounding=rounding))


def _times(units: int, unit: Decimal) -> Decimal:
    return _CONTEXT.multiply(Decimal(units), unit)


def generalise_amount(rule: GeneraliseAmount) -> Callable[[str], str]:
    """Return the technique that writes the range an amount lies in: lower bound in, upper bound out."""
    if rule.width is None:
        bounds = rule.bounds
        labels = [f"[{show(low)},{show(high)})" for low, high in pairwise(bounds)]
        below, above = f"<{show(bounds[0])}", f">={show(bounds[-1])}"

        def by_bounds(value: str) -> str:
            number = parse_amount(value)
            if number < bounds[0]:
                return below
            for high, label in zip(bounds[1:], labels, strict=True):
                if number < high:
                    return label
            return above

        return by_bounds
    width, bottom, top = rule.width, rule.bottom, rule.top

    def by_width(value: str) -> str:
        number = parse_amount(value)
        if bottom is not None and number < bottom:
            return f"<{show(bottom)}"
        if top is not None and number >= top:
            return f">={show(top)}"
        units = _units(number, width, ROUND_FLOOR)
        return f"[{show(_times(units, width))},{show(_times(units + 1, width))})"

    return by_width


def rounder(rule: Round, random: Randomness) -> Callable[[str], str]:
    """Return plain, directed or random rounding of one value."""
    unit = rule.to
    if rule.mode != "random":
        rounding = _MODES[rule.mode]
        return lambda value: show(_times(_units(parse_amount(value), unit, rounding), unit))

    def at_random(value: str) -> str:
        number = parse_amount(value)
        units = _units(number, unit, ROUND_FLOOR)
        rest = _CONTEXT.divide(_CONTEXT.subtract(number, _times(units, unit)), unit)
        # Up with the probability of the remainder, so that the expected value is the value.
        if int.from_bytes(random(8), "big") < int(rest * 2**64):
            units += 1
        return show(_times(units, unit))

    return at_random


def round_controlled(rule: Round, numbers: list[Decimal]) -> list[str]:
    """Return the numbers rounded so that their sum is the rounded sum of the originals.

    The running total is rounded and its steps are written, so each number goes to a neighbouring
    multiple and every prefix keeps its total to within half a unit.
    """
    out: list[str] = []
    total, before = Decimal(0), 0
    for number in numbers:
        total = _CONTEXT.add(total, number)
        after = _units(total, rule.to, ROUND_HALF_UP)
        out.append(show(_times(after - before, rule.to)))
        before = after
    return out


def noise(rule: Noise, random: Randomness) -> Callable[[str], str]:
    """Return the technique that adds a random number."""
    scale = float(rule.scale)

    def uniform() -> float:
        return (int.from_bytes(random(8), "big") >> 11) / 2**53

    def draw() -> float:
        if rule.distribution == "uniform":
            return scale * (2 * uniform() - 1)
        first = uniform()
        if rule.distribution == "laplace":
            centred = first - 0.5
            return -scale * math.copysign(math.log(max(1 - 2 * abs(centred), 2.0**-53)), centred)
        return scale * math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * uniform())

    def add(value: str) -> str:
        number = parse_amount(value)
        exponent = number.as_tuple().exponent
        decimals = rule.decimals if rule.decimals is not None else -int(exponent)
        noisy = _CONTEXT.add(number, Decimal(draw()))
        if rule.minimum is not None:
            noisy = max(noisy, rule.minimum)
        if rule.maximum is not None:
            noisy = min(noisy, rule.maximum)
        step = Decimal(1).scaleb(-decimals)
        return f"{_times(_units(noisy, step, ROUND_HALF_UP), step):f}"

    return add


def top_bottom(rule: TopBottom) -> Callable[[str], str]:
    """Return top and bottom coding."""

    def code(value: str) -> str:
        number = parse_amount(value)
        if rule.top is not None and number >= rule.top:
            return (">=" if rule.label else "") + show(rule.top)
        if rule.bottom is not None and number <= rule.bottom:
            return ("<=" if rule.label else "") + show(rule.bottom)
        return show(number)

    return code
