"""Whatever operation a writer dies at, nothing acknowledged is lost and nothing half-done shows.

All points of all paths: ``DBOXFS_CRASH=all pytest tests/crash``.  Otherwise some of them.
"""

from __future__ import annotations

import os

import pytest
import trio

from dboxfs.fsapi import FileSystem
from dboxfs.store.writing import HandleSource, Neighbour, NewMessage, StoreWriter, WriteOptions
from tests.crash.points import EXPECTED, Scenario, crash, template
from tests.live.dovecot import Account, Dovecot
from tests.store_writing.stores import body

pytestmark = pytest.mark.expected_log(*EXPECTED)

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 4


def three_messages(account: Account) -> None:
    for n in range(3):
        account.save(body(n))
    account.doveadm("mailbox create", "Work")
    account.save(body(10), "Work")
    account.doveadm("flags add", r"\Seen $Label1", "mailbox", "INBOX", "uid", "2")


async def save_one(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.save("INBOX", [NewMessage(body(100), flags=8, keywords=("new",))])


async def save_many(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.save("INBOX", [NewMessage(body(n)) for n in range(100, 104)])


async def save_large(writer: StoreWriter, fs: FileSystem) -> None:
    temporary = fs.create(os.path.join(writer.location.root, "mailboxes/INBOX/dbox-Mails/new"))
    await temporary.write_all(body(100, 50_000))
    try:
        await writer.save("INBOX", [NewMessage(HandleSource(temporary)), NewMessage(body(101))])
    finally:
        await temporary.aclose()


async def save_together(writer: StoreWriter, fs: FileSystem) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(writer.save, "INBOX", [NewMessage(body(100 + n))])
            nursery.start_soon(writer.save, "Work", [NewMessage(body(200 + n))])


async def replace(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.save("INBOX", [NewMessage(body(100), replaces=2)])


async def expunge(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.expunge("INBOX", [1, 3])


async def copy(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.copy("INBOX", [1, 2], "Work")


async def move(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.move("INBOX", [1, 2], "Work")


async def flags(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.set_flags("INBOX", [1, 2], add=2)
    await writer.set_keywords("INBOX", [1, 2], add=["a", "b"])


async def create(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.create_mailbox("New/Deep")


async def delete(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.delete_mailbox("Work")


async def rename(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.rename_mailbox("Work", "Else/Where")


async def subscribe(writer: StoreWriter, fs: FileSystem) -> None:
    await writer.subscribe("Work")


BETWEEN = tuple(frozenset({("INBOX", body(n)), ("Work", body(n))}) for n in range(3))
EITHER = (frozenset({("INBOX", body(1)), ("INBOX", body(100))}),)
RENAMED = (frozenset({("Work", body(10)), ("Else/Where", body(10))}),)
CHANGES = [
    (save_one, ()),
    (save_many, ()),
    (save_large, ()),
    (save_together, ()),
    (replace, EITHER),
    (expunge, ()),
    (copy, ()),
    (move, BETWEEN),
    (flags, ()),
    (create, ()),
    (delete, ()),
    (rename, RENAMED),
    (subscribe, ()),
]
SCENARIOS = [
    Scenario(
        f"{change.__name__}-{driver}-{neighbour.value}",
        driver,
        WriteOptions(neighbour, memory_limit=10_000),
        three_messages,
        change,
        together,
    )
    for change, together in CHANGES
    for driver in ("sdbox", "mdbox")
    for neighbour in Neighbour
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_a_crash(dovecot: Dovecot, points: dict[str, int], scenario: Scenario) -> None:
    made = await template(dovecot, scenario)
    every = list(made.points())
    chosen = every if EVERY else every[:: max(1, len(every) // SOME)]
    for point in chosen:
        await crash(dovecot, scenario, made, point)
    points[scenario.name] = len(chosen)
