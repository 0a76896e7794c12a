"""An error, a delay or a crash at any operation: the promises hold, and nothing is left over."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dboxfs.fsapi import (
    Crash,
    CreateMode,
    Fault,
    FaultsDriver,
    FileSystem,
    MemoryDriver,
    OpenMode,
    Peek,
    ThreadsDriver,
    UringDriver,
)

OLD = b"old" * 1000
BODY = b"0123456789abcdef" * 20_000


def a_driver() -> MemoryDriver:
    driver = MemoryDriver()
    driver.put("/m/old", OLD)
    return driver


async def scenario(fs: FileSystem, acknowledged: list[str]) -> None:
    """Most operations once; what was acknowledged is noted."""
    async with fs.create("/m/new") as handle:
        await handle.write_all(BODY)
        await handle.commit_async()
        acknowledged.append("new")
        await handle.write_all(b"+")
        handle.rollback()
    async with fs.open("/m/old", OpenMode.APPEND) as handle:
        await handle.write_all(BODY)
        handle.rollback()
        await handle.write_all(b"more")
        await handle.commit_async()
        acknowledged.append("more")
    async with fs.create("/m/old", CreateMode.REPLACE_IF_EXISTS) as handle:
        await handle.write_all(BODY)
        await handle.commit_async()
        acknowledged.append("replaced")
    async with fs.open("/m/new") as handle:
        assert await handle.read(len(BODY), 0) == BODY
    await fs.mkdir("/m/d")
    await fs.rename("/m/new", "/m/d/new")
    await fs.link("/m/d/new", "/m/link")
    await fs.unlink("/m/link")
    await fs.peek([Peek("/m/old", ((0, 10),))])
    await fs.stat("/m/old")
    await fs.listdir("/m")
    acknowledged.append("all")


def visible(driver: MemoryDriver) -> dict[str, bytes]:
    """Names and bytes as another program sees them, but for temporary files."""
    found = {}
    for directory in ("/m", "/m/d"):
        place = driver.tree.locate(directory).node
        for name, node in (place.entries if place is not None else {}).items():
            if not node.is_dir and not name.startswith(".temp."):
                found[f"{directory}/{name}"] = bytes(node.data)
    return found


def check_what_is_visible(driver: MemoryDriver, acknowledged: list[str]) -> None:
    """Whole files only, and everything that was acknowledged."""
    found = visible(driver)
    old = found.pop("/m/old")
    if "replaced" in acknowledged:
        assert old == BODY
    elif "more" in acknowledged:
        assert old in (OLD + b"more", BODY)
    else:  # appended bytes that were not committed may lie behind the old ones after a crash
        assert old.startswith(OLD)
    for data in found.values():
        assert data.startswith(BODY)
    if "new" in acknowledged:
        assert set(found) & {"/m/new", "/m/d/new", "/m/link"}


async def count_operations() -> int:
    driver = FaultsDriver(a_driver())
    async with FileSystem(driver) as fs:
        acknowledged: list[str] = []
        await scenario(fs, acknowledged)
        assert acknowledged == ["new", "more", "replaced", "all"]
    return driver.counts.total()


async def run_with(fault: Fault) -> tuple[MemoryDriver, list[str], OSError | None]:
    memory = a_driver()
    driver = FaultsDriver(memory, [fault])
    acknowledged: list[str] = []
    failure = None
    async with FileSystem(driver) as fs:
        try:
            await scenario(fs, acknowledged)
        except OSError as error:
            failure = error
    stats = fs.stats()
    assert not stats["in_flight"]
    assert not stats["open_handles"]
    assert not stats["dirty_bytes"]
    assert not stats["locks"]
    assert not stats["driver_in_flight"]
    assert stats["driver_injected"] == 1
    return memory, acknowledged, failure


async def test_an_error_at_any_operation_is_told_and_leaves_whole_files() -> None:
    number_of_operations = await count_operations()
    assert number_of_operations >= 30
    for number in range(1, number_of_operations + 1):
        for code in (errno.EIO, errno.ENOSPC):
            memory, acknowledged, failure = await run_with(Fault("*", number, error=code))
            check_what_is_visible(memory, acknowledged)
            if failure is not None:
                assert failure.errno == code
                assert "all" not in acknowledged
            assert not memory.open_files


@pytest.mark.parametrize("when", list(Crash))
async def test_a_crash_at_any_operation_leaves_whole_files(when: Crash) -> None:
    for number in range(1, await count_operations() + 1):
        memory, acknowledged, _ = await run_with(Fault("*", number, crash=when))
        check_what_is_visible(memory, acknowledged)
        assert not memory.open_files


async def test_a_write_error_stays_until_rollback_and_nothing_of_it_counts() -> None:
    memory = a_driver()
    plan = [Fault("append", 1, short=1000, error=errno.ENOSPC)]
    async with FileSystem(FaultsDriver(memory, plan)) as fs, fs.create("/m/new") as handle:
        with pytest.raises(OSError, match="No space"):
            await handle.write_all(BODY)
        with pytest.raises(OSError, match="No space"):
            await handle.commit_async()
        with pytest.raises(OSError, match="No space"):
            handle.write(b"x")
        handle.rollback()
        await handle.write_all(b"second try")
        await handle.commit_async()
        assert memory.get("/m/new") == b"second try"


async def test_a_failed_sync_is_not_tried_again_without_writing_again() -> None:
    memory = a_driver()
    async with FileSystem(FaultsDriver(memory, [Fault("sync", 1, error=errno.EIO)])) as fs:
        async with fs.create("/m/new") as handle:
            await handle.write_all(b"body")
            for _ in range(2):
                with pytest.raises(OSError, match="Input/output"):
                    await handle.commit_async()
            handle.rollback()
            await handle.write_all(b"body")
            await handle.commit_async()
        assert memory.get("/m/new") == b"body"


async def test_a_directory_that_could_not_be_synced_is_synced_by_the_next_commit() -> None:
    driver = FaultsDriver(a_driver(), [Fault("sync_dir", 1, error=errno.EIO)])
    async with FileSystem(driver) as fs, fs.create("/m/new") as handle:
        with pytest.raises(OSError, match="Input/output"):
            await handle.commit_async()
        await handle.commit_async()
        assert driver.counts["sync_dir"] == 2


async def test_bytes_of_another_program_are_never_cut_off() -> None:
    memory = a_driver()
    async with FileSystem(memory) as fs:
        async with fs.open("/m/old", OpenMode.APPEND) as handle:
            await handle.write_all(BODY)
            await wait_all_tasks_blocked()
            node = memory.tree.find("/m/old")
            node.data += b"somebody else's"
            with pytest.raises(OSError, match="busy"):
                await handle.commit_async()
        assert b"somebody else's" in memory.get("/m/old")
        assert fs.stats()["lost_errors"] == 1


async def test_a_read_error_is_told_once_and_the_next_read_tries_again() -> None:
    driver = FaultsDriver(a_driver(), [Fault("read", 1, error=errno.EIO)])
    async with FileSystem(driver) as fs, fs.open("/m/old") as handle:
        with pytest.raises(OSError, match="Input/output"):
            await handle.read(10, 0)
        assert await handle.read(10, 0) == OLD[:10]


async def test_every_waiter_hears_of_a_read_error(autojump_clock: MockClock) -> None:
    driver = FaultsDriver(a_driver(), [Fault("read", 1, error=errno.EIO, delay=1)])
    async with FileSystem(driver) as fs, fs.open("/m/old") as handle:
        await handle.wait_open()
        failures: list[OSError] = []

        async def reader() -> None:
            with pytest.raises(OSError, match="Input/output") as caught:
                await handle.read(10, 0)
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(reader)
        assert len(set(map(id, failures))) == 4


async def test_a_slow_operation_holds_up_no_other(autojump_clock: MockClock) -> None:
    memory = a_driver()
    for number in range(500):
        memory.put(f"/m/{number}", b"%d" % number)
    plan = [
        Fault("read", 1, delay=5),
        Fault("open", 7, delay=5),
        Fault("rename", delay=5),
        Fault("sync", delay=5),
    ]
    async with FileSystem(FaultsDriver(memory, plan, depth=10)) as fs:
        ended: list[float] = []

        async def reader(number: int) -> None:
            async with fs.open(f"/m/{number}") as handle:
                assert await handle.read(10, 0) == b"%d" % number
            ended.append(trio.current_time())

        async def writer() -> None:
            async with fs.create("/m/new") as handle:
                await handle.commit_async()

        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.rename, "/m/old", "/m/older")
            nursery.start_soon(writer)
            for number in range(500):
                nursery.start_soon(reader, number)
        assert len([moment for moment in ended if moment - start < 0.001]) >= 498
        assert trio.current_time() - start == pytest.approx(5)


async def test_latency_is_spread_over_the_workers(autojump_clock: MockClock) -> None:
    async def seconds(depth: int, ahead: int) -> float:
        memory = MemoryDriver()
        for number in range(200):
            memory.put(f"/m/{number}", b"body")
        driver = FaultsDriver(memory, latency={"open": 0.005, "read": 0.005}, depth=depth)
        async with FileSystem(driver) as fs:
            start = trio.current_time()
            handles = []
            for number in range(200 + ahead):
                if number < 200:
                    handles.append(fs.open(f"/m/{number}", willneed=1 << 20))
                if number >= ahead:
                    async with handles[number - ahead] as handle:
                        assert await handle.read(100, 0) == b"body"
            return trio.current_time() - start

    one_at_a_time = await seconds(1, 0)
    assert one_at_a_time == pytest.approx(200 * 0.010)
    assert one_at_a_time / await seconds(10, 32) > 9
    assert one_at_a_time / await seconds(64, 128) > 20


async def test_many_readers_of_a_slow_storage_share_its_places(autojump_clock: MockClock) -> None:
    async def seconds(readers: int) -> float:
        memory = MemoryDriver()
        for number in range(readers):
            memory.put(f"/m/{number}", b"body")
        driver = FaultsDriver(memory, latency={"open": 0.020, "read": 0.020}, depth=64)

        async def reader(number: int) -> None:
            async with fs.open(f"/m/{number}") as handle:
                assert await handle.read(100, 0) == b"body"

        async with FileSystem(driver) as fs:
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(readers):
                    nursery.start_soon(reader, number)
            return trio.current_time() - start

    one = await seconds(1)
    assert one == pytest.approx(0.040)
    assert await seconds(500) <= 12 * one


@pytest.mark.parametrize("kind", ["read", "open", "sync", "rename"])
async def test_one_hanging_operation_holds_up_none_of_499_readers(
    kind: str, autojump_clock: MockClock
) -> None:
    memory = a_driver()
    for number in range(500):
        memory.put(f"/m/{number}", b"%d" % number)
    ended: list[float] = []

    async def reader(number: int) -> None:
        async with fs.open(f"/m/{number}") as handle:
            assert await handle.read(10, 0) == b"%d" % number
        ended.append(trio.current_time())

    async def writer() -> None:
        async with fs.create("/m/new") as handle:
            await handle.commit_async()

    driver = FaultsDriver(memory, [Fault(kind, 1, delay=5)], depth=10)
    async with FileSystem(driver) as fs:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            if kind == "rename":
                nursery.start_soon(fs.rename, "/m/old", "/m/older")
            if kind == "sync":
                nursery.start_soon(writer)
            for number in range(500):
                nursery.start_soon(reader, number)
        assert trio.current_time() - start == pytest.approx(5)
    at_once = [moment for moment in ended if moment - start < 0.001]
    assert len(at_once) == (499 if kind in ("read", "open") else 500)


async def test_an_operation_that_is_cancelled_before_it_begins_never_happens(
    autojump_clock: MockClock,
) -> None:
    memory = a_driver()
    async with FileSystem(FaultsDriver(memory, latency={"unlink": 1}, depth=1)) as fs:
        with trio.move_on_after(0.5) as scope:
            await fs.unlink("/m/old")
        assert scope.cancelled_caught
        await trio.sleep(5)
        assert memory.get("/m/old") == OLD


async def test_closing_the_file_system_does_not_wait_for_what_hangs(autojump_clock: MockClock) -> None:
    memory = a_driver()
    driver = FaultsDriver(memory, [Fault("read", delay=3600), Fault("open", 2, delay=3600)], depth=4)
    start = trio.current_time()
    async with FileSystem(driver) as fs:
        handle = fs.open("/m/old")
        await handle.wait_open()
        with pytest.raises(BlockingIOError):
            handle.pread(1, 0)
        fs.open("/m/old")
        await wait_all_tasks_blocked()
    assert trio.current_time() - start <= 2.0


async def test_waiters_of_a_slow_open_are_woken_by_close(autojump_clock: MockClock) -> None:
    driver = FaultsDriver(a_driver(), [Fault("open", delay=60)])
    async with FileSystem(driver) as fs:
        handle = fs.open("/m/old")
        failures: list[int | None] = []

        async def waiter(number: int) -> None:
            calls = (handle.wait_open, lambda: handle.readable(0), lambda: handle.read(1, 0))
            with pytest.raises(OSError, match="Bad file descriptor") as caught:
                await calls[number]()
            failures.append(caught.value.errno)

        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(waiter, number)
            await wait_all_tasks_blocked()
            handle.close()
        assert trio.current_time() == start
        assert failures == [errno.EBADF] * 3


async def test_an_exception_of_a_callback_ends_the_nursery_of_the_file_system() -> None:
    def broken(context: object) -> None:
        raise RuntimeError("broken callback")

    memory = a_driver()

    async def main() -> None:
        async with FileSystem(memory) as fs:
            handle = fs.open("/m/old")
            handle.set_input_callback(broken)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await main()
    assert caught.group_contains(RuntimeError, match="broken callback")
    assert not memory.open_files


async def test_the_body_of_a_file_system_raises_its_own_exception() -> None:
    with pytest.raises(KeyError):
        async with FileSystem(a_driver()):
            raise KeyError("mine")


@pytest.mark.parametrize("real", [ThreadsDriver, UringDriver])
async def test_delays_of_a_real_driver_keep_the_bytes(
    real: type[ThreadsDriver] | type[UringDriver],
    tmp_path_factory: pytest.TempPathFactory,
    autojump_clock: MockClock,
) -> None:
    root = tmp_path_factory.mktemp("files")
    (root / "a").write_bytes(BODY)
    autojump_clock.autojump_threshold = 0.05  # threads work in real time
    driver = FaultsDriver(real(2), latency={"read": 1.0})
    async with FileSystem(driver, readahead=0) as fs, fs.open(str(root / "a")) as handle:
        start = trio.current_time()
        assert await handle.read(1 << 20, 0) == BODY
        assert trio.current_time() - start == pytest.approx(1.0, abs=0.5)
