"""Reading through handles, on every driver."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from dboxfs.fsapi import Driver, FileSystem, MemoryDriver, OpenMode, Peek, ThreadsDriver

BODY = bytes(range(256)) * 40


class Place:
    """A driver, and a directory of it that a test may fill."""

    def __init__(self, driver: Driver, root: str, put: Callable[[str, bytes], None]) -> None:
        self.driver = driver
        self.root = root
        self._put = put

    def file(self, name: str, data: bytes) -> str:
        path = f"{self.root}/{name}"
        self._put(path, data)
        return path


def memory_place(nowait: bool) -> Place:
    driver = MemoryDriver(nowait=nowait)
    driver.make_dirs("/top")
    return Place(driver, "/top", driver.put)


def threads_place(tmp_path: Path) -> Place:
    def put(path: str, data: bytes) -> None:
        Path(path).write_bytes(data)

    return Place(ThreadsDriver(4), str(tmp_path), put)


@pytest.fixture(params=["threads", "memory", "memory-nowait"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "threads":
        return threads_place(tmp_path)
    return memory_place(request.param == "memory-nowait")


async def test_read_gives_exactly_what_the_file_holds(place: Place) -> None:
    path = place.file("a", BODY)
    async with FileSystem(place.driver) as fs, fs.open(path) as handle:
        assert await handle.read(len(BODY), 0) == BODY
        assert await handle.read(100, 5000) == BODY[5000:5100]
        assert await handle.read(100, len(BODY) - 10) == BODY[-10:]
        assert await handle.read(100, len(BODY)) == b""
        assert (await handle.wait_open()).st_size == len(BODY)


async def test_pread_answers_or_says_eagain_and_then_answers(place: Place) -> None:
    path = place.file("a", BODY)
    async with FileSystem(place.driver) as fs, fs.open(path) as handle:
        got = b""
        while len(got) < len(BODY):
            try:
                piece = handle.pread(777, len(got))
            except BlockingIOError:
                await handle.readable(len(got), 777)
            else:
                assert piece
                got += piece
        assert got == BODY


async def test_the_input_callback_tells_when_to_ask_again(place: Place) -> None:
    path = place.file("a", BODY)
    async with FileSystem(place.driver) as fs:
        handle = fs.open(path)
        event = trio.Event()
        handle.set_input_callback(lambda context: context.set(), event)
        with trio.fail_after(5):
            while True:
                try:
                    assert handle.pread(10, 0) == BODY[:10]
                    break
                except BlockingIOError:
                    await event.wait()
                    event = trio.Event()
                    handle.set_input_callback(lambda context: context.set(), event)
        handle.close()


async def test_the_error_of_an_open_comes_out_of_the_first_use_and_of_every_later_one(place: Place) -> None:
    async with FileSystem(place.driver) as fs, fs.open(f"{place.root}/none") as handle:
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                await handle.read(1, 0)
        with pytest.raises(FileNotFoundError):
            handle.pread(1, 0)
        with pytest.raises(FileNotFoundError):
            await handle.wait_open()
        with pytest.raises(FileNotFoundError):
            handle.stat()


async def test_a_closed_handle_says_ebadf_and_wakes_its_waiters(place: Place) -> None:
    path = place.file("a", BODY)
    async with FileSystem(place.driver) as fs:
        handle = fs.open(path, OpenMode.APPEND)
        seen: list[int | None] = []

        async def wait() -> None:
            try:
                await handle.wait_open()
            except OSError as error:
                seen.append(error.errno)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            handle.close()
        assert seen in ([errno.EBADF] * 3, [])
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            handle.pread(1, 0)
        assert caught.value.errno == errno.EBADF


async def test_peek_reads_ranges_of_many_files_and_keeps_errors_apart(place: Place) -> None:
    paths = [place.file(f"f{number}", BODY + str(number).encode()) for number in range(200)]
    requests = [Peek(path, ((0, 4), (-3, None), (len(BODY), 100))) for path in paths]
    requests.insert(100, Peek(f"{place.root}/none", ((0, 1),)))
    async with FileSystem(place.driver) as fs:
        answers = await fs.peek(requests)
    assert isinstance(answers.pop(100), FileNotFoundError)
    for number, answer in enumerate(answers):
        assert not isinstance(answer, OSError)
        whole = BODY + str(number).encode()
        assert answer.chunks == (BODY[:4], whole[-3:], whole[len(BODY) :])
        assert answer.stat.st_size == len(whole)


async def test_growth_behind_a_short_read_is_seen(place: Place) -> None:
    path = place.file("a", b"12345")
    async with FileSystem(place.driver) as fs, fs.open(path) as handle:
        assert await handle.read(100, 0) == b"12345"
        assert await handle.read(100, 5) == b""
        place.file("a", b"1234567890")
        assert await handle.read(100, 0) == b"1234567890"
        assert await handle.read(100, 5) == b"67890"
