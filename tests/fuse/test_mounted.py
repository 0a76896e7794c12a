"""What the kernel shows while things change, are slow, or can't be read."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
import trio

from dboxfs.fsapi import DirEntry, Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.store.watch import Callback, Watched, Watcher
from dboxfs.vfs import listing
from dboxfs.vfs.options import MountOptions, Opens, ViewOptions
from tests.fuse.inside import aside, listed, mounted, soon
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import xattrs

BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])

WAYS = pytest.mark.parametrize("opens", [Opens.CLASSIC, Opens.NONE])
"""With requests to open files, and without."""


def message(n: int) -> bytes:
    return b"Subject: %d\n\n" % n + b"body of %d\n" % n * (n % 50 + 1)


def made(dovecot: Dovecot, driver: str, count: int = 6) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(Append(message(n)) for n in range(1, count + 1))
    return account


def expunge(account: Account, uids: str) -> None:
    account.doveadm("expunge", "mailbox", "INBOX", "uid", uids)


@WAYS
@BOTH
async def test_a_message_whose_size_is_not_known_yet_is_not_read_as_empty(
    dovecot: Dovecot, tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch, opens: Opens
) -> None:
    monkeypatch.setattr(listing, "SIZES_SECONDS", 0.0)
    account = made(dovecot, driver)
    faults = FaultsDriver(
        ThreadsDriver(),
        [Fault("peek", path=part, delay=0.6) for part in ("/u.", "/m.")],
    )
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens), driver=faults) as mnt:

        def list_then_read() -> list[bytes]:
            names = sorted(os.listdir(mnt / "INBOX"))
            return [(mnt / "INBOX" / name).read_bytes() for name in names]

        assert await aside(list_then_read) == [message(n) for n in range(1, 7)]


@BOTH
@WAYS
async def test_each_handle_of_an_expunged_message_goes_on(
    dovecot: Dovecot, tmp_path: Path, driver: str, opens: Opens
) -> None:
    account = made(dovecot, driver)
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens)) as mnt:
        path = mnt / "INBOX" / "3.eml"

        def open_three() -> list[int]:
            found = [os.open(path, os.O_RDONLY) for _ in range(3)]
            os.close(found.pop())
            os.close(os.open(path, os.O_RDONLY))
            return found

        def begin_to_read(fd: int) -> None:
            os.pread(fd, 1, 0)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

        first, second = await aside(open_three)
        if driver == "sdbox" and opens is Opens.NONE:  # else nobody knows that it is open
            await aside(lambda: begin_to_read(first))
        await aside(lambda: expunge(account, "3"))
        await soon(lambda: "3.eml" not in listed(path.parent))
        if driver == "mdbox":
            await aside(account.purge)
            await soon(lambda: not (account.root / "storage/m.1").exists())

        def use(fd: int) -> tuple[int, bytes]:
            size = os.fstat(fd).st_size
            data = os.pread(fd, 1 << 20, 0)
            os.close(fd)
            return size, data

        for fd in (second, first):
            assert await aside(lambda fd=fd: use(fd)) == (len(message(3)), message(3))  # type: ignore[misc]
        await soon(lambda: not path.exists())


@WAYS
async def test_what_goes_during_a_listing_does_not_stay_in_the_kernel(
    dovecot: Dovecot, tmp_path: Path, opens: Opens
) -> None:
    account = made(dovecot, "sdbox", count=1200)
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens)) as mnt:
        inbox = mnt / "INBOX"
        entries = await aside(lambda: os.scandir(inbox))
        first = await aside(lambda: next(entries).name)
        expunge(account, "1100:1200")

        def told() -> bool:
            return xattrs(inbox)["messages"] == "1099"

        await soon(told)
        rest = await aside(lambda: [entry.name for entry in entries])
        assert len({first, *rest}) == 1 + len(rest)  # none twice
        assert {first, *rest} >= {f"{n}.eml" for n in range(1, 1100)}

        def still_there() -> list[str]:
            return [f"{n}.eml" for n in range(1100, 1201) if (inbox / f"{n}.eml").exists()]

        assert await aside(still_there) == []


@WAYS
async def test_a_rewound_directory_shows_what_is_new(dovecot: Dovecot, tmp_path: Path, opens: Opens) -> None:
    account = made(dovecot, "sdbox", count=2)
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens)) as mnt:
        fd = await aside(lambda: os.open(mnt / "INBOX", os.O_RDONLY))
        assert set(await aside(lambda: os.listdir(fd))) == {"1.eml", "2.eml"}
        account.save(message(3))
        await soon(lambda: "3.eml" in listed(mnt / "INBOX"))
        assert set(await aside(lambda: os.listdir(fd))) == {"1.eml", "2.eml", "3.eml"}
        await aside(lambda: os.close(fd))


def _blind(self: Watcher, directory: str, key: str, callback: Callback) -> Watched:
    return Watched.NO


@WAYS
@BOTH
async def test_without_inotify_everything_is_seen_within_a_second_too(
    dovecot: Dovecot, tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch, opens: Opens
) -> None:
    monkeypatch.setattr(Watcher, "add", _blind)
    account = made(dovecot, driver)
    account.doveadm("mailbox create", "Work")
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens)) as mnt:
        assert await aside(lambda: (mnt / "INBOX" / "1.eml").read_bytes()) == message(1)
        assert await aside(lambda: listed(mnt)) == {"INBOX", "Work"}
        account.save(message(7))
        expunge(account, "1")
        wanted = {f"{n}.eml" for n in range(2, 8)}
        await soon(lambda: listed(mnt / "INBOX") == wanted)
        await soon(lambda: xattrs(mnt / "INBOX")["messages"] == "6")
        await soon(lambda: not (mnt / "INBOX" / "1.eml").exists())
        account.doveadm("mailbox rename", "Work", "Job")
        await soon(lambda: listed(mnt) == {"INBOX", "Job"})
        await soon(lambda: (mnt / "Job").is_dir() and not (mnt / "Work").exists())
        account.save(message(1), "Job")
        await soon(lambda: xattrs(mnt / "Job")["messages"] == "1")


class FaultyFs(FileSystem):
    """A file system on which the directory ``Work`` can't be listed."""

    async def listdir(self, path: str) -> list[DirEntry]:
        if path.endswith("/Work"):
            raise PermissionError(13, "Permission denied", path)
        return await super().listdir(path)


async def test_a_folder_that_cannot_be_read_says_so(dovecot: Dovecot, tmp_path: Path) -> None:
    account = made(dovecot, "sdbox")
    account.doveadm("mailbox create", "Work")
    async with mounted(account, tmp_path / "mnt", fs_class=FaultyFs) as mnt:
        assert await aside(lambda: listed(mnt)) == {"INBOX", "Work"}
        assert await aside(lambda: (mnt / "Work").is_dir())
        with pytest.raises(PermissionError):
            await aside(lambda: listed(mnt / "Work"))
        assert await aside(lambda: len(listed(mnt / "INBOX"))) == 6


async def test_a_mailbox_with_a_damaged_index_is_no_empty_directory(dovecot: Dovecot, tmp_path: Path) -> None:
    account = made(dovecot, "sdbox")
    account.doveadm("mailbox create", "Work")
    log = account.root / "mailboxes/INBOX/dbox-Mails/dovecot.index.log"
    good = log.read_bytes()
    log.write_bytes(b"\x01\x03" + bytes(200))
    async with mounted(account, tmp_path / "mnt") as mnt:
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error") as caught:
                await aside(lambda: listed(mnt / "INBOX"))
            assert caught.value.errno == errno.EIO
        assert await aside(lambda: listed(mnt / "Work")) == set()
        log.write_bytes(good)
        await soon(lambda: len(listed(mnt / "INBOX")) == 6)


@WAYS
async def test_a_damaged_map_leaves_the_daemon_alive(dovecot: Dovecot, tmp_path: Path, opens: Opens) -> None:
    account = made(dovecot, "mdbox")
    (account.root / "storage" / "dovecot.map.index.log").write_bytes(b"\x01\x03" + bytes(200))
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens)) as mnt:
        assert len(await aside(lambda: listed(mnt / "INBOX"))) == 6
        for n in range(1, 7):
            with pytest.raises(OSError, match="Input/output error"):
                await aside((mnt / "INBOX" / f"{n}.eml").read_bytes)
        assert await aside(lambda: xattrs(mnt / "INBOX")["messages"]) == "6"


@WAYS
@BOTH
async def test_a_file_put_back_is_whole_again_within_a_second(
    dovecot: Dovecot, tmp_path: Path, driver: str, opens: Opens
) -> None:
    account = made(dovecot, driver)
    path = account.root / ("mailboxes/INBOX/dbox-Mails/u.2" if driver == "sdbox" else "storage/m.1")
    away = path.with_suffix(".away")
    path.rename(away)
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens)) as mnt:
        await aside(lambda: [entry.stat() for entry in os.scandir(mnt / "INBOX")])
        shown = mnt / "INBOX" / "2.eml"
        with pytest.raises(OSError, match="Input/output error"):
            await aside(shown.read_bytes)
        away.rename(path)
        await soon(lambda: shown.stat().st_size == len(message(2)))
        assert await aside(shown.read_bytes) == message(2)


async def test_attributes_have_the_right_errors(dovecot: Dovecot, tmp_path: Path) -> None:
    account = made(dovecot, "sdbox", count=1)
    async with mounted(account, tmp_path / "mnt") as mnt:

        def number(path: Path, name: str) -> int | None:
            try:
                os.getxattr(path, name)
            except OSError as exc:
                return exc.errno
            return None

        def numbers() -> list[int | None]:
            places = (mnt, mnt / "INBOX", mnt / "INBOX" / "1.eml", mnt / ".dboxfs" / "stats.json")
            return [
                number(place, name)
                for place in places
                for name in ("user.dbox.nothing", "user.other", "security.selinux", "trusted.x")
            ]

        assert await aside(numbers) == [errno.ENODATA, errno.ENODATA, errno.EOPNOTSUPP, errno.EOPNOTSUPP] * 4
        assert await aside(lambda: os.listxattr(mnt)) == []
        assert number is not None
        attributes = await aside(lambda: os.listxattr(mnt / "INBOX" / "1.eml"))
        assert set(attributes) == {
            f"user.dbox.{name}"
            for name in (
                "uid", "guid", "flags", "keywords", "received", "saved", "virtual_size", "modseq", "location",
            )
        }  # fmt: skip


@WAYS
async def test_the_control_directory_is_there_but_never_listed(
    dovecot: Dovecot, tmp_path: Path, opens: Opens
) -> None:
    account = made(dovecot, "mdbox", count=2)
    account.doveadm("mailbox create", ".dboxfs")
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens)) as mnt:
        assert await aside(lambda: listed(mnt)) == {"INBOX", "%2Edboxfs"}
        control = mnt / ".dboxfs"
        assert await aside(lambda: listed(control)) == {
            "deleted",
            "events",
            "flagged",
            "keyword",
            "locks",
            "metrics",
            "parts",
            "raw",
            "since",
            "stats.json",
            "store.json",
            "unseen",
        }
        assert await aside(lambda: stat.S_ISDIR(control.stat().st_mode))
        stats = json.loads(await aside((control / "stats.json").read_text))
        assert (stats["mailboxes"], stats["messages"], stats["damaged_messages"]) == (2, 2, 0)
        again = json.loads(await aside((control / "stats.json").read_text))
        assert again["requests"]["open"] > stats["requests"]["open"]
        described = json.loads(await aside((control / "store.json").read_text))
        assert described["format"] == "mdbox"
        assert {entry["mailbox"] for entry in described["folders"]} == {"INBOX", ".dboxfs"}
        for missing in (control / "nothing", mnt / "INBOX" / ".dboxfs"):
            with pytest.raises(FileNotFoundError):
                await aside(missing.stat)


async def test_only_the_name_of_a_message_is_its_name(dovecot: Dovecot, tmp_path: Path) -> None:
    account = made(dovecot, "sdbox", count=1)
    account.doveadm("mailbox create", "1.eml")
    async with mounted(account, tmp_path / "mnt") as mnt:
        assert await aside(lambda: listed(mnt)) == {"INBOX", "1%2Eeml"}
        for name in ("01.eml", "0.eml", "2.eml", "1.EML", "1.eml ", "99999999999.eml", "4294967296.eml", "1"):
            with pytest.raises(FileNotFoundError):
                await aside((mnt / "INBOX" / name).stat)
        with pytest.raises(FileNotFoundError):
            await aside((mnt / "1.eml").stat)


async def test_many_readers_and_changes_at_once(dovecot: Dovecot, tmp_path: Path) -> None:
    account = made(dovecot, "mdbox", count=60)
    async with mounted(account, tmp_path / "mnt") as mnt:
        wrong: list[str] = []

        def reader() -> None:
            for _ in range(6):
                for n in range(1, 61):
                    try:
                        data = (mnt / "INBOX" / f"{n}.eml").read_bytes()
                    except FileNotFoundError:
                        continue
                    if data != message(n):
                        wrong.append(f"{n}: {data[:40]!r}")

        def changer() -> None:
            for n in range(1, 30, 3):
                expunge(account, str(n))
                if n % 2:
                    account.purge()

        async with trio.open_nursery() as nursery:
            for work in (reader, reader, reader, changer):
                nursery.start_soon(trio.to_thread.run_sync, work)
        assert wrong == []
        await soon(lambda: len(listed(mnt / "INBOX")) == 50)


@WAYS
async def test_what_the_kernel_was_given_is_the_first_to_leave(
    dovecot: Dovecot, tmp_path: Path, opens: Opens
) -> None:
    made: list[FileSystem] = []

    class KeptFs(FileSystem):
        async def start(self, nursery: trio.Nursery) -> None:
            made.append(self)
            await super().start(nursery)

    account = dovecot.account("sdbox:{home}/mail", zlib_save="gz")
    account.save(b"Subject: compressed\n\n" + b"line\n" * 30_000)
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens), fs_class=KeptFs) as mnt:
        path = mnt / "INBOX" / "1.eml"
        assert len(await aside(path.read_bytes)) == 21 + 5 * 30_000
        cache = made[0].cache
        pages = [(key, number) for key, some in cache._files.items() for number in some]
        assert [cache.weight(*page) for page in pages] == [0, 0, 0]


async def test_modes_are_compared_where_others_may_look(dovecot: Dovecot, tmp_path: Path) -> None:
    account = made(dovecot, "mdbox", 1)
    options = MountOptions(allow_other=True, view=ViewOptions(umask=0o007))
    tmp_path.chmod(0o755)
    async with mounted(account, tmp_path / "mnt", options=options) as mnt:
        command = ["setpriv", "--reuid=12345", "--clear-groups", "ls", str(mnt)]
        looked = await aside(lambda: subprocess.run(command, capture_output=True, check=False))
        assert looked.stderr.endswith(b"Permission denied\n")
        assert await aside(lambda: os.listdir(mnt / "INBOX")) == ["1.eml"]


@pytest.mark.parametrize("opens", [Opens.CLASSIC, Opens.NONE])
async def test_a_sync_of_a_message_or_a_directory_that_is_only_read_succeeds(
    dovecot: Dovecot, tmp_path: Path, opens: Opens
) -> None:
    account = made(dovecot, "sdbox")
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=opens)) as mnt:

        def sync_and_read() -> bytes:
            for path in (mnt / "INBOX/1.eml", mnt / "INBOX", mnt):
                number = os.open(path, os.O_RDONLY)
                try:
                    for sync in (os.fsync, os.fdatasync, os.fsync):
                        sync(number)
                finally:
                    os.close(number)
            return (mnt / "INBOX/1.eml").read_bytes()

        assert await aside(sync_and_read) == message(1)
