"""Messages of an mdbox that are expunged and not purged: listed, read, and brought back."""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from dboxfs.errors import NoSuchMailbox, NoSuchMessage, Unsupported
from dboxfs.fsapi import Crash, Fault, FaultsDriver, FileSystem
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind, Location, Store, open_store
from dboxfs.store.deleted import DeletedMessage, DeletedMessages
from dboxfs.store.mdbox.expunged import Expunged
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store, log_records

ROOT = "/nowhere/on/this/disk/mail"
LOCATION = Location(Kind.MDBOX, ROOT)
ALONE = WriteOptions(Neighbour.ALONE)
JULY = 1_689_000_000


def text(number: int) -> bytes:
    return b"Subject: number %d\n\ntext\n" % number


@dataclass(slots=True)
class Made:
    """A store in memory: INBOX with three messages, Work with one."""

    memory: MemoryDriver

    @asynccontextmanager
    async def writer(
        self, options: WriteOptions = ALONE, driver: Driver | None = None
    ) -> AsyncIterator[StoreWriter]:
        async with FileSystem(driver or MemoryDriver(tree=self.memory.tree)) as fs:
            yield StoreWriter(fs, LOCATION, await fs.stat(ROOT), options)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        async with (
            FileSystem(MemoryDriver(tree=self.memory.tree)) as fs,
            open_store(fs, LOCATION, follow=False) as store,
        ):
            yield store

    async def deleted(self) -> list[DeletedMessage]:
        async with self.store() as store:
            return await DeletedMessages(store).look()

    async def texts(self, name: str = "INBOX") -> list[bytes]:
        """What a store that is opened now shows in a mailbox."""
        async with self.store() as store:
            box = store.folders[name].mailbox
            assert box is not None
            found = []
            for uid in box.uids.tolist():
                body = await box.open(uid)
                found.append(await body.read(body.size, 0))
                body.close()
            return found


@pytest.fixture
async def made() -> Made:
    memory = MemoryDriver()
    memory.make_dirs(os.path.dirname(ROOT))
    found = Made(memory)
    async with FileSystem(MemoryDriver(tree=memory.tree)) as fs:
        await init_store(fs, LOCATION, options=ALONE)
    async with found.writer() as writer:
        await writer.create_mailbox("Work")
        await writer.save("INBOX", [NewMessage(text(n), JULY + n) for n in range(3)])
        await writer.save("Work", [NewMessage(text(10), JULY)])
    return found


def whats(messages: Sequence[DeletedMessage]) -> list[Expunged]:
    return [message.what for message in messages]


async def test_what_was_expunged_is_listed_with_its_date_size_guid_and_mailbox_and_can_be_read(
    made: Made,
) -> None:
    assert await made.deleted() == []
    async with made.store() as store:
        box = store.folders["INBOX"].mailbox
        assert box is not None
        guid = (await box.details(2)).metadata.guid
    async with made.writer() as writer:
        await writer.expunge("INBOX", [2])
    async with made.store() as store:
        deleted = DeletedMessages(store)
        (one,) = await deleted.look()
        assert guid is not None
        assert (one.guid_text, one.received, one.size) == (guid.decode(), JULY + 1, len(text(1)))
        assert (one.mailbox, one.what.requested) == ("INBOX", None)
        body = await deleted.open(one)
        assert await body.read(body.size, 0) == text(1)
        body.close()


async def test_what_was_put_back_from_a_backup_is_not_deleted_any_more(made: Made) -> None:
    async with made.writer() as writer:
        await writer.expunge("INBOX", [2])
    (one,) = await made.deleted()
    async with made.writer() as writer:
        await writer.save("Work", [NewMessage(text(1), guid=one.what.guid)])
        await writer.expunge("INBOX", [3])
    assert [message.what.guid == one.what.guid for message in await made.deleted()] == [False]
    async with made.writer() as writer:
        await writer.expunge("Work", [2])
    assert [message.what.guid == one.what.guid for message in await made.deleted()] == [True, False, True]


async def test_what_is_moved_or_copied_is_not_deleted(made: Made) -> None:
    async with made.writer() as writer:
        await writer.move("INBOX", [1], "Work")
        await writer.copy("INBOX", [2], "Work")
        await writer.expunge("INBOX", [2])
    assert await made.deleted() == []


@pytest.mark.parametrize("neighbour", list(Neighbour))
async def test_what_comes_back_has_its_guid_and_date_and_is_deleted_no_more(
    made: Made, neighbour: Neighbour
) -> None:
    options = WriteOptions(neighbour)
    async with made.writer(options) as writer:
        await writer.expunge("INBOX", [1, 3])
    found = await made.deleted()
    assert len(found) == 2
    async with made.writer(options) as writer:
        back = await writer.undelete("Work", whats(found))
        assert back.uids == (2, 3)
    assert await made.deleted() == []
    assert await made.texts("Work") == [text(10), text(0), text(2)]
    async with made.store() as store:
        box = store.folders["Work"].mailbox
        assert box is not None
        for uid, message in zip(back.uids, found, strict=True):
            metadata = (await box.details(uid)).metadata
            assert metadata.guid is not None
            assert metadata.guid.decode() == message.guid_text
            assert metadata.received == message.received


async def test_an_expunge_that_was_only_asked_for_is_listed_and_comes_back_with_its_flags(made: Made) -> None:
    async with made.writer(WriteOptions(Neighbour.DOVECOT)) as writer:
        await writer.set_flags("INBOX", [2], add=0x08 | 0x04)
        await writer.set_keywords("INBOX", [2], add=["Label"])
        await writer.expunge("INBOX", [2], execute=False)
    (one,) = await made.deleted()
    assert one.what.requested == ("INBOX", 2)
    async with made.writer(WriteOptions(Neighbour.DOVECOT)) as writer:
        await writer.undelete("INBOX", [one.what])
    async with made.writer() as writer:  # Dovecot carries the request out
        await writer.maintain()
        assert (await writer.purge()).messages == 0
    assert await made.texts() == [text(0), text(2), text(1)]
    async with made.store() as store:
        box = store.folders["INBOX"].mailbox
        assert box is not None
        assert (box.flags(4), box.keywords(4)) == (("\\Seen",), ("Label",))


async def test_what_was_purged_is_listed_no_more_and_does_not_come_back(made: Made) -> None:
    async with made.writer() as writer:
        await writer.expunge("INBOX", [2])
        (one,) = await made.deleted()
        assert (await writer.purge()).messages == 1
        with pytest.raises(NoSuchMessage, match="a purge has taken this message away"):
            await writer.undelete("INBOX", [one.what])
    assert await made.deleted() == []
    assert await made.texts() == [text(0), text(2)]


async def test_a_purge_that_has_begun_keeps_what_comes_back_meanwhile(made: Made) -> None:
    """The message comes back when the purge has copied what lives, and before it changes the map."""
    async with made.writer() as writer:
        await writer.expunge("INBOX", [2])
    (one,) = await made.deleted()

    async with made.writer() as purger, made.writer() as other:
        work = purger._work
        locked = work.locked_map
        undeleted: list[object] = []

        @asynccontextmanager
        async def after_others() -> AsyncIterator[object]:
            if not undeleted:
                undeleted.append(await other.undelete("INBOX", [one.what]))
            async with locked() as mapping:
                yield mapping

        work.locked_map = after_others  # type: ignore[method-assign, assignment]
        done = await purger.purge()
    assert undeleted
    assert done.left == ("m.1: its messages have changed meanwhile",)
    assert await made.texts() == [text(0), text(2), text(1)]
    async with made.writer() as writer:
        assert (await writer.purge()).files == 0


async def test_what_a_mailbox_has_again_does_not_come_back_twice(made: Made) -> None:
    async with made.writer() as writer:
        await writer.expunge("INBOX", [2])
        (one,) = await made.deleted()
        await writer.undelete("INBOX", [one.what])
        with pytest.raises(NoSuchMessage, match="a mailbox has this message"):
            await writer.undelete("Work", [one.what])
    assert await made.texts("Work") == [text(10)]


async def test_a_map_uid_that_stands_for_another_message_by_now_brings_nothing_back(made: Made) -> None:
    async with made.writer() as writer:
        await writer.expunge("INBOX", [2])
        (one,) = await made.deleted()
        with pytest.raises(NoSuchMessage, match="it is another message by now"):
            await writer.undelete("INBOX", [replace(one.what, guid=bytes(15) + b"1")])
    assert len(await made.deleted()) == 1


async def test_of_several_all_come_back_or_none(made: Made) -> None:
    async with made.writer() as writer:
        await writer.expunge("INBOX", [1, 2])
        first, second = whats(await made.deleted())
        with pytest.raises(NoSuchMessage):
            await writer.undelete("Work", [first, replace(second, map_uid=99)])
    assert len(await made.deleted()) == 2
    assert await made.texts("Work") == [text(10)]


async def test_the_messages_of_a_deleted_mailbox_come_back_to_one_that_is_there(made: Made) -> None:
    async with made.writer() as writer:
        await writer.delete_mailbox("Work")
        (one,) = await made.deleted()
        assert one.mailbox == "Work"
        with pytest.raises(NoSuchMailbox):
            await writer.undelete("Work", [one.what])
        assert await made.deleted() == [one]
        await writer.create_mailbox("Work")
        await writer.undelete("Work", [one.what])
    assert await made.texts("Work") == [text(10)]


async def test_a_record_that_a_mailbox_has_is_not_deleted_whatever_its_count_says(made: Made) -> None:
    async with made.writer() as writer, writer._work.locked_map():
        await writer._work.map.append(_lost_count(writer))
        await writer._work.map_done()
    assert await made.deleted() == []


def _lost_count(writer: StoreWriter) -> list[bytes]:
    return log_records.change_refcounts(writer._work.map.state, [(1, -1)])


async def test_a_damaged_record_is_left_out_and_counted(made: Made) -> None:
    async with made.writer() as writer:
        await writer.expunge("INBOX", [1, 2])
    data = made.memory.tree.find(f"{ROOT}/storage/m.1").data
    at = data.index(b"Subject: number 1") + len(text(1))
    data[at : at + 2] = b"xx"  # the magic in front of the metadata
    async with made.store() as store:
        deleted = DeletedMessages(store)
        assert len(await deleted.look()) == 1
        assert deleted.unreadable == 1


async def test_an_sdbox_has_none(made: Made) -> None:
    memory = MemoryDriver()
    memory.make_dirs(os.path.dirname(ROOT))
    location = Location(Kind.SDBOX, ROOT)
    async with FileSystem(memory) as fs:
        await init_store(fs, location, options=ALONE)
        async with open_store(fs, location, follow=False) as store:
            with pytest.raises(Unsupported, match="only an mdbox keeps it until a purge"):
                DeletedMessages(store)
        with pytest.raises(Unsupported, match="keeps no expunged messages"):
            await StoreWriter(fs, location, await fs.stat(ROOT), ALONE).undelete("INBOX", [])


async def test_whatever_operation_it_dies_at_the_message_is_deleted_or_back_and_never_lost(
    made: Made,
) -> None:
    async with made.writer() as writer:
        await writer.expunge("INBOX", [2])
    (one,) = await made.deleted()
    before = copy.deepcopy(made.memory.tree)
    nth, outcomes = 0, set()
    while True:
        nth += 1
        made.memory = MemoryDriver(tree=copy.deepcopy(before))
        driver = FaultsDriver(
            MemoryDriver(tree=made.memory.tree), [Fault("*", nth, crash=Crash.AFTER)], depth=1
        )
        try:
            async with made.writer(driver=driver) as writer:
                await writer.undelete("INBOX", [one.what])
        except* OSError:
            assert driver.crashed
        async with made.writer() as writer:
            await writer.recover()
            async with writer._work.locked_map():
                pass
        texts, deleted = await made.texts(), await made.deleted()
        back = text(1) in texts
        assert sorted(texts) == [text(0), *([text(1)] if back else []), text(2)]
        assert [some.what.guid for some in deleted] == ([] if back else [one.what.guid])
        outcomes.add(back)
        if not driver.crashed:
            break
    assert outcomes == {False, True}
