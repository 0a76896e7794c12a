"""A task that is cancelled at any of its checkpoints leaves whole files, and nothing open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from dboxfs.fsapi import (
    CreateMode,
    Fault,
    FaultsDriver,
    FileSystem,
    InputStream,
    MemoryDriver,
    OpenMode,
    OutputStream,
    Peek,
)

BODY = b"0123456789abcdef" * 20_000


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope before the nth step of one task."""

    def __init__(self, task_name: str, step: int, scope: trio.CancelScope) -> None:
        self._task_name = task_name
        self._left = step
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the steps of the task."""
        if task.name == self._task_name:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def writing(fs: FileSystem) -> None:
    async with fs.create("/m/new") as handle:
        await handle.write_all(BODY)
        await handle.commit_async()
        await handle.writable()
        await handle.write_all(BODY[:70_000])
        handle.rollback()
        await handle.write_all(b"tail")
        await handle.commit_async()


async def replacing(fs: FileSystem) -> None:
    async with fs.create("/m/old", CreateMode.REPLACE_IF_EXISTS) as handle:
        await handle.wait_open()
        await handle.write_all(BODY)
        await handle.commit_async()


async def appending(fs: FileSystem) -> None:
    async with fs.open("/m/old", OpenMode.APPEND) as handle:
        assert handle.try_lock()
        await handle.write_all(BODY)
        await handle.commit_async()


async def reading(fs: FileSystem) -> None:
    async with fs.open("/m/old") as handle:
        await handle.readable(0)
        assert await handle.read(len(BODY), 0) == BODY
    await fs.peek([Peek("/m/old", ((0, 4),))] * 40)
    await fs.stat("/m/old")


async def streaming(fs: FileSystem) -> None:
    source = InputStream(fs.open("/m/old"), buffer_size=5000)
    sink = OutputStream(fs.create("/m/new"), buffer_size=7000)
    async with source, sink:
        while data := await source.receive(1 << 16):
            await sink.send_all(data)
        await sink.finish()
        await sink.handle.commit_async()


async def naming(fs: FileSystem) -> None:
    await fs.mkdir("/m/d")
    await fs.rename("/m/old", "/m/d/old")
    await fs.link("/m/d/old", "/m/old")
    await fs.unlink("/m/d/old")
    await fs.rmdir("/m/d")
    await fs.fsync_dir("/m")


SCENARIOS = (writing, replacing, appending, reading, streaming, naming)


async def run_cancelled(
    scenario: Callable[[FileSystem], Awaitable[None]], step: int, *, slow: bool
) -> tuple[bool, MemoryDriver]:
    memory = MemoryDriver()
    memory.put("/m/old", BODY)
    driver = (
        FaultsDriver(memory, [Fault("read", short=50_000), Fault("append", short=60_000)]) if slow else memory
    )
    scope = trio.CancelScope()
    instrument = CancelAtStep("the scenario", step, scope)
    async with FileSystem(driver, write_buffer=100_000) as fs:

        async def task() -> None:
            with scope:
                await scenario(fs)

        trio.lowlevel.add_instrument(instrument)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, name="the scenario")
        trio.lowlevel.remove_instrument(instrument)
        assert not fs.stats()["open_handles"]
    stats = fs.stats()
    assert not stats["in_flight"]
    assert not stats["dirty_bytes"]
    assert not stats["locks"]
    assert not memory.open_files
    return scope.cancelled_caught, memory


@pytest.mark.parametrize("slow", [False, True], ids=["whole", "short"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_cancelled_anywhere(scenario: Callable[[FileSystem], Awaitable[None]], slow: bool) -> None:
    step = 0
    cancelled = True
    while cancelled:
        step += 1
        cancelled, memory = await run_cancelled(scenario, step, slow=slow)
        root = memory.tree.find("/m")
        for name, node in root.entries.items():
            assert not name.startswith(".temp.")
            if not node.is_dir:
                assert bytes(node.data) in (BODY, BODY + BODY, BODY + b"tail")
    assert step > 3, "the scenario was cancelled nowhere"
