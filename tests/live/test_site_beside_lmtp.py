"""A backup of all users beside deliveries: what the kernel keeps of a user's store is given up in time.

``DBOXFS_SITE_USERS=200``: so many users; LMTP delivers to each tenth of them.  The mount has few stores open
at a time, and is one without OPEN: the kernel keeps listings, also of stores that are closed.
"""

from __future__ import annotations

import io
import os
import shutil
import smtplib
import subprocess
import tarfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts
from tests.live.site import text_of
from tests.live.test_site import mounted, wait_for

pytestmark = [pytest.mark.root, pytest.mark.mount, pytest.mark.dovecot]

USERS = int(os.environ.get("DBOXFS_SITE_USERS", "24"))
DELIVERIES = 2
DOMAIN = "deliveries.example"
SECONDS = 2.0
"""Seconds in which the mount has to show a change; SEMANTICS promises one, and the machine may be busy."""


def users_with_mail(dovecot: Dovecot, count: int) -> list[Account]:
    """Users of one domain, each with a copy of the same mdbox of two mailboxes."""
    first = dovecot.account("mdbox:{home}/mail", domain=DOMAIN)
    first.append([Append(text_of(f"old {number}")) for number in range(5)])
    first.doveadm("mailbox create", "Work")
    first.append([Append(text_of("work"))], "Work")
    accounts = [first]
    for _ in range(count - 1):
        account = dovecot.account("mdbox:{home}/mail", domain=DOMAIN)
        shutil.copytree(first.root, account.root)
        for path in (account.root, *account.root.rglob("*")):
            os.chown(path, dovecot.mail_uid, account.home.stat().st_gid)
        accounts.append(account)
    return accounts


class Walks:
    """``tar`` of the whole site, again and again.

    :ivar found: of each walk the time at which it began, and name -> bytes of what tar has read.
    """

    def __init__(self, site: Path) -> None:
        self.found: list[tuple[float, dict[str, bytes]]] = []
        self._site = site
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Walks:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            self.walk()

    def wait_for_another(self) -> None:
        """Until a walk has ended that began after this call."""
        wanted = len(self.found) + 2
        wait_for(lambda: len(self.found) >= wanted, seconds=120)

    def walk(self) -> dict[str, bytes]:
        """One walk."""
        began = time.monotonic()
        done = subprocess.run(
            ["tar", "cf", "-", "--exclude=.dboxfs", "-C", self._site, "."],
            capture_output=True, check=False, timeout=300, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )  # fmt: skip
        lines = done.stderr.decode().splitlines()
        # tar tells of directories that change, and of a message that was expunged behind its listing
        assert not [line for line in lines if "file changed as" not in line and "No such file" not in line
                    and "File removed" not in line and "Exiting with failure" not in line], lines  # fmt: skip
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as read:
            files = {one.name: read.extractfile(one) for one in read if one.isfile()}
            found = {name: file.read() for name, file in files.items() if file is not None}
        self.found.append((began, found))
        return found


def expected(accounts: Sequence[Account]) -> dict[str, bytes]:
    """What Dovecot has, by the names that tar shows."""
    return {
        f"./{account.name.partition('@')[0]}/{mailbox}/{one.uid}.eml": one.text
        for account in accounts
        for mailbox in ("INBOX", "Work")
        for one in account.fetch(mailbox)
    }


def test_each_walk_through_all_users_has_every_message_that_was_delivered_before_it(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    accounts = users_with_mail(dovecot, USERS)
    getting = accounts[::10][: max(6, USERS // 10)]
    template = f"mdbox:{dovecot.root}/home/%n@{DOMAIN}/mail"
    mnt = mounted(mounts, template, "-o", f"stores={max(4, USERS // 8)},open=none")
    there: dict[str, tuple[float, bytes]] = {}
    gone: dict[str, float] = {}
    old = expected(accounts[1:2])
    old = {name.split("/", 2)[2]: text for name, text in old.items()}

    def deliver(account: Account, number: int) -> None:
        user = account.name.partition("@")[0]
        text = text_of(f"{account.name}: delivery {number}")
        with smtplib.LMTP(str(dovecot.lmtp)) as session:
            session.sendmail("sender@example.org", [account.name], text)
        there[f"./{user}/INBOX/{6 + number}.eml"] = time.monotonic(), text
        if number == 0:
            account.doveadm("expunge", "mailbox", "INBOX", "uid", "2")
            gone[f"./{user}/INBOX/2.eml"] = time.monotonic()

    with Walks(mnt) as walks:
        for number in range(DELIVERIES):
            walks.wait_for_another()  # in which each store is opened, listed and closed
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(deliver, getting, [number] * len(getting)))
        walks.wait_for_another()
    assert walks.found[-1][1] == expected(accounts)
    texts = defaultdict(set)
    for began, walk in walks.found:
        for account in accounts:
            user = account.name.partition("@")[0]
            for name, text in old.items():
                path = f"./{user}/{name}"
                if path not in gone:
                    assert walk.get(path) == text, path
                elif began > gone[path] + SECONDS:
                    assert path not in walk
        for path, (since, text) in there.items():
            if path in walk:
                assert text in walk[path]
                texts[path].add(walk[path])
            else:
                assert began < since + SECONDS, f"{path} is missing in a walk that began after it was there"
    assert all(len(found) == 1 for found in texts.values())
    assert len(there) == DELIVERIES * len(getting)
