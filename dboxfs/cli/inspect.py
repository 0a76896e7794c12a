"""``ls``, ``info``, ``dump``: look into a store without mounting it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import trio

from dboxfs.errors import NoSuchMailbox
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Folder, Store, open_store, parse_location
from dboxfs.store.dump import describe_file


def ls(arguments: argparse.Namespace) -> int:
    """``dboxfs ls STORE [MAILBOX]``."""
    if arguments.mailbox is None:
        return _with_store(arguments.store, _list_mailboxes)
    return _with_store(arguments.store, lambda store: _list_messages(store, arguments.mailbox))


def info(arguments: argparse.Namespace) -> int:
    """``dboxfs info STORE``."""
    return _with_store(arguments.store, _print_info)


def dump(arguments: argparse.Namespace) -> int:
    """``dboxfs dump FILE``."""
    for line in describe_file(arguments.file):
        print(line)
    return 0


def _with_store(location_text: str, work: Callable[[Store], Awaitable[int]]) -> int:
    logging.basicConfig(format="dboxfs: %(message)s", level=logging.WARNING)
    location = parse_location(location_text)

    async def run() -> int:
        async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
            return await work(store)

    return trio.run(run)


def _folders(store: Store) -> list[Folder]:
    return sorted(
        (folder for folder in store.folders.values() if folder.parent is not None),
        key=lambda folder: folder.name,
    )


async def _list_mailboxes(store: Store) -> int:
    for folder in _folders(store):
        count = f"{len(folder.mailbox):>9}" if folder.mailbox is not None else f"{'-':>9}"
        print(f"{count}  {store.display_name(folder)}")
    return 1 if store.index_errors else 0


async def _list_messages(store: Store, name: str) -> int:
    found = [
        folder for folder in _folders(store) if store.display_name(folder) == name or _path(folder) == name
    ]
    box = found[0].mailbox if found else None
    if box is None:
        raise NoSuchMailbox(
            f"{name}: no such mailbox in {store.location.root}; dboxfs ls {store.location.root} lists them"
        )
    await box.scan()
    failed = 0
    for uid in box.uids.tolist():
        facts = await box.facts_of(uid)
        failed |= facts.damaged
        received = "damaged             " if facts.damaged else _time(facts.received)
        marks = " ".join((*box.flags(uid), *box.keywords(uid)))
        print(f"{uid:>9} {facts.size:>10}  {received}  {marks}".rstrip())
    return int(failed)


def _path(folder: Folder) -> str:
    above = folder.parent
    return folder.shown if above is None or above.parent is None else f"{_path(above)}/{folder.shown}"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _print_info(store: Store) -> int:
    location = store.location
    print(f"format:       {location.kind.value}, dbox version 2, layout fs")
    for label, value in (
        ("root", location.root),
        ("index", location.index),
        ("control", location.control),
        ("alt", location.alt),
        ("attachments", location.attachments),
    ):
        if value is not None:
            print(f"{label + ':':<14}{value}")
    boxes = [folder.mailbox for folder in _folders(store) if folder.mailbox is not None]
    print(f"mailboxes:    {len(boxes)}")
    print(f"messages:     {sum(len(box) for box in boxes)}")
    if store.storage is not None:
        mapping = await store.storage.map()
        dead = int((mapping.refcounts == 0).sum())
        print(f"storage:      {len(mapping)} messages in the map, {dead} of them wait for a purge")
    print()
    print(f"{'messages':>9} {'unseen':>9} {'uidnext':>9} {'uidvalidity':>11}  mailbox")
    for folder in _folders(store):
        box = folder.mailbox
        if box is None:
            print(f"{'-':>9} {'-':>9} {'-':>9} {'-':>11}  {store.display_name(folder)}")
        else:
            counts = f"{len(box):>9} {box.unseen:>9} {box.uid_next:>9} {box.uid_validity:>11}"
            print(f"{counts}  {store.display_name(folder)}")
    return 1 if store.index_errors else 0
