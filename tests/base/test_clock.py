"""Clocks."""

from __future__ import annotations

import subprocess
import sys
import time

from geumgo._base import Clock, SystemClock


def test_the_system_clock_counts_milliseconds_since_1970() -> None:
    clock: Clock = SystemClock()
    before = time.time_ns() // 1_000_000
    now = clock.now_ms()
    after = time.time_ns() // 1_000_000
    assert before <= now <= after


def test_the_system_clock_gives_an_integer_without_rounding_up() -> None:
    assert type(SystemClock().now_ms()) is int


def test_importing_the_base_needs_the_standard_library_only() -> None:

    script = "import sys, geumgo._base; print([m for m in ('cbor2', 'cryptography', 'msgspec') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
