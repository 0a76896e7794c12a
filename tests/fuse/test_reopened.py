"""A file that is opened again while its last descriptor's end commits it: nothing that is written then is
lost.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from dboxfs.fsapi import Fault, FaultsDriver, ThreadsDriver
from dboxfs.store.write import WriteOptions
from dboxfs.vfs.holders import Holders
from dboxfs.vfs.options import MountOptions
from tests.fuse.inside import aside, mounted
from tests.live.dovecot import Dovecot

RW = MountOptions(write=WriteOptions())


@pytest.fixture
def seems_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every close seems to leave a descriptor with somebody else: what is written is committed at RELEASE."""

    def look(self: Holders, inode: int, opens: object) -> bool:
        self.opener_holds = True
        return True

    monkeypatch.setattr(Holders, "look", look)


@pytest.mark.usefixtures("seems_held")
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
@pytest.mark.parametrize("size", [20, 400_000])
async def test_an_append_that_begins_during_the_commit_is_there(
    dovecot: Dovecot, tmp_path: Path, driver: str, size: int
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(b"Subject: first\n\ntext\n")
    slow = FaultsDriver(ThreadsDriver(workers=4), [Fault("sync_dir", delay=0.2), Fault("append", delay=0.05)])
    text = b"From: a\n\n" + b"x" * size + b"\n"
    async with mounted(account, tmp_path / "mnt", driver=slow, options=RW) as mnt:
        path = mnt / "INBOX" / "new"

        def write() -> None:
            path.write_bytes(text)
            with path.open("ab") as file:
                file.write(b"more\n")

        await aside(write)
        await aside(lambda: (path.parent / "other").write_bytes(b"Subject: behind\n\n"))

        def read() -> bytes:
            return path.read_bytes()

        for _ in range(100):
            if await aside(read) == text + b"more\n":
                break
    assert sorted(message.text for message in account.fetch()) == sorted(
        [b"Subject: first\n\ntext\n", text + b"more\n", b"Subject: behind\n\n"]
    )


@pytest.mark.usefixtures("seems_held")
@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC])
async def test_a_reopened_file_is_never_a_descriptor_of_nothing(
    dovecot: Dovecot, tmp_path: Path, flags: int
) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.save(b"Subject: first\n\ntext\n")
    async with mounted(account, tmp_path / "mnt", options=RW) as mnt:

        def again(number: int) -> None:
            path = mnt / "INBOX" / f"n{number}"
            path.write_bytes(b"From: a\n\nx\n")
            fd = os.open(path, flags)
            os.write(fd, b"more\n")
            os.close(fd)

        for number in range(60):
            await aside(partial(again, number))
    whole = b"From: a\n\nx\nmore\n" if flags & os.O_APPEND else b"more\n"
    assert [message.text for message in account.fetch()[1:]] == [whole] * 60
