"""What the ``objects`` driver does beyond the conformance suite, on obstore's memory and local stores."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from dboxfs.fsapi import CreateMode, FileSystem, ObjectsDriver, Peek, PeekResult
from dboxfs.fsapi.drivers.object_access import shared_config
from dboxfs.fsapi.drivers.object_blocks import BlockReader
from dboxfs.fsapi.drivers.object_client import (
    PART,
    Cost,
    ObjectInfo,
    Objects,
    connect,
    is_url,
    understood,
)
from dboxfs.fsapi.drivers.object_files import key_of


class Recorded:
    """A store that notes what is asked of it."""

    def __init__(self, inner: Objects) -> None:
        self.inner = inner
        self.asked: list[tuple[str, str, object]] = []
        self.head, self.delete, self.copy = inner.head, inner.delete, inner.copy
        self.get_whole, self.list_all, self.list_level = inner.get_whole, inner.list_all, inner.list_level

    @property
    def cost(self) -> Cost:
        return self.inner.cost

    def get(self, key: str, start: int, end: int, etag: str | None = None) -> bytes:
        self.asked.append(("get", key, (start, end)))
        return self.inner.get(key, start, end, etag)

    def put(self, key: str, data: bytes | memoryview, *, create: bool) -> None:
        self.asked.append(("put", key, create))
        self.inner.put(key, data, create=create)

    def put_file(self, key: str, file: BinaryIO, size: int) -> None:
        self.asked.append(("put_file", key, size))
        self.inner.put_file(key, file, size)


async def _write(
    fs: FileSystem, path: str, data: bytes, mode: CreateMode = CreateMode.FAIL_IF_EXISTS
) -> None:
    async with fs.create(path, mode) as handle:
        await handle.write_all(data)
        await handle.commit_async()


async def test_a_commit_is_one_put_and_a_large_replacement_an_upload_in_parts() -> None:
    store = Recorded(connect("memory://"))
    small, large = os.urandom(1000), os.urandom(PART + 1)
    async with FileSystem(ObjectsDriver(lambda: store)) as fs:
        await _write(fs, "/a/small", small)
        await _write(fs, "/a/new", large)
        await _write(fs, "/a/new", large[::-1], CreateMode.REPLACE_IF_EXISTS)
        with pytest.raises(FileExistsError):
            await _write(fs, "/a/new", small)
        async with fs.open("/a/new") as handle:
            assert await handle.read(2 * PART, 0) == large[::-1]
    written = [one for one in store.asked if one[0] != "get"]
    assert written == [("put", "a/small", True), ("put", "a/new", True), ("put_file", "a/new", PART + 1)]


async def test_a_walk_through_a_large_object_takes_about_one_request_a_mebibyte() -> None:
    store = Recorded(connect("memory://"))
    data = os.urandom(16 << 20)
    store.inner.put("big", data, create=True)
    async with FileSystem(ObjectsDriver(lambda: store)) as fs, fs.open("/big") as handle:
        got = bytearray()
        while piece := await handle.read(64 << 10, len(got)):
            got += piece
    assert got == data
    assert len(store.asked) <= 16 * 1.1 + 5  # the window of the read-ahead begins small


async def test_ranges_of_a_peek_that_lie_close_together_are_one_request() -> None:
    store = Recorded(connect("memory://"))
    data = os.urandom(1 << 20)
    store.inner.put("m.1", data, create=True)
    ranges = ((0, 100), (5000, 100), (1 << 19, 10), (-50, None), (-100, 20), (1 << 21, 5))
    async with FileSystem(ObjectsDriver(lambda: store)) as fs:
        (answer,) = await fs.peek([Peek("/m.1", ranges)])
    assert isinstance(answer, PeekResult)
    middle = 1 << 19
    assert answer.chunks == (
        data[:100], data[5000:5100], data[middle : middle + 10], data[-50:], data[-100:-80], b"",
    )  # fmt: skip
    assert [asked for _, _, asked in store.asked] == [
        (0, 5100), (middle, middle + 10), (len(data) - 100, len(data)),
    ]  # fmt: skip


class _LostAnswers(Recorded):
    """A store of which the answer to a create is lost, so that the next try finds its own object."""

    def put(self, key: str, data: bytes | memoryview, *, create: bool) -> None:
        self.inner.put(key, data, create=create)
        self.inner.put(key, data, create=create)


def test_a_create_whose_answer_was_lost_has_happened() -> None:
    store = _LostAnswers(connect("memory://"))
    store.put("a", b"unique", create=True)
    with pytest.raises(FileExistsError):
        store.put("a", b"another", create=True)
    assert store.inner.get_whole("a") == b"unique"


async def test_an_equal_file_of_somebody_else_is_in_the_way_like_any_other() -> None:
    store = connect("memory://")
    store.put("a", b"the same", create=True)
    async with FileSystem(ObjectsDriver(lambda: store)) as fs:
        with pytest.raises(FileExistsError):
            await _write(fs, "/a", b"the same")


class _Cut(Recorded):
    def head(self, key: str) -> ObjectInfo:
        info = self.inner.head(key)
        return ObjectInfo(info.key, info.size + 10, info.modified_ns, info.etag)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a b é.eml", "a b é.eml"),
        ("100%", "100%25"),
        ("..", "%2E%2E"),
        ("line\nend", "line%0Aend"),
        (os.fsdecode(b"caf\xe9"), "caf%E9"),
    ],
)
async def test_a_name_is_a_key_and_back(tmp_path: Path, name: str, key: str) -> None:
    assert key_of(f"/dir/{name}") == f"dir/{key}"
    async with FileSystem(ObjectsDriver(lambda: connect(f"file://{tmp_path}"))) as fs:
        await _write(fs, f"/dir/{name}", b"x")
        assert [entry.name for entry in await fs.listdir("/dir")] == [name]


async def test_a_key_that_no_name_makes_is_not_shown() -> None:
    store = connect("memory://")
    for key in ("good", "dir/%41", "dir/%2"):
        store.put(key, b"x", create=True)
    async with FileSystem(ObjectsDriver(lambda: store)) as fs:
        assert {entry.name for entry in await fs.listdir("/")} == {"good", "dir"}
        assert await fs.listdir("/dir") == []


async def test_an_object_shorter_than_it_says_is_an_error_not_a_short_file() -> None:
    inner = connect("memory://")
    inner.put("a", b"12345", create=True)
    store = _Cut(inner)
    store.head = lambda key: _Cut.head(store, key)  # type: ignore[method-assign]
    async with FileSystem(ObjectsDriver(lambda: store)) as fs, fs.open("/a") as handle:
        with pytest.raises(OSError, match="bytes came of") as caught:
            await handle.read(15, 0)
        assert caught.value.errno == errno.EIO


def test_what_is_a_url() -> None:
    assert all(map(is_url, ("s3://b/p", "S3://b", "gs://b", "az://c/x", "file:///srv/x", "memory://")))
    assert not any(map(is_url, ("/srv/mail", "mdbox:/srv/mail", "http://x/", "s3:/b", "ann")))


def test_profiles_of_the_config_files_are_used_and_variables_win(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile work]\nregion = eu-1\nendpoint_url = https://s3.example\n")
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = A\naws_secret_access_key = %S\n")
    environment = {
        "AWS_PROFILE": "work",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    expected = {
        "access_key_id": "A",
        "secret_access_key": "%S",
        "region": "eu-1",
        "endpoint": "https://s3.example",
    }
    assert shared_config(environment) == expected
    assert shared_config(environment | {"AWS_ACCESS_KEY_ID": "B"}) == {
        "region": "eu-1", "endpoint": "https://s3.example",
    }  # fmt: skip
    assert shared_config(environment | {"AWS_PROFILE": "none"}) == {}


def test_a_missing_obstore_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from dboxfs.errors import Unsupported

    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(
        Unsupported, match=r"^object storage needs the package obstore: pip install 'dboxfs\[objects\]'$"
    ):
        connect("s3://bucket")


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("GET http://h/b in 5ms - Server returned non-2xx status code: 403 Forbidden: <Error>"
         "<Code>SignatureDoesNotMatch</Code>", errno.EIO,
         (errno.EACCES, "the server refuses these credentials (SignatureDoesNotMatch)")),
        ("Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>", errno.EIO,
         (errno.ENOENT, "there is no such bucket")),
        ("after 5 retries - Server returned error response status code: 503 <Code>SlowDown</Code>", errno.EIO,
         (errno.EIO, "the server answers 503 (SlowDown)")),
        ("GET http://h/x?list-type=2 after 5 retries - HTTP error: error sending request", errno.EIO,
         (errno.EIO, "no connection to the server, or no answer in time")),
        ("Object at location a already exists\n\nDebug source: ...", errno.EEXIST,
         (errno.EEXIST, "Object at location a already exists")),
    ],
)  # fmt: skip
def test_what_a_server_answers_is_an_errno_and_one_line(
    text: str, code: int, expected: tuple[int, str]
) -> None:
    assert understood(text, code) == expected


def test_a_walk_brings_blocks_and_a_single_read_only_what_it_asks_for() -> None:
    asked: list[tuple[int, int]] = []
    data = os.urandom(9 << 20)

    def get(key: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    reader = BlockReader(get)
    assert reader.read("a", len(data), 5 << 20, (5 << 20) + 100) == data[5 << 20 : (5 << 20) + 100]
    assert asked == [(5 << 20, (5 << 20) + 100)]
    asked.clear()
    got = b"".join(
        reader.read("a", len(data), start, min(start + 300_000, len(data)))
        for start in range(0, len(data), 300_000)
    )
    assert got == data
    assert asked == [(0, 1 << 20), (1 << 20, 5 << 20), (5 << 20, 9 << 20)]


def test_messages_in_the_order_of_their_names_take_about_one_request_a_mebibyte() -> None:
    size, count = 15_000, 2000
    data = os.urandom(size * count)
    asked: list[int] = []

    def get(key: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return data[start:end]

    reader = BlockReader(get)
    for name in sorted(str(number) for number in range(count)):
        start = int(name) * size
        assert reader.read("a", len(data), start, start + size) == data[start : start + size]
    mebibytes = len(data) / (1 << 20)
    assert len(asked) <= 1.1 * mebibytes
    assert sum(asked) <= 1.5 * len(data)
