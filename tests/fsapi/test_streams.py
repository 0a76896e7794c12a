"""Streams over handles: order, bounds, errors, and what a derived stream can do."""

from __future__ import annotations

import zlib

import pytest
import trio

from dboxfs.fsapi import FileSystem, InputStream, MemoryDriver, OpenMode, OutputStream

BODY = bytes(range(256)) * 1000


def a_driver() -> MemoryDriver:
    driver = MemoryDriver()
    driver.put("/m/a", BODY)
    return driver


async def test_an_input_stream_gives_all_bytes_in_order_and_keeps_within_its_buffer() -> None:
    async with FileSystem(a_driver()) as fs, InputStream(fs.open("/m/a"), buffer_size=5000) as stream:
        got = b""
        while True:
            try:
                data = stream.read(777)
            except BlockingIOError:
                await stream.wait(stream.offset)
                continue
            if not data:
                break
            got += data
            assert stream.offset == len(got)
            assert stream.buffered <= 5000
        assert got == BODY
        assert stream.read(10) == b""


async def test_an_input_stream_is_read_before_its_file_is_open_and_learns_enoent_then() -> None:
    async with FileSystem(a_driver()) as fs, InputStream(fs.open("/m/none")) as stream:
        with pytest.raises(BlockingIOError):
            stream.read(1)
        with pytest.raises(FileNotFoundError):
            await stream.receive(1)
        with pytest.raises(FileNotFoundError):
            stream.read(1)


async def test_an_input_stream_keeps_to_its_range_and_can_be_moved() -> None:
    async with FileSystem(a_driver()) as fs, InputStream(fs.open("/m/a"), 100, 300, buffer_size=64) as stream:
        assert await stream.receive_exactly(1000) == BODY[100:300]
        stream.seek(150)
        assert await stream.receive_exactly(10) == BODY[150:160]
        stream.seek(170)
        assert await stream.receive_exactly(10) == BODY[170:180]
        stream.seek(120)
        assert await stream.receive_exactly(10) == BODY[120:130]
        assert await stream.receive_exactly(0) == b""


async def test_the_callback_of_an_input_stream_tells_when_to_read() -> None:
    async with FileSystem(a_driver()) as fs, InputStream(fs.open("/m/a")) as stream:
        event = trio.Event()
        stream.set_input_callback(lambda context: event.set())
        while True:
            try:
                assert stream.read(10) == BODY[:10]
                break
            except BlockingIOError:
                await event.wait()
                event = trio.Event()


async def test_an_output_stream_writes_all_bytes_in_order_and_keeps_within_its_buffer() -> None:
    driver = a_driver()
    async with FileSystem(driver, write_buffer=10_000) as fs:
        async with OutputStream(fs.create("/m/new"), buffer_size=3000) as stream:
            event = trio.Event()
            stream.set_output_callback(lambda context: event.set())
            sent = blocked = 0
            while sent < len(BODY):
                try:
                    sent += stream.write(memoryview(BODY)[sent : sent + 1111])
                except BlockingIOError:
                    blocked += 1
                    await event.wait()
                    event = trio.Event()
                assert stream.buffered <= 3000
                assert stream.pending() <= 3000
            assert blocked
            assert stream.write(b"") == 0
            await stream.finish()
            assert stream.buffered == stream.pending() == 0
            await stream.handle.commit_async()
        assert driver.get("/m/new") == BODY


async def test_an_output_stream_that_is_closed_without_a_commit_leaves_nothing() -> None:
    driver = a_driver()
    async with FileSystem(driver) as fs:
        async with OutputStream(fs.create("/m/new")) as stream:
            await stream.send_all(BODY)
            await stream.finish()
        async with OutputStream(fs.open("/m/a", OpenMode.APPEND)) as stream:
            await stream.send_all(BODY)
    assert driver.get("/m/a") == BODY
    assert list(driver.tree.find("/m").entries) == ["a"]


class Deflating(OutputStream):
    """A stream with a flush of its own."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._deflate = zlib.compressobj()
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        self.emit()
        self.emit(self._deflate.compress(self.take()))

    async def end(self) -> None:
        """Everything is written."""
        await self.finish()
        tail = self._deflate.flush()
        while True:
            try:
                self.emit(tail)
                return
            except BlockingIOError:
                tail = b""
                await self.handle.writable()


async def test_a_derived_output_stream_converts_in_its_flush() -> None:
    driver = a_driver()
    fs = FileSystem(driver, write_buffer=500)
    async with fs, Deflating(fs.create("/m/new"), buffer_size=4000) as stream:
        await stream.send_all(BODY)
        await stream.end()
        assert stream.flushes >= len(BODY) // 4000
        await stream.handle.commit_async()
    assert zlib.decompress(driver.get("/m/new")) == BODY


class Upper(InputStream):
    """A stream with a fill of its own."""

    def fill(self, size: int, offset: int) -> bytes:
        return super().fill(size, offset).upper()


async def test_a_derived_input_stream_converts_in_its_fill() -> None:
    driver = a_driver()
    driver.put("/m/text", b"lower case")
    async with FileSystem(driver) as fs, Upper(fs.open("/m/text")) as stream:
        assert await stream.receive_exactly(100) == b"LOWER CASE"


async def test_streams_need_a_buffer_and_a_range() -> None:
    async with FileSystem(a_driver()) as fs, fs.open("/m/a") as handle:
        with pytest.raises(ValueError, match="buffer"):
            InputStream(handle, buffer_size=0)
        with pytest.raises(ValueError, match="range"):
            InputStream(handle, 5, 4)
        with pytest.raises(ValueError, match="buffer"):
            OutputStream(handle, buffer_size=0)
