"""What an archive promises: everything of the store, each message once, and each generation as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.errors import CorruptFile
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, open_store
from dboxfs.store.mailbox import Mailbox
from dboxfs.tools.archive import ArchiveOptions, ArchiveView, parse_at
from dboxfs.tools.check import CheckOptions, Finding, check_store
from dboxfs.tools.convert import Converter
from dboxfs.tools.rescue import RescueOptions, rescue_store
from tests.tools.archive.archives import (
    FAST,
    URL,
    FaultyObjects,
    add,
    archive,
    change,
    make_store,
    memory,
    of_archive,
    of_store,
    saved_as_before,
    texts,
)


@pytest.mark.parametrize("kind", ["mdbox", "sdbox"])
async def test_each_generation_shows_everything_of_the_store_as_it_was(tmp_path: Path, kind: str) -> None:
    location = await make_store(tmp_path / "store", kind)
    objects = FaultyObjects(memory())
    done = await archive(location, objects)
    assert (done.new, done.stored, done.failed, done.told) == (True, 6, [], [])
    first, generation = await of_store(location), done.generation
    assert await of_archive(objects) == first

    before = len(objects.steps)
    again = await archive(location, objects)
    assert (again.new, again.stored, again.generation) == (False, 0, generation)
    assert objects.steps[before:] == [("put", "lock"), ("delete", "lock")]

    await change(location)
    later = await archive(location, objects)
    assert (later.new, later.stored, later.failed, later.told) == (True, 2, [], [])
    assert await of_archive(objects) == saved_as_before(await of_store(location), first)
    assert later.generation is not None
    date = later.generation.key.removeprefix("generations/")
    assert await of_archive(objects, date) == first


async def test_a_message_that_moved_or_was_copied_is_not_stored_again(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store", "sdbox")
    objects = memory()
    await archive(location, objects, ArchiveOptions(mailboxes=frozenset({"INBOX"})))
    done = await archive(location, objects)
    assert (done.new, done.stored) == (True, 0)
    assert await of_archive(objects) == await of_store(location)


async def test_message_files_are_sealed_at_their_size_and_never_written_again(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store", messages=12)
    objects = FaultyObjects(memory())
    await archive(location, objects, ArchiveOptions(sealed=2000))
    await add(location, 20, 21)
    await archive(location, objects, ArchiveOptions(sealed=2000))
    written = [key for kind, key in objects.steps if kind == "put" and key.startswith("data/")]
    assert len(written) == len(set(written)) > 3
    assert await of_archive(objects) == await of_store(location)


async def test_only_what_was_received_before_a_day_and_only_some_mailboxes(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store")
    objects = memory()
    whole = await of_store(location)
    day = 1_600_000_000 + 3 * 86400
    await archive(location, objects, ArchiveOptions(before=day, mailboxes=frozenset({"INBOX"})))
    found = await of_archive(objects)
    assert list(found["INBOX"]["messages"]) == [1, 2, 3]  # type: ignore[call-overload]
    assert found["Work/Deep"] == {}
    await archive(location, objects, ArchiveOptions(mailboxes=frozenset({"Work/Deep"})))
    found = await of_archive(objects)
    assert list(found["INBOX"]["messages"]) == [1, 2, 3]  # type: ignore[call-overload]
    assert found["Work/Deep"] == whole["Work/Deep"]


async def test_a_listing_reads_no_object_but_indexes(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store", messages=70)
    objects = FaultyObjects(memory())
    await archive(location, objects)
    read: list[str] = []

    def reads(key: str, data: bytes) -> bytes:
        read.append(key)
        return data

    objects.reads = reads
    view = ArchiveView(URL, make=lambda url, access: objects)
    async with (
        FileSystem(view.driver()) as fs,
        open_store(fs, view.location(), follow=False, cache_dir=view.cache_dir) as store,
    ):
        box = store.folders["INBOX"].mailbox
        assert box is not None
        await box.scan()
        assert [box.known(uid).size > 0 for uid in box.uids.tolist()] == [True] * 70
    assert read
    assert {key.partition("/")[0] for key in read} == {"generations", "index"}
    assert len(read) == len(set(read))


async def test_a_conversion_of_an_archive_is_the_store(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store")
    objects = memory()
    await archive(location, objects)
    view = ArchiveView(URL, make=lambda url, access: objects)
    target = tmp_path / "back"
    async with (
        FileSystem(ThreadsDriver(2)) as local,
        FileSystem(view.driver()) as fs,
        open_store(fs, view.location(), follow=False) as store,
    ):
        done = await Converter(local, store, str(target), Kind.SDBOX, verify=True, options=FAST).run()
    assert (done.failed, done.told, done.verified) == ([], [], 8)
    back = await of_store(view.location().same_names(Kind.SDBOX, str(target)))
    assert back == await of_store(location)


async def test_check_finds_nothing_in_an_archive_and_names_what_is_damaged(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store")
    objects = memory()
    await archive(location, objects)

    async def check() -> list[Finding]:
        found: list[Finding] = []
        view = ArchiveView(URL, make=lambda url, access: objects)
        async with FileSystem(view.driver()) as fs:
            await check_store(fs, view.location(), found.append, CheckOptions(patience=()))
        return found

    assert await check() == []
    (data,) = [info.key for info in objects.list_all("data")]
    whole = bytearray(objects.get_whole(data))
    whole[whole.index(b"number 2")] ^= 1
    objects.put(data, bytes(whole), create=False)
    assert {finding.uid for finding in await check() if finding.uid} >= {3}


@pytest.mark.parametrize("gone", ["index/", "generations/"])
async def test_a_rescue_needs_no_index_objects(tmp_path: Path, gone: str) -> None:
    location = await make_store(tmp_path / "store")
    objects = memory()
    await archive(location, objects)
    for info in list(objects.list_all(gone)):
        objects.delete(info.key)
    view = ArchiveView(URL, damaged=True, make=lambda url, access: objects)
    async with FileSystem(ThreadsDriver(2)) as local, FileSystem(view.driver()) as fs:
        options = RescueOptions(Kind.MDBOX, writing=FAST)
        target = str(tmp_path / "rescued")
        await rescue_store(fs, view.location(), target, options, lambda event: None, target_fs=local)
    rescued = await of_store(location.same_names(Kind.MDBOX, target))
    assert texts(rescued) == texts(await of_store(location))


async def test_a_message_that_cannot_be_read_is_told_left_out_and_tried_again(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store", "sdbox")
    objects = memory()
    path = tmp_path / "store" / "mailboxes" / "INBOX" / "dbox-Mails" / "u.3"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    done = await archive(location, objects)
    (line,) = done.failed
    assert line.startswith("INBOX: uid 3 was left out: ")
    assert list((await of_archive(objects))["INBOX"]["messages"]) == [1, 2, 4, 5, 6]  # type: ignore[call-overload]
    path.write_bytes(whole)
    again = await archive(location, objects)
    assert (again.new, again.stored, again.failed) == (True, 1, [])
    assert texts(await of_archive(objects)) == texts(await of_store(location))


@pytest.mark.expected_log("the map names this file, but it is missing")
async def test_an_object_that_is_gone_costs_its_own_messages_alone(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "store", messages=9)
    objects = memory()
    await archive(location, objects, ArchiveOptions(sealed=1500))
    keys = sorted(info.key for info in objects.list_all("data"))
    assert len(keys) > 2
    objects.delete(keys[1])
    view = ArchiveView(URL, make=lambda url, access: objects)
    async with (
        FileSystem(view.driver()) as fs,
        open_store(fs, view.location(), follow=False, cache_dir=view.cache_dir) as store,
    ):
        box = store.folders["INBOX"].mailbox
        assert box is not None
        lost = [uid for uid in box.uids.tolist() if not await is_readable(box, uid)]
    assert 0 < len(lost) < 9


async def is_readable(box: Mailbox, uid: int) -> bool:
    """Whether a message is there, whole; it is damaged if not."""
    try:
        body = await box.open(uid)
    except CorruptFile:
        return False
    with contextlib.closing(body):
        return len(await body.read(body.size, 0)) == body.size


def test_dates_of_at(time_zone: Callable[[str], None]) -> None:
    time_zone("UTC")
    assert parse_at("2026-11-01") == "20261101T000000Z"
    assert parse_at("2026-11-01T09:30:00Z") == parse_at("2026-11-01T09:30:00") == "20261101T093000Z"
    time_zone("XYZ-3")  # three hours before UTC
    assert parse_at("2026-11-01") == "20261031T210000Z"
    assert parse_at("2026-11-01T09:30:00") == parse_at("2026-11-01 09:30") == "20261101T063000Z"
    assert parse_at("2026-11-01T09:30:00Z") == "20261101T093000Z"
    for text in ("", "2026", "yesterday", "20261101"):
        with pytest.raises(ValueError, match="neither a day"):
            parse_at(text)
