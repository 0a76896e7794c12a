"""A backup is put back into a store that a Dovecot delivers to meanwhile: nothing of either is lost."""

from __future__ import annotations

import json
import os
import smtplib
import threading
from collections import Counter
from pathlib import Path

from tests.fuse_rw.rw import JULY, both, resynced
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts, dboxfs
from tests.stress.clients import deliver

pytestmark = [both, resynced]

DELIVERED = 40
RESTORED = 30


class Delivering:
    """Delivers one message after the other by LMTP, in a thread, until all are delivered."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.texts: list[bytes] = []
        self.errors: list[Exception] = []
        self._half = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for number in range(DELIVERED):
                text = b"Subject: delivered %d\n\nby LMTP\n" % number
                deliver(str(self._account.dovecot.lmtp), self._account.name, text.replace(b"\n", b"\r\n"))
                self.texts.append(text)
                if number == DELIVERED // 2:
                    self._half.set()
        except (OSError, smtplib.SMTPException) as exc:
            self.errors.append(exc)
        finally:
            self._half.set()

    def wait_for_half(self) -> None:
        self._half.wait(60)

    def end(self) -> None:
        self._thread.join(60)
        assert not self.errors


def put_back(mnt: Path, mailbox: str, number: int) -> tuple[int, bytes, str]:
    """A file with attributes, as rsync -X makes it; gives uid, text and guid of the message."""
    uid, text, guid = 1000 + 2 * number, b"Subject: %d\n\nback\n" % number, f"{mailbox}-{number}"
    temporary = mnt / mailbox / f".m{number}.x7Qz"
    temporary.write_bytes(text)
    for word, value in {"uid": str(uid), "guid": guid, "flags": "\\Seen"}.items():
        os.setxattr(temporary, f"user.dbox.{word}", value.encode())
    os.utime(temporary, (JULY, JULY))
    temporary.rename(mnt / mailbox / f"m{number}")
    return uid, text, guid


def test_what_is_delivered_meanwhile_and_what_is_put_back_are_all_there(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(b"Subject: before\n\nthere\n")
    client = account.imap()
    client.select("INBOX")
    mnt = mounts.mount(account.location, "restore")
    delivering = Delivering(account)
    restored: dict[str, list[tuple[int, bytes, str]]] = {"INBOX": [], "Work": []}
    (mnt / "Work").mkdir()
    for number in range(RESTORED):
        for mailbox, found in restored.items():
            found.append(put_back(mnt, mailbox, number))
        if number == RESTORED // 2:
            assert dboxfs("commit", mnt).returncode == 0
    delivering.wait_for_half()
    report = json.loads((mnt / ".dboxfs" / "restore.json").read_text())
    done = dboxfs("umount", mnt)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    delivering.end()
    assert report["messages"] == 2 * (RESTORED // 2 + 1)
    assert f"restored {2 * RESTORED} messages" in done.stdout
    client.noop()
    client.logout()
    inbox, work = account.fetch("INBOX"), account.fetch("Work")
    back = Counter(text for _, text, _ in restored["INBOX"])
    wanted = Counter([b"Subject: before\n\nthere\n", *delivering.texts]) + back
    assert Counter(_without_head(message.text) for message in inbox) == wanted
    assert [(m.uid, m.text, m.guid, m.flags) for m in work] == [(*row, "\\Seen") for row in restored["Work"]]
    guids = {message.text: message.guid for message in inbox}
    assert all(guids[text] == guid for _, text, guid in restored["INBOX"])
    assert len({message.uid for message in inbox}) == len(inbox)
    before = {name: [(m.uid, m.guid, m.text) for m in account.fetch(name)] for name in ("INBOX", "Work")}
    account.force_resync()
    after = {name: [(m.uid, m.guid, m.text) for m in account.fetch(name)] for name in ("INBOX", "Work")}
    assert after == before
    check = dboxfs("check", account.root)
    assert check.returncode == 0, check.stdout


def _without_head(text: bytes) -> bytes:
    """Without what an LMTP server puts in front of a message."""
    return text[text.index(b"Subject: ") :]
