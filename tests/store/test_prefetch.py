"""Files that are brought ahead: taken once, bounded in number and time, never left open."""

from __future__ import annotations

import trio
import trio.testing

from dboxfs.fsapi import FileSystem, MemoryDriver
from dboxfs.store.prefetch import MOST_FILES, SECONDS, AheadFiles


def driver(*, kernel_cached: bool, files: int = 400) -> MemoryDriver:
    made = MemoryDriver(nowait=kernel_cached)
    assert made.kernel_cached is kernel_cached
    made.make_dirs("/box")
    for number in range(files):
        made.put(f"/box/u.{number}", b"text %d" % number)
    return made


def names(count: int) -> list[tuple[str, int]]:
    return [(f"/box/u.{number}", 100) for number in range(count)]


async def test_a_handle_that_was_opened_ahead_is_taken_once() -> None:
    async with FileSystem(driver(kernel_cached=False)) as fs:
        ahead = AheadFiles(fs)
        ahead.bring(names(3))
        brought, handle = ahead.take("/box/u.1")
        assert brought
        assert handle is not None
        assert await handle.read(100, 0) == b"text 1"
        handle.close()
        assert ahead.take("/box/u.1") == (False, None)
        ahead.close()
        assert fs.stats()["open_handles"] == 0


async def test_where_the_kernel_keeps_what_was_read_nothing_stays_open() -> None:
    async with FileSystem(driver(kernel_cached=True)) as fs:
        ahead = AheadFiles(fs)
        ahead.bring(names(50))
        assert fs.stats()["open_handles"] == 0
        assert ahead.take("/box/u.7") == (True, None)
        assert ahead.take("/box/u.7") == (False, None)


async def test_the_number_is_bounded_and_the_oldest_go_first() -> None:
    async with FileSystem(driver(kernel_cached=False)) as fs:
        ahead = AheadFiles(fs)
        ahead.bring(names(MOST_FILES + 40))
        assert len(ahead) == MOST_FILES
        assert fs.stats()["open_handles"] == MOST_FILES
        assert ahead.take("/box/u.39") == (False, None)
        assert ahead.take("/box/u.40")[0]
        ahead.close()


async def test_what_nobody_takes_is_closed_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    async with FileSystem(driver(kernel_cached=False)) as fs, trio.open_nursery() as nursery:
        ahead = AheadFiles(fs)
        nursery.start_soon(ahead.run)
        ahead.bring(names(10))
        await trio.sleep(SECONDS * 2 + 1)
        assert (len(ahead), fs.stats()["open_handles"]) == (0, 0)
        nursery.cancel_scope.cancel()


async def test_a_mailbox_that_goes_takes_its_files_along() -> None:
    made = driver(kernel_cached=False)
    made.make_dirs("/other")
    made.put("/other/u.1", b"x")
    async with FileSystem(made) as fs:
        ahead = AheadFiles(fs)
        ahead.bring([*names(5), ("/other/u.1", 100)])
        ahead.drop("/box")
        assert len(ahead) == 1
        assert ahead.take("/other/u.1")[0]


async def test_a_missing_file_is_told_to_whoever_takes_it() -> None:
    async with FileSystem(driver(kernel_cached=False)) as fs:
        ahead = AheadFiles(fs)
        ahead.bring([("/box/u.9999", 10)])
        _, handle = ahead.take("/box/u.9999")
        assert handle is not None
        try:
            await handle.wait_open()
        except FileNotFoundError:
            handle.close()
        else:
            raise AssertionError("no such file was opened")
