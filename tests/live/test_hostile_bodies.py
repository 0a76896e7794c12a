"""Messages made to do harm: an error on each of them alone, nothing from outside, bounded memory."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import pytest
import trio
import zstandard
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dboxfs.dbox.encrypt import Sealing
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import NewMessage, StoreWriter, WriteOptions, init_store
from tests.live.mounts import Mounts
from tests.live.test_memory import MIB, rss
from tests.store.salvage.files import HEADER, record

pytestmark = [pytest.mark.mount, pytest.mark.expected_log("damaged", "is encrypted")]

PLAIN = b"Subject: plain\n\ntext\n"
SECRET = b"what lies outside of the store\n"
BOMB = 512 * MIB
BLOCK = bytes(MIB)


def zstd_bomb() -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(bytes(BOMB))


def gzip_bomb() -> bytes:
    """Many members, which count as one text."""
    return gzip.compress(BLOCK, 1, mtime=0) * (BOMB // MIB)


def huge_window() -> bytes:
    """A frame of 100,000 times NUL whose reader shall keep a window of 1 GiB (RFC 8878, 3.1.1)."""
    descriptor, block = (
        20 << 3,
        100_000 << 3 | 1 << 1 | 1,
    )  # 2**(10 + 20) bytes; the last block, one byte repeated
    return b"\x28\xb5\x2f\xfd\0" + bytes([descriptor]) + block.to_bytes(3, "little") + b"\0"


def compressed(number: int, stored: bytes, said: int) -> bytes:
    """A file of one message whose metadata say that its text has *said* bytes."""
    whole = HEADER + record(number, b"", stored=stored)
    return whole.replace(b"Z0\n", b"Z%x\n" % said).replace(b"V0\n", b"V%x\n" % said)


def referring(number: int, path: str, size: int) -> bytes:
    """A file of one message, a part of which is in the file *path* below the directory of attachments."""
    extra = b"X%d %d - %b\n" % (len(PLAIN), size, os.fsencode(path))
    whole = HEADER + record(number, PLAIN, extra=extra)
    said, has = b"V%x\n" % (len(PLAIN) + 3), b"V%x\n" % (len(PLAIN) + size + 3)
    assert said in whole
    return whole.replace(said, b"Z%x\n" % (len(PLAIN) + size) + has)


def hostile(root: Path, attachments: Path) -> dict[str, bytes]:
    """Files of one message each that are damaged for a reader; by what they are."""
    size = len(SECRET)
    outside = os.path.relpath(root.parent / "secret", attachments)
    for name, target in (("loop", "loop"), ("one", "two"), ("two", "one")):
        (attachments / f"{name}-{0:032x}").symlink_to(f"{target}-{0:032x}")
    os.mkfifo(attachments / "fifo")
    return {
        "a bomb that says it is small": compressed(1, zstd_bomb(), 100),
        "the same with gzip": compressed(2, gzip_bomb(), 100),
        "a window of 1 GiB": compressed(3, huge_window(), 100_000),
        "an attachment outside": referring(4, outside, size),
        "an absolute one": referring(5, str(root.parent / "secret"), size),
        "one that is missing": referring(6, "none", size),
        "one that is a link to itself": referring(7, "loop", size),
        "one in a circle of links": referring(8, "one", size),
        "one that is a FIFO": referring(9, "fifo", size),
        "one that is a directory": referring(10, ".", size),
    }


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, ec.EllipticCurvePrivateKey]:
    made = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("right", "wrong")}
    for name, key in made.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"{name}.pem").write_bytes(pem)
    return made


def test_each_hostile_message_is_an_error_alone_in_bounded_memory(
    mounts: Mounts, tmp_path: Path, keys: dict[str, ec.EllipticCurvePrivateKey]
) -> None:
    root, attachments, secret = tmp_path / "mail", tmp_path / "attachments", tmp_path / "secret"
    attachments.mkdir()
    secret.write_bytes(SECRET)
    location = Location(Kind.SDBOX, str(root))

    async def save(count: int, sealing: Sealing | None) -> None:
        async with FileSystem(ThreadsDriver()) as fs:
            if sealing is None:
                await init_store(fs, location)
            writer = StoreWriter(fs, location, await fs.stat(str(root)), WriteOptions(encrypt=sealing))
            await writer.save("INBOX", [NewMessage(PLAIN)] * count)

    bad = hostile(root, attachments)
    first = len(bad) + 1
    trio.run(save, first + 1, None)
    trio.run(save, 2, Sealing(keys["right"].public_key()))
    trio.run(save, 1, Sealing(keys["wrong"].public_key()))
    box = root / "mailboxes/INBOX/dbox-Mails"
    for uid, data in enumerate(bad.values(), 1):
        (box / f"u.{uid}").write_bytes(data)
    (box / f"u.{first}").write_bytes(compressed(first, zstd_bomb(), BOMB))
    cut = box / f"u.{first + 3}"
    cut.write_bytes(cut.read_bytes()[:200])
    options = ("--cache-size", "4M", "-o", f"attachments={attachments},crypt_key={tmp_path}/right.pem")
    with mounts.foreground(root, *options) as (mnt, process):
        inbox = mnt / "INBOX"
        assert len(list(inbox.iterdir())) == first + 4
        before = rss(process.pid)
        found = {name: error_of(inbox / f"{uid}.eml") for uid, name in enumerate(bad, 1)}
        assert found == dict.fromkeys(bad, errno.EIO)
        assert error_of(inbox / f"{first + 3}.eml") == errno.EIO, "a ciphertext that is cut off"
        assert error_of(inbox / f"{first + 4}.eml") == errno.EACCES, "encrypted for another key"
        for uid in (first + 1, first + 2):
            assert (inbox / f"{uid}.eml").read_bytes() == PLAIN
        with (inbox / f"{first}.eml").open("rb") as file:  # it is as large as it says
            assert os.fstat(file.fileno()).st_size == BOMB
            assert file.read(MIB) == BLOCK
            file.seek(BOMB // 2)
            assert file.read(MIB) == BLOCK
        grown = rss(process.pid) - before
        assert grown < 32 * MIB
    assert secret.read_bytes() == SECRET


def error_of(path: Path) -> int:
    """The error of reading a file; 0: none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return error.errno or 0
    assert SECRET not in data
    return 0
