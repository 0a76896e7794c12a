"""Several writers of one store at the same time: ours, and IMAP sessions of Dovecot."""

from __future__ import annotations

import imaplib
import os
import random
import threading
from collections import Counter

import pytest
import trio

from dboxfs.errors import NoSuchMessage
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.write import NewMessage, StoreWriter, WriteOptions
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, body, writing

pytestmark = pytest.mark.expected_log(*RESYNC)
BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


def made(dovecot: Dovecot, driver: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(body(0))
    account.doveadm("mailbox create", "Work")
    return account


@BOTH
async def test_saves_that_are_ready_together_are_one_transaction(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as writer:
        async with trio.open_nursery() as nursery:
            for n in range(1, 65):
                name = "INBOX" if n % 4 else "Work"
                nursery.start_soon(writer.save, name, [NewMessage(body(n))])
        stats = writer.stats()
    assert stats["saved"] == 64
    assert stats["groups"] < 20
    assert sorted(Shown.of(account).texts) == sorted(body(n) for n in range(65) if n % 4 or not n)
    assert sorted(Shown.of(account, "Work").texts) == sorted(body(n) for n in range(4, 65, 4))
    if driver == "mdbox":
        assert len(list(account.root.glob("storage/m.*"))) == 1
    assert_resync_changes_nothing(account)


@BOTH
async def test_a_save_that_is_cancelled_leaves_nothing_or_is_whole(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as writer:
        for n in range(30):
            with trio.move_on_after(0.0005 * n):
                await writer.save("INBOX", [NewMessage(body(n + 1)), NewMessage(body(n + 101))])
        await writer.save("INBOX", [NewMessage(body(300))])
    texts = Counter(Shown.of(account).texts)
    assert max(texts.values()) == 1
    for n in range(30):
        assert texts[body(n + 1)] == texts[body(n + 101)]
    assert not list(account.root.rglob(".temp.*"))
    assert_resync_changes_nothing(account)


class Imap(threading.Thread):
    """An IMAP session that appends, stores, copies and expunges its own messages."""

    def __init__(self, account: Account, number: int, rounds: int) -> None:
        super().__init__()
        self.kept: set[bytes] = set()
        self.copied: set[bytes] = set()
        self.failure: Exception | None = None
        self._client = account.imap()
        self._number = number
        self._rounds = rounds
        self._random = random.Random(number)

    def run(self) -> None:
        try:
            self._client.select("INBOX")
            for n in range(self._rounds):
                self._round(body(10_000 * self._number + n))
            self._client.logout()
        except (imaplib.IMAP4.error, OSError, AssertionError) as error:
            self.failure = error

    def _round(self, text: bytes) -> None:
        ok, answer = self._client.append("INBOX", "", "", text.replace(b"\n", b"\r\n"))
        assert ok == "OK", answer
        uid = answer[0].decode().split()[2].rstrip("]")
        self._client.noop()
        choice = self._random.randrange(4)
        if choice == 0:
            self._client.uid("STORE", uid, "+FLAGS.SILENT", r"(\Deleted)")
            self._client.uid("EXPUNGE", uid)
            return
        self.kept.add(text)
        if choice == 1:
            ok, _ = self._client.uid("COPY", uid, "Work")
            assert ok == "OK"
            self.copied.add(text)
        else:
            self._client.uid("STORE", uid, "+FLAGS.SILENT", r"(\Seen $Label1)")


async def ours(writer: StoreWriter, number: int, rounds: int, kept: set[bytes], copied: set[bytes]) -> None:
    """One of our writers does the same as :class:`Imap`."""
    rng = random.Random(number)
    for n in range(rounds):
        text = body(10_000 * number + n, rng.choice((0, 0, 5000)))
        (uid,) = (await writer.save("INBOX", [NewMessage(text)])).uids
        choice = rng.randrange(5)
        if choice == 0:
            await writer.expunge("INBOX", [uid])
            continue
        if choice == 4:
            text = body(10_000 * number + 5000 + n)
            await writer.save("INBOX", [NewMessage(text, replaces=uid)])
        kept.add(text)
        if choice == 1:
            await writer.copy("INBOX", [uid], "Work")
            copied.add(text)
        elif choice == 2:
            await writer.set_flags("INBOX", [uid], add=8)
            await writer.set_keywords("INBOX", [uid], add=["$Label1", f"k{n % 3}"])
        else:
            with pytest.raises(NoSuchMessage):
                await writer.set_flags("INBOX", [2**31], add=8)


@BOTH
async def test_ours_and_two_imap_sessions(dovecot: Dovecot, driver: str) -> None:
    """``DBOXFS_STRESS=8:600``: so many writers of ours, and so many rounds of each (2:60)."""
    account = made(dovecot, driver)
    writers, _, turns = os.environ.get("DBOXFS_STRESS", "2:60").partition(":")
    rounds = int(turns)
    sessions = [Imap(account, number, rounds) for number in (1, 2)]
    for session in sessions:
        session.start()
    kept: set[bytes] = {body(0)}
    copied: set[bytes] = set()
    where = parse_location(account.location)
    async with FileSystem(ThreadsDriver()) as fs:
        owner = await fs.stat(where.root)
        async with trio.open_nursery() as nursery:
            for number in range(3, 3 + int(writers)):
                writer = StoreWriter(fs, where, owner, WriteOptions())
                nursery.start_soon(ours, writer, number, rounds, kept, copied)
    for session in sessions:
        await trio.to_thread.run_sync(session.join)
        assert session.failure is None
        kept |= session.kept
        copied |= session.copied
    texts = Counter(Shown.of(account).texts)
    assert texts == Counter(kept)
    assert Counter(Shown.of(account, "Work").texts) == Counter(copied)
    assert_resync_changes_nothing(account)
    if driver == "mdbox":
        account.purge()
    assert Counter(Shown.of(account).texts) == texts
