"""Messages of format 3 in a store that Dovecot made: read like any other, beside those of format 2.

The records are made by hand from the format page, and put in the place of Dovecot's.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from dboxfs.dbox import parse_last_trailer
from dboxfs.errors import CorruptFile
from dboxfs.fsapi import FileSystem, InputStream, MemoryDriver, ThreadsDriver
from dboxfs.store import KNOWN, Body, parse_location
from dboxfs.store.attrs import CODED
from dboxfs.store.body_stream import BodyStream
from dboxfs.store.mdbox.storage import MdboxStorage
from tests.dbox.golden3 import HEADER, file_of, record, separator
from tests.live.dovecot import Account, Append, Dovecot
from tests.store.opened import box_of, opened

BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


def old(n: int) -> bytes:
    return b"Subject: %d\n\n" % n + b"body of %d\n" % n * 40


async def text(body: Body) -> bytes:
    try:
        return await body.read(body.size + 1, 0)
    finally:
        body.close()


def lines(n: int) -> bytes:
    return b"R%x\nV%x\nG%032x\n" % (1000 + n, 5, n)


async def hand_made(dovecot: Dovecot, driver: str) -> tuple[Account, dict[int, bytes], Path]:
    """Messages 1 to 4 by Dovecot; 2 and 3 (mdbox: also 4, and 1 is gone) are of format 3 now; 3's file."""
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(Append(old(n)) for n in range(1, 5))
    texts = {n: old(n) for n in range(1, 5)}
    if driver == "sdbox":
        for n in (2, 3):
            texts[n] = b"\x1f\x8b new %d\n" % n + HEADER + b"\n" * n
            path = account.root / f"mailboxes/INBOX/dbox-Mails/u.{n}"
            path.write_bytes(HEADER + record(50, separator(n), texts[n], lines(n)))
        return account, texts, path
    path = account.root / "storage/m.1"
    async with FileSystem(ThreadsDriver()) as fs:
        storage = MdboxStorage(fs, parse_location(account.location))
        mapping = await storage.map()
        storage.close()
    raw = bytearray(path.read_bytes())
    raw[:50] = HEADER  # which takes more room than Dovecot's: there was message 1
    del texts[1]
    for n in texts:
        place = mapping.lookup(n)
        assert place is not None
        size = place.size - len(record(place.offset, separator(n), b"", lines(n)))
        texts[n] = (b"\x1f\x8b" + old(n))[:size]
        raw[place.offset : place.offset + place.size] = record(place.offset, separator(n), texts[n], lines(n))
    path.write_bytes(raw)
    return account, texts, path


@BOTH
async def test_facts_and_bytes_are_those_of_the_records(dovecot: Dovecot, driver: str) -> None:
    account, texts, _ = await hand_made(dovecot, driver)
    async with opened(account) as (store, _):
        box = box_of(store)
        await box.scan()
        for n, expected in texts.items():
            facts = await box.facts_of(n)
            assert (facts.state, facts.size) == (KNOWN, len(expected))
            if driver == "mdbox" or n in (2, 3):
                assert facts.received == 1000 + n
            assert await text(await box.open(n)) == expected
            now = box.open_now(n)
            assert now is not None, "what was read a moment ago is opened without waiting"
            assert await text(now) == expected


async def test_compressed_is_what_says_so(dovecot: Dovecot) -> None:
    account, texts, path = await hand_made(dovecot, "sdbox")
    plain = b"Subject: compressed\n\n" + b"long " * 50
    meta = lines(3) + b"Z%x\nCgz\n" % len(plain)
    path.write_bytes(HEADER + record(50, separator(3), gzip.compress(plain, mtime=0), meta))
    async with opened(account) as (store, _):
        box = box_of(store)
        await box.scan()
        facts = await box.facts_of(3)
        assert (facts.state, facts.size) == (KNOWN | CODED, len(plain))
        assert await text(await box.open(3)) == plain
        assert await text(await box.open(2)) == texts[2], "this one only begins like a compressed one"


@BOTH
@pytest.mark.parametrize("part", ["header", "trailer", "end"])
async def test_damaged_message_is_an_error_on_itself_alone(dovecot: Dovecot, driver: str, part: str) -> None:
    account, texts, path = await hand_made(dovecot, driver)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"\x01\x02" + separator(3))
    whole = record(start, separator(3), texts[3], lines(3))
    raw[start + {"header": 5, "trailer": len(whole) - 150, "end": len(whole) - 1}[part]] ^= 1
    path.write_bytes(raw)
    async with opened(account) as (store, _):
        box = box_of(store)
        await box.scan()
        facts = await box.facts_of(3)
        assert facts.damaged
        assert facts.size == (len(texts[3]) if part == "header" else 0)
        with pytest.raises(CorruptFile) as caught:
            await box.open(3)
        assert caught.value.path == str(path)
        assert start <= caught.value.offset <= start + len(whole)
        for n in texts.keys() - {3}:
            assert await text(await box.open(n)) == texts[n]


@pytest.mark.parametrize("line", [b"2", b"x", HEADER[:20] + b"xx"])
async def test_damaged_header_line_of_a_shared_file_costs_no_message(dovecot: Dovecot, line: bytes) -> None:
    account, texts, path = await hand_made(dovecot, "mdbox")
    path.write_bytes(line + path.read_bytes()[len(line) :])
    async with opened(account) as (store, _):
        box = box_of(store)
        await box.scan()
        for n, expected in texts.items():
            assert (await box.facts_of(n)).size == len(expected)
            assert await text(await box.open(n)) == expected


async def test_long_metadata_are_read_from_the_end(dovecot: Dovecot) -> None:
    account, texts, path = await hand_made(dovecot, "sdbox")
    path.write_bytes(HEADER + record(50, separator(3), texts[3], b"B" + b"x" * 3000 + b"\n" + lines(3)))
    async with opened(account) as (store, _):
        box = box_of(store)
        await box.scan()
        assert (await box.facts_of(3)).received == 1003
        assert await text(await box.open(3)) == texts[3]


# -- forward ------------------------------------------------------------------------------------------------

BIG = os.urandom(300_000) + HEADER


async def forward(stream: BodyStream, size: int = 777) -> bytes:
    parts = []
    while part := await stream.receive(size):
        parts.append(part)
    return b"".join(parts)


async def test_stream_of_a_file_that_is_not_open_yet_gives_what_its_end_says() -> None:
    data = HEADER + record(50, separator(1), BIG, lines(1))
    driver = MemoryDriver()
    driver.put("/u.1", data)
    async with FileSystem(driver) as fs:
        stream = BodyStream(InputStream(fs.open("/u.1")))
        with pytest.raises(BlockingIOError):
            stream.read(1)
        assert await forward(stream) == BIG
        assert stream.record == parse_last_trailer(data, end=len(data))
        assert stream.header is not None
        assert stream.read(1) == b""
        stream.close()
        missing = BodyStream(InputStream(fs.open("/u.2")))
        with pytest.raises(FileNotFoundError):
            await missing.receive(1)
        missing.close()


async def test_stream_of_a_record_in_a_shared_file_ends_where_the_map_says() -> None:
    bodies = [b"one\n", BIG, b""]
    data, offsets = file_of(bodies)
    driver = MemoryDriver()
    driver.put("/m.1", data)
    async with FileSystem(driver) as fs:
        for number, expected in enumerate(bodies):
            start, end = offsets[number : number + 2]
            stream = BodyStream(InputStream(fs.open("/m.1"), start, end), start)
            assert await forward(stream, 100_000) == expected
            assert stream.record == parse_last_trailer(data[:end], end=end)
            stream.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends inside its header line"),
        (HEADER[:-1], "ends inside its header line"),
        (HEADER, "ends inside its message header"),
        (HEADER + b"\x01\x03", "no message header"),
        (HEADER + record(50, separator(1), BIG)[:-1], "ends inside its body or trailer"),
        (HEADER + record(51, separator(1), BIG), "ends inside its body or trailer"),
        (HEADER + record(50, separator(1), BIG) + b"x", "ends inside its body or trailer"),
        (b"2 M1e C1\n", "a file of format 2"),
    ],
)
async def test_stream_without_a_whole_record_says_so(data: bytes, reason: str) -> None:
    driver = MemoryDriver()
    driver.put("/u.1", data)
    async with FileSystem(driver) as fs:
        stream = BodyStream(InputStream(fs.open("/u.1")))
        with pytest.raises(CorruptFile, match=reason):
            await forward(stream)
        stream.close()
