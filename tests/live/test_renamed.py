"""Mailboxes that are renamed by Dovecot while somebody reads them: who is in one stays in it."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts

BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
MESSAGES = 40
RENAMES = 12


@contextmanager
def renaming(account: Account) -> Iterator[Counter[str]]:
    """Somebody renames Old to New and back, over IMAP; counts how often."""
    end, done = threading.Event(), Counter[str]()

    def work() -> None:
        client = account.imap()
        names = ["Old", "New"]
        while not end.is_set() or names[0] == "New":
            status, _ = client.rename(*names)
            done[status] += 1
            names.reverse()
            end.wait(0.1)
        client.logout()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        end.set()
        thread.join()


def made(dovecot: Dovecot, driver: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(b"Subject: first\n\ntext\n")
    account.doveadm("mailbox create", "Old")
    account.append([Append(b"Subject: %d\n\ntext\n" % n) for n in range(MESSAGES)], "Old")
    return account


@BOTH
@pytest.mark.parametrize("options", ["ro", "rw", "entries=companion"])
def test_who_reads_a_mailbox_that_is_renamed_misses_nothing(
    dovecot: Dovecot, mounts: Mounts, driver: str, options: str
) -> None:
    """All through a descriptor of the directory, as tar reads: the directory is the same whatever its
    name.
    """
    account = made(dovecot, driver)
    mnt = mounts.mount(account.location, options)
    directory = os.open(mnt / "Old", os.O_RDONLY | os.O_DIRECTORY)
    wanted = {f"{n + 1}.eml" for n in range(MESSAGES)}
    faults: Counter[str] = Counter()
    with renaming(account) as renamed:
        while renamed["OK"] < RENAMES:
            again = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            names = set(os.listdir(again))
            faults["listed wrong"] += names != wanted
            for name in sorted(wanted):
                try:
                    fd = os.open(name, os.O_RDONLY, dir_fd=again)
                except OSError as exc:
                    faults[f"open: {errno.errorcode[exc.errno or 0]}"] += 1
                    continue
                try:
                    os.fstat(fd)
                    os.getxattr(fd, "user.dbox.uid")
                    faults["read wrong"] += not os.read(fd, 100).startswith(b"Subject: ")
                except OSError as exc:
                    faults[errno.errorcode[exc.errno or 0]] += 1
                os.close(fd)
            os.close(again)
    os.close(directory)
    assert set(renamed) == {"OK"}
    assert +faults == Counter()


@BOTH
@pytest.mark.parametrize("options", ["open=classic", "open=none", "rw"])
def test_tar_never_hears_of_a_stale_handle(
    dovecot: Dovecot, mounts: Mounts, driver: str, options: str
) -> None:
    account = made(dovecot, driver)
    mnt = mounts.mount(account.location, options)
    said = set()
    with renaming(account) as renamed:
        while renamed["OK"] < 2 * RENAMES:
            command = ["tar", "--xattrs", "--xattrs-include=user.*", "-cf", "-", "."]
            done = subprocess.run(
                command, cwd=mnt, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
            )
            lines = set(done.stderr.decode().splitlines())
            if options != "open=classic":  # where a rename changes the directory, as in every file system
                lines -= {f"tar: ./{name}: file changed as we read it" for name in ("Old", "New")}
            said |= lines
    assert {line.rpartition(": ")[2] for line in said} <= {
        "File removed before we read it",
        "No such file or directory",
    } | {"Exiting with failure status due to previous errors"}, said
