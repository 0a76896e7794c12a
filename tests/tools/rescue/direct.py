"""Stores made without Dovecot, rescued in this process, and read again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, open_store, parse_location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.tools.rescue import Event, Rescued, RescueOptions, rescue_store

ALONE = WriteOptions(neighbour=Neighbour.ALONE)


@dataclass(frozen=True, slots=True)
class Done:
    """A rescue: what was told, and where the new store is."""

    rescued: Rescued
    events: list[Event]
    root: Path

    @property
    def codes(self) -> list[str]:
        return sorted(event.code for event in self.events)


async def make(root: Path, driver: str, messages: Sequence[NewMessage], *mailboxes: str) -> StoreWriter:
    """A store with *messages* in INBOX, and its writer, which can't be used any more."""
    location = Location(Kind(driver), str(root))
    async with FileSystem(ThreadsDriver()) as fs:
        await init_store(fs, location, options=ALONE)
        writer = StoreWriter(fs, location, os.stat(root), ALONE)
        for name in mailboxes:
            await writer.create_mailbox(name)
        for message in messages:
            await writer.save("INBOX", [message])
    return writer


async def rescue(
    source: Path | Location, target: Path, *, partial: bool = False, kind: Kind | None = None
) -> Done:
    """Rescue *source*."""
    location = source if isinstance(source, Location) else parse_location(str(source), damaged=True)
    events: list[Event] = []
    async with FileSystem(ThreadsDriver()) as fs:
        options = RescueOptions(kind or location.kind, partial=partial)
        done = await rescue_store(fs, location, str(target), options, events.append)
    return Done(done, events, target)


async def shown(root: Path) -> dict[str, dict[int, bytes]]:
    """The texts of all messages by mailbox and uid."""
    found: dict[str, dict[int, bytes]] = {}
    async with (
        FileSystem(ThreadsDriver()) as fs,
        open_store(fs, parse_location(str(root)), follow=False) as store,
    ):
        for name, folder in store.folders.items():
            if folder.mailbox is None:
                continue
            found[name] = {}
            for uid in folder.mailbox.uids.tolist():
                body = await folder.mailbox.open(uid)
                found[name][uid] = await body.read(body.size, 0)
                body.close()
    return found


def files(root: Path) -> list[Path]:
    """The message files of a store."""
    return sorted(path for path in root.rglob("*") if re.fullmatch(r"[mu]\.[0-9]+", path.name))


def lines_of(root: Path, key: bytes) -> list[bytes]:
    """The values of a metadata key in all message files."""
    data = b"".join(path.read_bytes() for path in files(root))
    blocks = re.findall(rb"\n\x01\x03\n(?:[A-Z][^\n]*\n)+\n", data)
    return [line[1:] for block in blocks for line in block[4:].split(b"\n") if line[:1] == key]
