"""A message that is saved while Dovecot rebuilds the storage of an mdbox is there once, whole.

The records of a save are appended before the map is locked, and a rebuild takes no notice of the lock of the
file: it brings up a whole record by itself, and puts a copy in the place of a file whose last one is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext

import pytest
import trio
from msgspec import Struct

from dboxfs.errors import DboxfsError
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import FileAsSeen
from dboxfs.store.indexes.in_turn import Afterwards
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.mdbox.container import Placed
from dboxfs.store.mdbox.placement import Placer
from dboxfs.store.write import NewMessage, Superseded, Twin, Wanted
from dboxfs.store.write.record import Composed
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, body, writing

LARGE = 3 << 20
"""Bytes of a message that is not composed in memory."""

BROKEN = ("Corrupted dbox file", "Copy of the broken file saved")
"""What a rebuild logs about a record without an end."""

First = Callable[[], Steps[None]]


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    account = dovecot.account("mdbox:{home}/mail")
    account.save(body(0))
    account.doveadm("mailbox create", "Work")
    return account


@pytest.fixture
def rebuilt_before_the_map_is_locked(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    async def place(
        self: Placer, stack: AsyncExitStack, indexes: Sequence[IndexLog], batch: list[Composed], first: First
    ) -> list[Placed]:
        placed = await self.place_all(batch, first)
        await trio.to_thread.run_sync(account.force_resync)
        return placed

    monkeypatch.setattr(Placer, "place_and_lock", place)


class Rebuilding(Struct):
    """A text.  Once a part of its record is in the file, a rebuild comes."""

    data: bytes
    account: Account
    broken: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    async def read(self, size: int, offset: int) -> bytes:
        file = self.account.root / "storage/m.1"
        if not self.broken and file.stat().st_size > (1 << 20):
            await trio.to_thread.run_sync(self.account.force_resync)
            self.broken = (self.account.root / "storage/m.1.broken").stat().st_size
        return self.data[offset : offset + size]

    async def descriptor(self) -> int | None:
        return None


@pytest.mark.expected_log(*RESYNC)
@pytest.mark.usefixtures("rebuilt_before_the_map_is_locked")
async def test_a_message_that_a_rebuild_has_found_before_its_save_is_done_is_there_once(
    account: Account,
) -> None:
    async with writing(account.location) as writer:
        async with trio.open_nursery() as nursery:
            twice = [NewMessage(body(1), flags=0x02), NewMessage(b"", same_as=Twin(0))]
            nursery.start_soon(writer.save, "INBOX", [*twice, NewMessage(body(2))])
            nursery.start_soon(writer.save, "Work", [NewMessage(body(3))])
        assert Shown.of(account).texts == [body(0), body(1), body(1), body(2)]
        assert Shown.of(account, "Work").texts == [body(3)]
        assert [bool(r"\Flagged" in m.flags) for m in account.fetch()] == [False, True, False, False]
        gone = [message.uid for message in account.fetch() if message.uid != 1]
        await writer.expunge("INBOX", gone[1:])
        assert_resync_changes_nothing(account)
        assert Shown.of(account).texts == [body(0), body(1)]
        await writer.expunge("INBOX", gone[:1])
    assert_resync_changes_nothing(account)
    assert Shown.of(account).texts == [body(0)]


@pytest.mark.expected_log(*RESYNC, *BROKEN)
async def test_a_message_whose_file_a_rebuild_has_replaced_while_it_was_written_is_there(
    account: Account,
) -> None:
    text = body(1, LARGE)
    source = Rebuilding(text, account)
    async with writing(account.location) as writer:
        saved = await writer.save("INBOX", [NewMessage(source), NewMessage(body(2))])
        assert source.broken > 0
        assert Shown.of(account).texts == [body(0), text, body(2)]
        await writer.save("INBOX", [NewMessage(body(3))])
        await writer.expunge("INBOX", saved.uids[:1])
    account.save(body(4))
    assert_resync_changes_nothing(account)
    assert Shown.of(account).texts == [body(0), body(2), body(3), body(4)]


class Refusing:
    """Refuses each name."""

    async def begin(
        self, mailbox: str, wanted: Sequence[Wanted], there: Callable[[Iterable[int]], Sequence[int]]
    ) -> list[DboxfsError | None]:
        return [Superseded("another message has the name") for _ in wanted]

    def confirming(self, mailbox: str, wanted: Sequence[Wanted]) -> AbstractContextManager[Afterwards | None]:
        return nullcontext()

    async def name_of(
        self, mailbox: str, uid: int, there: Callable[[Iterable[int]], Sequence[int]]
    ) -> bytes | None:
        return None

    def name_as_seen(self, mailbox: str, uid: int) -> tuple[bytes, FileAsSeen] | None:
        return None


@pytest.mark.expected_log(*RESYNC)
@pytest.mark.usefixtures("rebuilt_before_the_map_is_locked")
async def test_the_text_of_a_refused_message_that_a_rebuild_has_brought_up_is_not_cut_off(
    account: Account,
) -> None:
    async with writing(account.location) as writer:
        writer.tell_names(Refusing())
        with pytest.raises(Superseded):
            await writer.save("INBOX", [NewMessage(body(1), wanted=Wanted(b"one"))])
        assert Shown.of(account).texts == [body(0), body(1)]
    account.save(body(2))
    assert Shown.of(account).texts == [body(0), body(1), body(2)]
    assert_resync_changes_nothing(account)
