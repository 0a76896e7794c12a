"""What comes into a mailbox while that is renamed or removed is there, or its writer is told of an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import pytest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fsapi.ops import FileAsSeen
from dboxfs.store import Kind, Location
from dboxfs.store.indexes.in_turn import Afterwards
from dboxfs.store.write import (
    MailboxInUse,
    NewMessage,
    StoreWriter,
    Wanted,
    init_store,
)
from dboxfs.tools.check import CheckOptions, Finding, Severity, check_store
from tests.store.opened import opened

BOTH = pytest.mark.parametrize("kind", [Kind.SDBOX, Kind.MDBOX])


async def texts(location: Location, name: str) -> list[bytes]:
    """The messages that a reader sees."""
    async with opened(f"{location.kind.value}:{location.root}", follow=False) as (store, _):
        folder = store.folders.get(name)
        box = folder.mailbox if folder is not None else None
        found = []
        for uid in box.uids if box is not None else ():
            assert box is not None
            body = await box.open(uid)
            found.append(await body.read(body.size, 0))
            body.close()
        return found


@BOTH
async def test_a_message_that_comes_while_requests_are_carried_out_is_not_removed_with_its_mailbox(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location(kind, str(tmp_path / "mail"))
    async with FileSystem(ThreadsDriver(2), sync=False) as fs:
        await init_store(fs, location)
        owner, execute, came = (tmp_path / "mail").stat(), StoreWriter._execute_expunge, list[bytes]()

        async def deliver(self: StoreWriter, name: str, uids: Sequence[int] | None = None) -> list[int]:
            if self is writer and not came:
                came.append(b"Subject: new\n\n")
                await other.save(name, [NewMessage(came[0])])
            return await execute(self, name, uids)

        monkeypatch.setattr(StoreWriter, "_execute_expunge", deliver)
        writer, other = StoreWriter(fs, location, owner), StoreWriter(fs, location, owner)
        await writer.create_mailbox("Work")
        await writer.save("Work", [NewMessage(b"Subject: old\n\n")])
        await writer.expunge("Work", [1], execute=False)
        with pytest.raises(MailboxInUse):
            await writer.delete_mailbox("Work", only_empty=True)
    assert came
    assert await texts(location, "Work") == came


class _Renaming:
    """Knows of names, and renames the mailbox when it hears of one: its lock is held then."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer

    async def begin(
        self, mailbox: str, wanted: Sequence[Wanted], there: Callable[[Iterable[int]], Sequence[int]]
    ) -> list[DboxfsError | None]:
        await self._writer.rename_mailbox(mailbox, "Other")
        return [None] * len(wanted)

    def confirming(self, mailbox: str, wanted: Sequence[Wanted]) -> AbstractContextManager[Afterwards | None]:
        return nullcontext()

    async def name_of(
        self, mailbox: str, uid: int, there: Callable[[Iterable[int]], Sequence[int]]
    ) -> bytes | None:
        return None

    def name_as_seen(self, mailbox: str, uid: int) -> tuple[bytes, FileAsSeen] | None:
        return None


@BOTH
async def test_a_save_into_a_mailbox_that_is_renamed_meanwhile_is_there_or_reports_an_error(
    kind: Kind, tmp_path: Path
) -> None:
    location = Location(kind, str(tmp_path / "mail"))
    saved = list[bytes]()
    async with FileSystem(ThreadsDriver(2), sync=False) as fs:
        await init_store(fs, location)
        writer = StoreWriter(fs, location, (tmp_path / "mail").stat())
        await writer.create_mailbox("Work")
        await writer.save("Work", [NewMessage(b"Subject: 1\n\n")])
        writer.tell_names(_Renaming(writer))
        with suppress(OSError, DboxfsError):
            await writer.save("Work", [NewMessage(b"Subject: 2\n\n", wanted=Wanted(b"two"))])
            saved.append(b"Subject: 2\n\n")
        assert len(saved) == (kind is Kind.MDBOX), "an sdbox has no place for the file under the old name"
        await writer.recover()
    assert await texts(location, "Other") == [b"Subject: 1\n\n", *saved]
    async with FileSystem(ThreadsDriver(2), sync=False) as fs:
        findings = list[Finding]()
        await check_store(fs, location, findings.append, CheckOptions(patience=()))
    assert [finding for finding in findings if finding.severity is Severity.ERROR] == []
