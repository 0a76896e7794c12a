"""What is damaged in a source is named and kept, and every conversion comes to its end."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from dboxfs.dbox import RecordWriter, parse_last_trailer
from dboxfs.dbox.format3 import Trailer
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.index.log import RecordType, encode_record, encode_transaction
from dboxfs.store import Kind, Location, open_store, parse_location
from dboxfs.store.location import WRITTEN_NAMES
from dboxfs.store.write import Fsync, Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.tools.check import CheckOptions, Finding, Severity, check_store
from dboxfs.tools.convert import Converted, Converter
from tests.store.write.stores import body

BOX = "mailboxes/INBOX/dbox-Mails"
KINDS = ("sdbox", "mdbox")


def fast(version: int = 2) -> WriteOptions:
    return WriteOptions(Neighbour.ALONE, Fsync.NEVER, dbox_version=version)


async def make_store(root: Path, kind: str = "sdbox", version: int = 2) -> Location:
    """Four messages in INBOX, the second of 400 KB; two copies in Work."""
    location = Location(Kind(kind), str(root))
    async with FileSystem(ThreadsDriver()) as fs:
        await init_store(fs, location, options=fast(version))
        writer = StoreWriter(fs, location, root.stat(), fast(version))
        await writer.create_mailbox("Work")
        texts = [body(number, 400_000 if number == 1 else 500) for number in range(4)]
        saved = await writer.save("INBOX", [NewMessage(text) for text in texts])
        await writer.copy("INBOX", saved.uids[:2], "Work")
    return location


async def convert(
    source: Path, target: Path, kind: str, *, version: int = 2, verify: bool = True
) -> Converted:
    location = parse_location(str(source))
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
        converter = Converter(fs, store, str(target), Kind(kind), verify=verify, options=fast(version))
        return await converter.run()


async def loud(root: Path) -> list[Finding]:
    found: list[Finding] = []
    async with FileSystem(ThreadsDriver()) as fs:
        location = parse_location(str(root), damaged=True)
        await check_store(fs, location, found.append, CheckOptions(patience=()))
    return [finding for finding in found if finding.severity is not Severity.NOTE]


async def texts(root: Path, name: str = "INBOX") -> dict[int, bytes]:
    location = parse_location(str(root))
    found = {}
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
        box = store.folders[name].mailbox
        assert box is not None
        for uid in box.uids.tolist():
            message = await box.open(uid)
            found[uid] = await message.read(message.size, 0)
            message.close()
    return found


def rewrite(path: Path, packed: bytes | None, lines: bytes) -> None:
    """The message of *path* with other stored bytes (None: the same), and metadata lines in front."""
    data = path.read_bytes()
    head, rest = data.split(b"\n", 1)
    size = int(rest[13:29], 16)
    text, meta = rest[30 : 30 + size], rest[30 + size :]
    stored = text if packed is None else packed
    meta = meta.replace(b"\n\x01\x03\n", b"\n\x01\x03\n" + lines, 1)
    path.write_bytes(head + b"\n" + rest[:13] + b"%016X\n" % len(stored) + stored + meta)


def compress(path: Path, claim: int = 0) -> bytes:
    """Store the message compressed, with a Z that is *claim* off; gives the stored bytes."""
    data = path.read_bytes()
    size = int(data.split(b"\n", 1)[1][13:29], 16)
    start = data.index(b"\n") + 31
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(data[start : start + size]) + packer.flush()
    rewrite(path, packed, b"Z%x\n" % (size + claim))
    return packed


@pytest.mark.expected_log("")
@pytest.mark.parametrize("uid", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_plain_size_is_named_and_corrected_and_the_conversion_ends(
    tmp_path: Path, kind: str, uid: int
) -> None:
    await make_store(tmp_path / "mail")
    expected = await texts(tmp_path / "mail")
    compress(tmp_path / "mail" / BOX / f"u.{uid}", claim=-3)
    done = await convert(tmp_path / "mail", tmp_path / "new", kind)
    assert done.failed == []
    assert [line.split(": ")[:2] for line in done.told] == [["INBOX", f"uid {uid}"], ["Work", f"uid {uid}"]]
    assert "right size" in done.told[0]
    assert await texts(tmp_path / "new") == expected
    assert await loud(tmp_path / "new") == []


@pytest.mark.expected_log("")
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("uid", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_damaged_compressed_text_is_named_and_kept_as_it_is_stored(
    tmp_path: Path, kind: str, uid: int, verify: bool
) -> None:
    await make_store(tmp_path / "mail")
    packed = bytearray(compress(tmp_path / "mail" / BOX / f"u.{uid}"))
    packed[len(packed) // 2] ^= 0x55
    path = tmp_path / "mail" / BOX / f"u.{uid}"
    data = path.read_bytes()
    path.write_bytes(data[:46] + packed + data[46 + len(packed) :])
    done = await convert(tmp_path / "mail", tmp_path / "new", kind, verify=verify)
    assert done.failed == []
    assert [line for line in done.told if line.startswith(f"INBOX: uid {uid}: kept as it is stored")]
    assert any(bytes(packed) in path.read_bytes() for path in (tmp_path / "new").rglob("[um].[0-9]*"))
    assert {(one.mailbox, one.uid) for one in await loud(tmp_path / "new")} >= {("INBOX", uid)}


@pytest.mark.expected_log("")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_plain_text_that_its_sizes_contradict_is_named_and_kept(tmp_path: Path, kind: str) -> None:
    await make_store(tmp_path / "mail")
    path = tmp_path / "mail" / BOX / "u.3"
    path.write_bytes(path.read_bytes().replace(b"text, number 2\n", b"text, number 2X", 1))
    done = await convert(tmp_path / "mail", tmp_path / "new", kind)
    assert done.failed == []
    assert [
        line for line in done.told if line.startswith("INBOX: uid 3: kept as it is stored, but damaged: V")
    ]
    assert await texts(tmp_path / "new") == await texts(tmp_path / "mail")


@pytest.mark.parametrize("target", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
async def test_damage_that_a_checksum_shows_is_named_and_stays_visible(
    tmp_path: Path, kind: str, target: int
) -> None:
    await make_store(tmp_path / "mail", version=3)
    path = tmp_path / "mail" / BOX / "u.3"
    path.write_bytes(path.read_bytes().replace(b"Subject: number", b"Subject: nomber", 1))
    done = await convert(tmp_path / "mail", tmp_path / "new", kind, version=target)
    assert done.failed == []
    (line,) = done.told
    assert line.startswith("INBOX: uid 3: kept as it is stored, but damaged: its CRC-32 is")
    found = {(one.code, one.mailbox, one.uid) for one in await loud(tmp_path / "new")}
    assert found == ({("message-damaged", "INBOX", 3)} if target == 3 else set())


@pytest.mark.expected_log("")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_without_a_readable_date_is_kept(tmp_path: Path, kind: str) -> None:
    await make_store(tmp_path / "mail")
    path = tmp_path / "mail" / BOX / "u.3"
    path.write_bytes(re.sub(rb"\nR[0-9a-f]+\n", b"\nRjunk\n", path.read_bytes()))
    expected = await texts(tmp_path / "mail")
    done = await convert(tmp_path / "mail", tmp_path / "new", kind)
    assert done.failed == []
    (line,) = done.told
    assert line.startswith("INBOX: uid 3: ")
    assert "the date when it was saved" in line
    assert await texts(tmp_path / "new") == expected
    assert await loud(tmp_path / "new") == []


@pytest.mark.parametrize("version", [2, 3])
async def test_copies_that_lost_their_hard_links_are_one_record_again(tmp_path: Path, version: int) -> None:
    await make_store(tmp_path / "linked", version=version)
    shutil.copytree(tmp_path / "linked", tmp_path / "mail")  # as rsync without -H
    assert len({path.stat().st_ino for path in (tmp_path / "mail").rglob("u.*")}) == 6
    done = await convert(tmp_path / "mail", tmp_path / "new", "mdbox", version=version)
    assert (done.failed, done.told) == ([], [])
    assert await loud(tmp_path / "new") == []
    size = sum(path.stat().st_size for path in (tmp_path / "new/storage").glob("m.*"))
    assert size < 410_000
    for name in ("INBOX", "Work"):
        assert await texts(tmp_path / "new", name) == await texts(tmp_path / "mail", name)


async def test_messages_with_one_guid_and_two_texts_are_both_kept_and_told(tmp_path: Path) -> None:
    await make_store(tmp_path / "mail")
    first, third = (tmp_path / "mail" / BOX / name for name in ("u.1", "u.3"))
    guid = re.search(rb"\nG([0-9a-f]{32})\n", first.read_bytes())
    assert guid is not None
    third.write_bytes(re.sub(rb"\nG[0-9a-f]{32}\n", guid[0], third.read_bytes()))
    done = await convert(tmp_path / "mail", tmp_path / "new", "mdbox")
    assert done.failed == []
    assert [line for line in done.told if line.startswith("INBOX: uid 3: it has the guid of another message")]
    assert await texts(tmp_path / "new") == await texts(tmp_path / "mail")


def test_the_checksum_of_a_trailer_is_that_of_its_source() -> None:
    record = RecordWriter(bytes(16), 50, bytes(16))
    record.feed(b"damaged")
    trailer = parse_last_trailer(bytes(76) + record.trailer([], crc=7), end=76 + len(record.trailer([])))
    assert isinstance(trailer, Trailer)
    assert trailer.crc == 7


async def test_written_names_are_kept(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "mail")
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
        guids = {name: folder.mailbox.guid for name, folder in store.folders.items() if folder.mailbox}
    names = tmp_path / "mail" / WRITTEN_NAMES
    names.mkdir()
    for name, guid in guids.items():
        assert guid is not None
        (names / guid.hex()).write_bytes(f"lines of {name}\n".encode())
    for kind in KINDS:
        done = await convert(tmp_path / "mail", tmp_path / kind, kind)
        assert done.failed == []
        copied = {path.name: path.read_bytes() for path in (tmp_path / kind / WRITTEN_NAMES).iterdir()}
        assert copied == {path.name: path.read_bytes() for path in names.iterdir()}
        assert len(copied) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_mailbox_without_a_uidvalidity_gets_one(tmp_path: Path, kind: str) -> None:
    await make_store(tmp_path / "mail")
    log = tmp_path / "mail" / BOX / "dovecot.index.log"
    zero = encode_record(RecordType.HEADER_UPDATE, struct.pack("<HH", 24, 4) + bytes(4))
    log.write_bytes(log.read_bytes() + encode_transaction([zero]))
    expected = await texts(tmp_path / "mail")
    done = await convert(tmp_path / "mail", tmp_path / "new", kind)
    assert done.failed == []
    assert done.told == ["INBOX: it has no UIDVALIDITY and gets a new one"]
    assert await texts(tmp_path / "new") == expected
    assert await loud(tmp_path / "new") == []
