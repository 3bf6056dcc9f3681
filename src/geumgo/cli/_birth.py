"""Starting the stack with progress bars, shared by `geumgo up` and `geumgo demo`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from geumgo import image
from geumgo.backends import process
from geumgo.cli import _output
from geumgo.cli._exclusive import exclusive
from geumgo.testing.stack import Stack, StackSettings

__all__ = ("bring_up", "building", "check_sandbox")


async def check_sandbox(settings: StackSettings) -> None:
    """Refuse at once, in words, where no enclave could be launched.

    Raises:
        SandboxUnavailable: this machine allows no sandbox; the message says what to enable.
    """
    if settings.backend == "process" and not settings.unsandboxed:
        with _output.progress("trying the sandbox"):
            await asyncio.to_thread(process.require, settings.sandbox)


async def bring_up(stack: Stack) -> image.BuiltImage:
    """Start everything: key service, pool, image, policy, enclaves, gateways; a pool that exists is used again."""
    with exclusive(stack.settings.state, "geumgo up", fix="Wait for it."):
        stack.refuse_if_running()
        await check_sandbox(stack.settings)
        try:
            with _output.progress("starting the key service"):
                await asyncio.to_thread(stack.start_kms)
            with building() as step:
                built = await stack.pool.open_or_build(step)
            with _output.progress("waiting for the enclaves to get their key"):
                names = await asyncio.to_thread(stack.start_enclaves)
                await stack.wait_ready(names)
                await asyncio.to_thread(stack.start_gateways, names)
        except BaseException:
            await asyncio.to_thread(stack.stop)
            raise
    return built


@contextmanager
def building() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar; yields what an image build calls with a step's name and what is done of how much."""
    with _output.progress("building the image", total=1.0) as bar:
        task = bar.task_ids[0]

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done / total if total else 0.0)

        yield step
        bar.update(task, completed=1.0)
