"""What the conformance suite leaves out of writing: limits over all handles, commits that take their time."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, MemoryDriver, OpenMode


def a_driver() -> MemoryDriver:
    driver = MemoryDriver()
    driver.put("/m/a", b"old")
    return driver


async def test_unwritten_bytes_of_all_handles_together_are_bounded_and_everybody_gets_on() -> None:
    driver = a_driver()
    async with FileSystem(driver, write_buffer=50_000, dirty_limit=120_000) as fs:
        most = 0.0

        async def writer(number: int) -> None:
            nonlocal most
            async with fs.create(f"/m/{number}") as handle:
                for _ in range(20):
                    await handle.write_all(bytes([number]) * 20_000)
                    most = max(most, fs.stats()["dirty_bytes"])
                await handle.commit_async()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(writer, number)
        assert 60_000 < most <= 120_000
        for number in range(20):
            assert driver.get(f"/m/{number}") == bytes([number]) * 400_000


async def test_a_full_limit_is_emptied_though_no_buffer_is_full() -> None:
    driver = a_driver()
    async with FileSystem(driver, dirty_limit=10_000) as fs:
        idle = fs.create("/m/idle")
        assert idle.write(bytes(10_000)) == 10_000
        async with fs.create("/m/new") as handle:
            with pytest.raises(BlockingIOError):
                handle.write(b"x")
            await handle.write_all(b"x")
            await handle.commit_async()
        idle.close()
    assert driver.get("/m/new") == b"x"


async def test_room_that_a_rollback_makes_is_told(autojump_clock: MockClock) -> None:
    async with FileSystem(FaultsDriver(a_driver(), [Fault("create", delay=1e9)]), dirty_limit=10_000) as fs:
        full, waiting = fs.create("/m/1"), fs.create("/m/2")
        assert full.write(bytes(10_000)) == 10_000
        told = trio.Event()
        waiting.set_output_callback(lambda context: told.set())
        with pytest.raises(BlockingIOError):
            waiting.write(b"x")
        full.rollback()
        assert not told.is_set(), "not from inside a call"
        with trio.fail_after(5):
            await told.wait()
        assert waiting.write(b"x") == 1


async def test_small_writes_go_out_in_clusters() -> None:
    driver = FaultsDriver(a_driver())
    async with FileSystem(driver) as fs, fs.create("/m/new") as handle:
        for _ in range(10_000):
            await handle.write_all(b"0123456789" * 10)
        await handle.commit_async()
    assert driver.counts["append"] <= 1_000_000 // (64 << 10) + 2


async def test_no_write_is_taken_while_a_commit_is_on_its_way(autojump_clock: MockClock) -> None:
    async with (
        FileSystem(FaultsDriver(a_driver(), [Fault("sync", delay=1)])) as fs,
        fs.create("/m/new") as handle,
    ):
        handle.write(b"one")
        with pytest.raises(BlockingIOError):
            handle.commit()
        await wait_all_tasks_blocked()
        with pytest.raises(BlockingIOError):
            handle.write(b"two")
        with pytest.raises(OSError, match="another name"):
            handle.commit("/m/other")
        await handle.writable()
        assert handle.write(b"two") == 3
        await handle.commit_async()
    async with FileSystem(a_driver()) as fs:
        assert fs.stats()["dirty_bytes"] == 0


async def test_a_commit_that_waits_is_called_off_by_rollback(autojump_clock: MockClock) -> None:
    driver = a_driver()
    async with (
        FileSystem(FaultsDriver(driver, [Fault("sync", 1, delay=1)])) as fs,
        fs.create("/m/new") as handle,
    ):
        handle.write(b"one")
        codes: list[int | None] = []

        async def commit() -> None:
            with pytest.raises(OSError, match="canceled") as caught:
                await handle.commit_async()
            codes.append(caught.value.errno)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit)
            await wait_all_tasks_blocked()
            handle.rollback()
            handle.write(b"two")
        assert codes == [errno.ECANCELED]
        await handle.commit_async()
    assert driver.get("/m/new") == b"two"


@pytest.mark.parametrize("kind", ["publish", "sync_dir"])
async def test_a_commit_that_has_begun_to_publish_stays(kind: str, autojump_clock: MockClock) -> None:
    driver = a_driver()
    async with (
        FileSystem(FaultsDriver(driver, [Fault(kind, 1, delay=1)])) as fs,
        fs.create("/m/new") as handle,
    ):
        handle.write(b"one")
        with pytest.raises(BlockingIOError):
            handle.commit()
        await wait_all_tasks_blocked()
        handle.rollback()
        await trio.sleep(2)
        handle.commit()
    assert driver.get("/m/new") == b"one"


async def test_a_rollback_during_a_publish_that_fails_takes_everything_back(
    autojump_clock: MockClock,
) -> None:
    driver = a_driver()
    async with (
        FileSystem(FaultsDriver(driver, [Fault("publish", 1, delay=1)])) as fs,
        fs.create("/m/a") as handle,
    ):
        handle.write(b"one")
        with pytest.raises(BlockingIOError):
            handle.commit()
        await wait_all_tasks_blocked()
        handle.rollback()
        await trio.sleep(2)
        handle.write(b"two")
        await handle.commit_async("/m/new")
    assert driver.get("/m/new") == b"two"
    assert driver.get("/m/a") == b"old"


async def test_writes_before_the_open_are_kept_and_a_failed_open_drops_them() -> None:
    driver = a_driver()
    async with FileSystem(driver) as fs:
        async with fs.open("/m/a", OpenMode.APPEND) as handle:
            assert handle.write(b" new") == 4
            with pytest.raises(BlockingIOError):
                assert handle.size
            await handle.commit_async()
        handle = fs.create("/none/a")
        assert handle.write(b"x") == 1
        assert handle.size == 1
        with pytest.raises(FileNotFoundError):
            await handle.wait_open()
        assert fs.stats()["dirty_bytes"] == 0
        with pytest.raises(FileNotFoundError):
            assert handle.size
        handle.close()
    assert driver.get("/m/a") == b"old new"


async def test_a_file_system_that_is_not_running_gives_handles_that_say_ebadf() -> None:
    fs = FileSystem(a_driver())
    for handle in (fs.open("/m/a"), fs.create("/m/b"), fs.open("/m/a", OpenMode.APPEND)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            await handle.wait_open()
        await handle.aclose()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await fs.stat("/m/a")
    async with fs:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        fs.open("/m/a").pread(1, 0)
    async with trio.open_nursery() as nursery:
        with pytest.raises(RuntimeError, match="once"):
            await fs.start(nursery)
    await fs.aclose()
