"""Bits flipped and files cut anywhere in a store: what is not damaged is as it was, and no worse happens.

The stores are made by Dovecot and copied into memory; then one file is damaged at a time, at random places
with a fixed seed.  The memory driver and a clock that jumps make a thousand damaged stores affordable.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dboxfs.errors import CorruptFile, NoSuchMessage
from dboxfs.fsapi import FileSystem, MemoryDriver
from dboxfs.store import Kind, Location, Mailbox, open_store
from tests.live.dovecot import Append, Dovecot

COUNT = 9
OUTSIDE = "sdbox gz attachments"
KINDS = pytest.mark.parametrize("kind", ["sdbox", "mdbox", OUTSIDE])


def message(n: int) -> bytes:
    return b"Subject: %d\n\n" % n + b"body of %d\n" % n * (n + 1)


def with_attachments(n: int) -> bytes:
    """A message with parts that Dovecot keeps in files of their own, base64 and plain."""
    head = b'Subject: %d\nContent-Type: multipart/mixed; boundary="b"\n\n--b\n\ntext %d\n' % (n, n)
    line = base64.b64encode(bytes(range(n, n + 54))) + b"\n"
    encoded = b"--b\nContent-Type: image/x\nContent-Transfer-Encoding: base64\n\n" + line * 30
    plain = b"--b\nContent-Type: application/x\n\n" + b"some bytes\n" * 150
    return head + encoded + plain + b"--b--\n"


@dataclass(frozen=True, slots=True)
class Made:
    """The files of a store, by path, and the text of each message, by uid."""

    location: Location
    files: dict[str, bytes]
    texts: dict[int, bytes]

    def owner(self, path: str, at: int) -> int | None:
        """The uid of the message whose record the byte is in; None: in no one's, or in no message file."""
        name = Path(path).name
        if match := re.fullmatch(r"u\.([0-9]+)|[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-([0-9]+)", name):
            return int(match[1] or match[2])
        if not re.fullmatch(r"m\.[0-9]+", name):
            return None
        data = self.files[path]
        for uid, text in self.texts.items():
            start = data.find(text) - 30
            end = data.find(b"\n\n", start + 30 + len(text)) + 2
            if 0 <= start <= at < end:
                return uid
        return None


@pytest.fixture(scope="module")
def stores(dovecot_daemon: Dovecot) -> dict[str, Made]:
    found = {}
    outside = {
        "zlib_save": "gz",
        "mail_attachment_dir": "{home}/attachments",
        "mail_attachment_min_size": "1000",
        "mail_attachment_fs": "posix",
    }
    for kind, settings, make in (
        ("sdbox", {}, message),
        ("mdbox", {}, message),
        (OUTSIDE, outside, with_attachments),
    ):
        driver = kind.split(" ")[0]
        account = dovecot_daemon.account(f"{driver}:{{home}}/mail", **settings)
        account.append(Append(make(n), flags="\\Seen work") for n in range(1, COUNT + 2))
        account.doveadm("expunge", "mailbox", "INBOX", "uid", "4")
        account.doveadm("flags add", "\\Flagged", "mailbox", "INBOX", "uid", "2:6")
        files = {str(path): path.read_bytes() for path in account.home.rglob("*") if path.is_file()}
        texts = {n: make(n) for n in range(1, COUNT + 2) if n != 4}
        location = Location(
            Kind(driver), str(account.root), attachments=account.settings.get("mail_attachment_dir")
        )
        found[kind] = Made(location, files, texts)
    assert sum("/attachments/" in path for path in found[OUTSIDE].files) > COUNT
    return found


async def read_all(box: Mailbox) -> dict[int, bytes | Exception]:
    """What each message of the mailbox gives: its bytes, or the error that a reader gets."""
    found: dict[int, bytes | Exception] = {}
    await box.scan()
    for uid in box.uids.tolist():
        try:
            facts = await box.facts_of(uid)
            body = await box.open(uid)
            try:
                found[uid] = await body.read(body.size, 0)
                if facts.size != body.size:
                    found[uid] = AssertionError(f"size {facts.size} shown, {body.size} read")
            finally:
                body.close()
        except (CorruptFile, NoSuchMessage, OSError) as exc:
            found[uid] = exc
    return found


async def look(made: Made, files: dict[str, bytes]) -> tuple[dict[int, bytes | Exception], bool]:
    """Every message of INBOX in this version of the files, and whether the mailbox itself could be read."""
    driver = MemoryDriver(nowait=True)
    for path, data in files.items():
        driver.put(path, data)
    async with FileSystem(driver) as fs, open_store(fs, made.location) as store:
        box = store.folders["INBOX"].mailbox
        assert box is not None
        found = await read_all(box)
        assert fs.stats()["open_handles"] <= len(files)
        return found, not store.index_errors


def index_files(made: Made) -> list[str]:
    return sorted(path for path in made.files if ".index" in path and "cache" not in path)


def message_files(made: Made) -> list[str]:
    return sorted(path for path in made.files if re.search(r"/[um]\.[0-9]+$|/attachments/", path))


def flips(
    rng: random.Random, files: dict[str, bytes], paths: list[str], count: int
) -> Iterator[tuple[str, int, bytes]]:
    """(path, offset, damaged content) with one bit changed."""
    for _ in range(count):
        path = rng.choice(paths)
        at = rng.randrange(len(files[path]))
        data = bytearray(files[path])
        data[at] ^= 1 << rng.randrange(8)
        yield path, at, bytes(data)


@KINDS
async def test_undamaged_stores_in_memory_read_as_they_are(stores: dict[str, Made], kind: str) -> None:
    made = stores[kind]
    assert await look(made, made.files) == (made.texts, True)


@KINDS
async def test_a_bit_in_a_message_file_costs_its_message_alone(
    stores: dict[str, Made], kind: str, autojump_clock: object
) -> None:
    made, errors = stores[kind], 0
    for path, at, data in flips(random.Random(kind), made.files, message_files(made), 80):
        found, _ = await look(made, {**made.files, path: data})
        owner = made.owner(path, at)
        assert set(found) == set(made.texts)
        for uid, text in made.texts.items():
            if owner is not None and uid != owner:
                assert found[uid] == text, (path, at, uid)
            elif isinstance(found[uid], Exception):
                assert isinstance(found[uid], CorruptFile), (path, at, found[uid])
                errors += 1
    assert errors > 5


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
async def test_a_bit_in_an_index_never_shows_what_is_no_message(
    stores: dict[str, Made], kind: str, autojump_clock: object
) -> None:
    made, readable = stores[kind], 0
    whole = set(made.texts.values()) | {message(4)}
    for path, at, data in flips(random.Random(kind), made.files, index_files(made), 80):
        found, good = await look(made, {**made.files, path: data})
        for uid, what in found.items():
            if isinstance(what, bytes):
                assert what in whole, (path, at, uid)
            else:
                assert isinstance(what, CorruptFile), (path, at, uid, what)
        readable += good
    assert readable > 5


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
async def test_files_cut_anywhere_or_missing_cost_what_they_held(
    stores: dict[str, Made], kind: str, autojump_clock: object
) -> None:
    made, rng = stores[kind], random.Random(kind)
    for path in index_files(made) + message_files(made):
        for size in (None, 0, *(rng.randrange(1, len(made.files[path])) for _ in range(8))):
            files = {**made.files, path: made.files[path][: size or 0]}
            if size is None:
                del files[path]
            found, _ = await look(made, files)
            for uid, what in found.items():
                assert isinstance(what, CorruptFile) or what == made.texts.get(uid, message(4)), (
                    path,
                    size,
                    uid,
                )
            if path in message_files(made):
                assert set(found) == set(made.texts)
                whole = {
                    uid
                    for uid, text in made.texts.items()
                    if files.get(path, b"").find(text + b"\n\x01\x03\n") >= 0
                }
                for uid in made.texts:
                    if kind == "sdbox" and not path.endswith(f"/u.{uid}"):
                        assert found[uid] == made.texts[uid]
                    elif uid not in whole:
                        assert isinstance(found[uid], CorruptFile)
