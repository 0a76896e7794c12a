"""``.dboxfs/events`` on a real mount: ``tail -f`` tells what a real Dovecot does."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts
from tests.stress.clients import soon


def wait_for_lines(path: Path, count: int, seconds: float = 20) -> list[dict[str, object]]:
    """So many lines of a file, when they are there."""
    deadline = time.monotonic() + seconds
    while len(path.read_bytes().splitlines()) < count:
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.05)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("options", ["ro", "ro,open=classic", "rw", "ro,view=maildir"])
def test_tail_follows_what_dovecot_does(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, options: str
) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(b"Subject: hush\n\nx\n")])
    events = mounts.mount(account.location, options) / ".dboxfs/events"
    said = tmp_path / "said"
    with (
        said.open("wb") as out,
        subprocess.Popen(["tail", "-s", "0.1", "-n", "+1", "-f", events], stdout=out) as tail,
    ):
        try:
            account.append([Append(b"Subject: hush\n\ny\n", r"\Seen")])
            first = wait_for_lines(said, 1)
            account.doveadm("flags add", "\\Flagged", "mailbox", "INBOX", "1")
            wait_for_lines(said, 2)
            account.doveadm("mailbox create", "Work")
            wait_for_lines(said, 3)
            account.doveadm("mailbox rename", "Work", "Play")
            wait_for_lines(said, 4)
            account.doveadm("mailbox delete", "Play")
            found = wait_for_lines(said, 5)
        finally:
            tail.terminate()
    assert found[0] == first[0]
    what = [(line["event"], line.get("mailbox", line.get("to")), line.get("uid")) for line in found]
    assert what == [
        ("new", "INBOX", 2),
        ("flags", "INBOX", 1),
        ("mailbox created", "Work", None),
        ("mailbox renamed", "Play", None),
        ("mailbox deleted", "Play", None),
    ]
    assert (found[0]["flags"], found[1]["flags"]) == (["\\Seen"], ["\\Flagged"])
    assert "hush" not in said.read_text()


@pytest.mark.parametrize("options", ["ro", "rw"])
def test_poll_waits_for_an_event_and_tells_of_nothing_that_was_read(
    dovecot: Dovecot, mounts: Mounts, options: str
) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(b"Subject: hush\n\nx\n")])
    mnt = mounts.mount(account.location, options)
    path, said = mnt / ".dboxfs/events", b""
    with path.open("rb", 0) as file, select.epoll() as epoll, ThreadPoolExecutor(1) as pool:
        epoll.register(file, select.EPOLLIN)

        def is_quiet() -> bool:
            nonlocal said
            said += file.read()
            return epoll.poll(0) == []

        def tells(event: bytes, change: Callable[[], object]) -> None:
            """Who waits in poll(2) while *change* is made is told of it, and of nothing more then."""
            nonlocal said
            soon("nothing is told that was read", is_quiet, 60)
            changed = pool.submit(change)
            while event not in said:
                assert epoll.poll(60) != [], said
                said += file.read()
            changed.result()

        tells(b'"new"', lambda: account.append([Append(b"Subject: hush\n\ny\n")]))
        tells(b"Flagged", lambda: account.doveadm("flags add", "\\Flagged", "mailbox", "INBOX", "1"))
        tells(b"mailbox created", lambda: account.doveadm("mailbox create", "Work"))
        tells(b"mailbox deleted", lambda: account.doveadm("mailbox delete", "Work"))
    with (mnt / "INBOX/1.eml").open("rb") as message:
        assert select.select([message], [message], [], 60) == ([message], [message], [])
