"""A store that Dovecot and dboxfs write together, for tests; and what Dovecot says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.store import parse_location
from dboxfs.store.write import StoreWriter, WriteOptions
from tests.live.dovecot import Account, Fetched, Status

RESYNC = ("Rebuilding index", "fscking index file", "rebuilding indexes", "fsck'd (refresh)")
"""What force-resync always logs."""

BODY = b"From: a@example.org\nTo: b@example.org\nSubject: one\nDate: Mon, 2 Feb 2026 10:00:00 +0000\n\ntext\n"


def body(number: int, size: int = 0) -> bytes:
    """A message that no other is equal to, of about *size* bytes."""
    text = BODY.replace(b"one", b"number %d" % number)
    line = b"a line of text, number %d\n" % number
    return text + line * (max(0, size - len(text)) // len(line) + 1)


@dataclass(slots=True)
class Shown:
    """A mailbox as Dovecot shows it."""

    status: Status
    messages: list[Fetched]

    @classmethod
    def of(cls, account: Account, name: str = "INBOX") -> Shown:
        messages = account.fetch(name)
        return cls(account.status()[name], messages)

    @property
    def texts(self) -> list[bytes]:
        return [message.text for message in self.messages]

    @property
    def uids(self) -> list[int]:
        return [message.uid for message in self.messages]


def everything(account: Account) -> dict[str, Shown]:
    """All selectable mailboxes."""
    names = list(account.status())
    return {name: Shown.of(account, name) for name in names}


def assert_resync_changes_nothing(account: Account) -> None:
    """force-resync, Dovecot's own repair, finds nothing that is not as it should be."""
    before = everything(account)
    account.force_resync("*")
    after = everything(account)
    assert list(before) == list(after)
    for name, shown in before.items():
        assert [_kept(m) for m in after[name].messages] == [_kept(m) for m in shown.messages], name
        assert after[name].status.uidnext == shown.status.uidnext, name
        assert after[name].status.uidvalidity == shown.status.uidvalidity, name
        assert after[name].status.guid == shown.status.guid, name
        assert after[name].status.messages == shown.status.messages, name


def _kept(message: Fetched) -> dict[str, object]:
    """What a repair keeps: all but the modseq, and the saved date, which may then be the file's."""
    values = asdict(message)
    del values["modseq"], values["saved"]
    return values


@asynccontextmanager
async def writing(
    location: str, options: WriteOptions | None = None, driver: Driver | None = None
) -> AsyncIterator[StoreWriter]:
    """A writer of the store at *location*."""
    where = parse_location(location)
    async with FileSystem(driver or ThreadsDriver()) as fs:
        yield StoreWriter(fs, where, await fs.stat(where.root), options)
