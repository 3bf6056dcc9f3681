"""The example's own test, run here too so that it can't rot."""

from __future__ import annotations

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples/hello/test_hello.py"


async def test_the_hello_example():
    spec = importlib.util.spec_from_file_location("hello_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    await module.test_hello()


def test_the_example_has_ten_lines_or_fewer_that_do_something():
    source = (EXAMPLE.parent / "hello.py").read_text()
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith('"""')]
    assert len(lines) <= 10
