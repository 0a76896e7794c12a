"""Something else than a regular file where one of the store should be: an error on that alone, nobody waits.

Stores that Dovecot made (``samples``), with directories, FIFOs, devices, sockets and links put in.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from dboxfs.errors import CorruptFile, NoSuchMessage
from dboxfs.fsapi import Driver, FileSystem, Peek, ThreadsDriver
from dboxfs.fsapi.drivers.uring import UringDriver
from dboxfs.tools.dump import NotAStoreFile, describe_file
from tests.live.mounts import Mounts, dboxfs
from tests.store.opened import opened

SAMPLES = Path(__file__).parents[2] / "samples"
PATIENCE = 60.0  # seconds; what waits for a FIFO waits for ever


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _link_to_itself_as_it_was(path: Path) -> None:
    """What Dovecot would read: the same file under another name."""
    path.symlink_to("elsewhere")


KINDS: dict[str, Callable[[Path], None]] = {
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
    "socket": _socket,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "circular": lambda path: path.symlink_to(path.name),
    "link": _link_to_itself_as_it_was,
}
kinds = pytest.mark.parametrize("kind", KINDS)


def copied(tmp_path: Path, driver: str) -> Path:
    return Path(shutil.copytree(SAMPLES / driver, tmp_path / driver))


def replaced(path: Path, kind: str) -> None:
    """Put something else in the place of *path*, which is kept beside it."""
    if path.exists():
        path.rename(path.with_name("elsewhere"))
    else:
        path.with_name("elsewhere").write_bytes(b"")
    KINDS[kind](path)


def with_every_kind(root: Path) -> list[Path]:
    """Put one of each in the place of the messages of an sdbox's INBOX."""
    paths = [root / "mailboxes" / "INBOX" / "dbox-Mails" / f"u.{uid}" for uid in range(1, len(KINDS) + 1)]
    for path, put in zip(paths, KINDS.values(), strict=True):
        path.unlink()
        put(path)
    return paths


@kinds
async def test_a_message_whose_file_is_none_is_an_error_on_itself_alone(tmp_path: Path, kind: str) -> None:
    root = copied(tmp_path, "sdbox")
    replaced(root / "mailboxes" / "INBOX" / "dbox-Mails" / "u.2", kind)
    with trio.fail_after(PATIENCE):
        async with opened(f"sdbox:{root}", follow=False) as (store, _):
            box = store.folders["INBOX"].mailbox
            assert box is not None
            await box.scan()
            facts = await box.facts_of(2)
            assert (facts.damaged, facts.size) == (True, 0)
            with pytest.raises(CorruptFile, match=r"u\.2: .* stands in the place of the file"):
                await box.open(2)
            for uid in box.uids.tolist():
                if uid != 2:
                    assert not (await box.facts_of(uid)).damaged
                    (await box.open(uid)).close()


@kinds
async def test_a_container_that_is_none_is_an_error_on_its_messages(tmp_path: Path, kind: str) -> None:
    root = copied(tmp_path, "mdbox")
    replaced(root / "storage" / "m.1", kind)
    with trio.fail_after(PATIENCE):
        async with opened(f"mdbox:{root}", follow=False) as (store, _):
            box = store.folders["INBOX"].mailbox
            assert box is not None
            await box.scan()
            for uid in box.uids.tolist():
                assert (await box.facts_of(uid)).damaged
                with pytest.raises(CorruptFile, match=r"m\.1: .* stands in the place of the file"):
                    await box.open(uid)


@kinds
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
@pytest.mark.parametrize(
    "name", ["dovecot.index", "dovecot.index.log", "dovecot.index.log.2", "dovecot.index.cache"]
)
async def test_an_index_that_is_no_file_costs_its_mailbox_at_most(
    tmp_path: Path, driver: str, name: str, kind: str
) -> None:
    root = copied(tmp_path, driver)
    replaced(root / "mailboxes" / "INBOX" / "dbox-Mails" / name, kind)
    with trio.fail_after(PATIENCE):
        async with opened(f"{driver}:{root}", follow=False) as (store, _):
            other = store.folders["Trash"].mailbox
            assert other is not None
            await other.scan()
            (await other.open(int(other.uids[0]))).close()
            box = store.folders["INBOX"].mailbox
            if box is not None and len(box):
                await box.scan()
                (await box.open(int(box.uids[0]))).close()
            else:
                assert name in ("dovecot.index", "dovecot.index.log")


@kinds
@pytest.mark.parametrize("name", ["dovecot.map.index", "dovecot.map.index.log"])
async def test_a_map_that_is_no_file_is_an_error_on_messages(tmp_path: Path, name: str, kind: str) -> None:
    root = copied(tmp_path, "mdbox")
    replaced(root / "storage" / name, kind)
    with trio.fail_after(PATIENCE):
        async with opened(f"mdbox:{root}", follow=False) as (store, _):
            box = store.folders["INBOX"].mailbox
            assert box is not None
            try:
                (await box.open(int(box.uids[0]))).close()
            except (CorruptFile, NoSuchMessage):
                return
            assert (name, kind) in {("dovecot.map.index", "dangling"), ("dovecot.map.index.log", "link")}


@pytest.mark.parametrize("make", [ThreadsDriver, UringDriver])
async def test_no_driver_waits_for_what_is_no_file(tmp_path: Path, make: Callable[[int], Driver]) -> None:
    for kind, put in KINDS.items():
        put(tmp_path / kind)
    with trio.fail_after(PATIENCE):
        async with FileSystem(make(2)) as fs:
            for _ in range(2):  # the second time the names are cached
                for kind in KINDS:
                    async with fs.open(f"{tmp_path}/{kind}", nofollow=True) as handle:
                        with pytest.raises(OSError):  # noqa: PT011 - any
                            await handle.wait_open()
                    (peeked,) = await fs.peek([Peek(f"{tmp_path}/{kind}", ((0, None),))])
                    assert isinstance(peeked, OSError)


@pytest.mark.expected_log("stands in the place of the file")
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
@pytest.mark.parametrize(("opens", "size"), [("classic", 0), ("none", 1)])
def test_a_listing_shows_it_and_reading_it_is_eio(
    tmp_path: Path, mounts: Mounts, driver: str, opens: str, size: int
) -> None:
    """Nothing is read of a file without a byte, so where nothing is opened it has one."""
    root = copied(tmp_path, driver)
    if driver == "mdbox":
        replaced(root / "storage" / "m.1", "fifo")
    else:
        with_every_kind(root)
    mnt = mounts.mount(f"{driver}:{root}", f"open={opens}")
    listed = subprocess.run(["ls", "-l", mnt / "INBOX"], capture_output=True, text=True, check=False)
    assert (listed.returncode, listed.stderr, "?" in listed.stdout) == (0, "", False)
    with os.scandir(mnt / "INBOX") as entries:
        found = {entry.name: entry.stat() for entry in entries}
    assert len(found) == len(KINDS)
    for name, status in found.items():
        assert (status.st_size, stat.S_ISREG(status.st_mode)) == (size, True), name
        with pytest.raises(OSError, match="Input/output error"):
            (mnt / "INBOX" / name).read_bytes()


def test_every_command_comes_to_an_end(tmp_path: Path) -> None:
    root = copied(tmp_path, "sdbox")
    odd = with_every_kind(root)
    replaced(root / "mailboxes" / "Trash" / "dbox-Mails" / "dovecot.index.log", "fifo")
    replaced(root / "mailboxes" / "Lists" / "dbox-Mails" / "dovecot.index.log", "directory")
    for command in (
        ("ls", root, "INBOX"), ("ls", root), ("info", root), ("check", "--unused", root),
        ("rescue", root, tmp_path / "rescued"), ("convert", "--verify", root, tmp_path / "converted"),
    ):  # fmt: skip
        done = dboxfs(*command, timeout=2 * PATIENCE)
        assert "Traceback" not in done.stderr, (command, done.stderr)
        assert done.returncode == 1, (command, done.stdout, done.stderr)
    for path in odd:
        with pytest.raises((NotAStoreFile, OSError)):
            list(describe_file(str(path)))
