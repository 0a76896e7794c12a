"""Whatever operation a writer dies at, nothing acknowledged is lost and nothing half-done shows.

All points of all paths: ``DBOXFS_CRASH=all pytest tests/crash``.  Otherwise some of them.
"""

from __future__ import annotations

import base64
import os

import pytest
import trio

from dboxfs.dbox.cutting import Cutting
from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FaultsDriver, FileSystem, Permissions, ThreadsDriver
from dboxfs.store import open_store
from dboxfs.store.deleted import DeletedMessages
from dboxfs.store.mail_location import named_location
from dboxfs.store.write import (
    HandleSource,
    Neighbour,
    NewMessage,
    StoreWriter,
    WriteOptions,
    init_store,
)
from tests.crash.points import EXPECTED, LISTED_AGAIN, Acknowledge, Point, Scenario, crash, each_of, template
from tests.live.dovecot import Account, Append, Dovecot
from tests.store.write.stores import body

pytestmark = pytest.mark.expected_log(*EXPECTED)

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 2


def three_messages(account: Account) -> None:
    for n in range(3):
        account.save(body(n))
    account.doveadm("mailbox create", "Work")
    account.save(body(10), "Work")
    account.doveadm("flags add", r"\Seen $Label1", "mailbox", "INBOX", "uid", "2")


async def save_one(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.save("INBOX", [NewMessage(body(100), flags=8, keywords=("new",))])


async def save_many(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.save("INBOX", [NewMessage(body(n)) for n in range(100, 104)])


async def save_large(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    temporary = fs.create(os.path.join(writer.location.root, "mailboxes/INBOX/dbox-Mails/new"))
    await temporary.write_all(body(100, 50_000))
    try:
        await writer.save("INBOX", [NewMessage(HandleSource(temporary)), NewMessage(body(101))])
    finally:
        await temporary.aclose()


def with_attachment(number: int) -> bytes:
    """A message with a part that gets a file of its own."""
    head = b"Subject: %d\nMIME-Version: 1.0\nContent-Type: application/pdf\n" % number
    return head + b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(b"%d" % number * 3000)


def one_with_attachment(account: Account) -> None:
    account.append([Append(with_attachment(1)), Append(body(2))])


async def save_apart(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.save("INBOX", [NewMessage(with_attachment(100)), NewMessage(with_attachment(101))])


async def replace_apart(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.save("INBOX", [NewMessage(with_attachment(100), replaces=1)])


async def save_together(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    async def save(name: str, text: bytes) -> None:
        await writer.save(name, [NewMessage(text)])
        acknowledge(name, text)

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(save, "INBOX", body(100 + n))
            nursery.start_soon(save, "Work", body(200 + n))


async def replace(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.save("INBOX", [NewMessage(body(100), replaces=2)])


async def expunge(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.expunge("INBOX", [1, 3])


async def remove(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    for uid in (1, 3):
        assert await writer.ask_expunge("INBOX", uid)
        acknowledge("INBOX", body(uid - 1))
    await writer.carry_out("INBOX")


async def copy(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.copy("INBOX", [1, 2], "Work")


async def move(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.move("INBOX", [1, 2], "Work")


async def take_place(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.take_place("INBOX", 1, 2)


async def move_over(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.move("Work", [1], "INBOX", replaces=2)


async def flags(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.set_flags("INBOX", [1, 2], add=2)
    await writer.set_keywords("INBOX", [1, 2], add=["a", "b"])


async def create(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.create_mailbox("New/Deep")


async def delete(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.delete_mailbox("Work")


async def rename(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.rename_mailbox("Work", "Else/Where")


async def subscribe(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.subscribe("Work")


async def purge(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.purge()


async def undelete(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    async with open_store(fs, writer.location, follow=False) as store:
        deleted = await DeletedMessages(store).look()
    await writer.undelete("INBOX", [message.what for message in deleted])


async def maintain(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.maintain()


async def rewrite(writer: StoreWriter, fs: FileSystem, acknowledge: Acknowledge) -> None:
    await writer.save("INBOX", [NewMessage(body(100))])


def with_dead_messages(account: Account) -> None:
    three_messages(account)
    for n in range(20, 24):
        account.save(body(n, 3000))
    account.doveadm("copy", "Work", "mailbox", "INBOX", "uid", "4:5")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "2,4,6")


def with_two_deleted(account: Account) -> None:
    three_messages(account)
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:2")


def with_leftovers(account: Account) -> None:
    three_messages(account)
    for name in ("INBOX", "Work"):
        old = account.root / "mailboxes" / name / "dbox-Mails/.temp.1.P1Q1M1.host"
        old.write_bytes(b"left over")


BETWEEN = tuple(frozenset({("INBOX", body(n)), ("Work", body(n))}) for n in range(3))
EITHER = (frozenset({("INBOX", body(1)), ("INBOX", body(100))}),)
OVER = (frozenset({("INBOX", body(10)), ("Work", body(10))}),)
ATOMIC = {
    # The others: without a Dovecot a file that waits for its record gets one (PROTOCOL 10).
    "move_over-sdbox-dovecot": ("INBOX", "Work"),
    **{f"move_over-mdbox-{n.value}": ("INBOX", "Work") for n in Neighbour},
    **{f"take_place-{d}-{n.value}": ("INBOX",) for d in ("sdbox", "mdbox") for n in Neighbour},
}
RENAMED = (frozenset({("Work", body(10)), ("Else/Where", body(10))}),)
CHANGES = [
    (save_one, ()),
    (save_many, ()),
    (save_large, ()),
    (save_together, ()),
    (replace, EITHER),
    (expunge, ()),
    (remove, ()),
    (copy, ()),
    (move, BETWEEN),
    (take_place, ()),
    (move_over, OVER),
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
        ours_first=change is delete,  # Dovecot complains of a mailbox that is half deleted, whoever did it
        atomic=ATOMIC.get(f"{change.__name__}-{driver}-{neighbour.value}", ()),
    )
    for change, together in CHANGES
    for driver in ("sdbox", "mdbox")
    for neighbour in Neighbour
]


SCENARIOS += [
    Scenario(
        f"{change.__name__}-{driver}-index",
        driver,
        WriteOptions(neighbour),
        three_messages,
        change,
        suffix=":LAYOUT=index",
        ours_first=change is delete,
    )
    for change in (create, delete, rename)
    for driver, neighbour in (("sdbox", Neighbour.DOVECOT), ("mdbox", Neighbour.ALONE))
]
ALONE = WriteOptions(Neighbour.ALONE)
OLD = WriteOptions(Neighbour.ALONE, temporary_age=-1)
SCENARIOS += [
    Scenario("purge-mdbox-alone", "mdbox", ALONE, with_dead_messages, purge),
    *(
        Scenario(f"undelete-mdbox-{some.value}", "mdbox", WriteOptions(some), with_two_deleted, undelete)
        for some in Neighbour
    ),
    *(
        Scenario(
            f"{change.__name__}-{driver}-{some.value}",
            driver,
            WriteOptions(some, apart=Cutting(2048)),
            one_with_attachment,
            change,
            attachments=True,
        )
        for change in (save_apart, replace_apart)
        for driver in ("sdbox", "mdbox")
        for some in Neighbour
    ),
    Scenario("maintain-sdbox-alone", "sdbox", OLD, with_leftovers, maintain),
    Scenario("maintain-mdbox-alone", "mdbox", OLD, with_leftovers, maintain),
    *(
        Scenario(
            f"{name}-{driver}-alone",
            driver,
            WriteOptions(Neighbour.ALONE, rewrite_after=100, rotate_log=size),
            three_messages,
            rewrite,
        )
        for name, size in (("rewrite", 1 << 20), ("rotate", 200))
        for driver in ("sdbox", "mdbox")
    ),
]


@each_of(SCENARIOS)
async def test_a_crash(dovecot: Dovecot, points: dict[str, int], scenario: Scenario) -> None:
    made = await template(dovecot, scenario)
    every = list(made.points())
    chosen = every if EVERY else every[:: max(1, len(every) // SOME)]
    for point in chosen:
        await crash(dovecot, scenario, made, point)
    points[scenario.name] = len(chosen)


@pytest.mark.parametrize(
    "text",
    [
        "sdbox:{home}/mail",
        "mdbox:{home}/mail",
        pytest.param("sdbox:{home}/mail:LAYOUT=index", marks=pytest.mark.expected_log(LISTED_AGAIN)),
        pytest.param(
            "mdbox:{home}/mail:LAYOUT=index:INDEX={home}/i:CONTROL={home}/c",
            marks=pytest.mark.expected_log(LISTED_AGAIN),
        ),
        "sdbox:{home}/mail:INBOX={home}/inbox",
    ],
)
async def test_a_crash_while_a_store_is_made(dovecot: Dovecot, points: dict[str, int], text: str) -> None:
    count = 0
    while True:
        account = dovecot.account(text)
        location = named_location(account.location)
        assert location is not None
        faults = FaultsDriver(ThreadsDriver(1), Point(count).plan(), depth=1)
        entry = account.home.stat()
        try:
            async with FileSystem(faults) as fs:
                permissions = Permissions(0o700, entry.st_gid, entry.st_uid)
                await init_store(fs, location, permissions)
        except (OSError, DboxfsError):
            assert faults.crashed
        account.save(body(1))
        assert [m.text for m in account.fetch()] == [body(1)]
        if not faults.crashed:
            break
        count += 1 if EVERY else 5
    points[f"init-{text.partition(':')[0]}{text.partition('mail')[2]}"] = count
