"""Maintenance while a store is mounted: when it runs, that it gives way, that it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions
from dboxfs.vfs.maintenance import LONGEST_DELAY, Maintenance
from tests.live.dovecot import Dovecot
from tests.store.write.stores import body, writing


@asynccontextmanager
async def kept_up(
    dovecot: Dovecot, requests: dict[str, int]
) -> AsyncIterator[tuple[StoreWriter, Maintenance, trio.Nursery]]:
    account = dovecot.account("sdbox:{home}/mail")
    account.save(body(0))
    async with writing(account.location, WriteOptions(Neighbour.ALONE)) as writer:
        upkeep = Maintenance(writer, requests, every=0.02, begin=0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upkeep.run)
            yield writer, upkeep, nursery
            nursery.cancel_scope.cancel()


async def runs(upkeep: Maintenance, count: int) -> None:
    with trio.fail_after(20):
        while upkeep.stats()["runs"] != count:
            await trio.sleep(0.005)


async def test_it_runs_again_only_after_something_was_written(dovecot: Dovecot) -> None:
    async with kept_up(dovecot, {"lookup": 7}) as (writer, upkeep, _):
        await runs(upkeep, 1)
        await trio.sleep(0.1)
        assert upkeep.stats()["runs"] == 1
        await writer.save("INBOX", [NewMessage(body(1))])
        await runs(upkeep, 2)
        await trio.sleep(0.1)
        stats = upkeep.stats()
        assert (stats["runs"], stats["mailboxes"], stats["failed"]) == (2, 2, 0)


async def test_it_gives_way_to_requests_but_not_for_ever(dovecot: Dovecot) -> None:
    requests = {"read": 0}

    async def ask() -> None:
        while True:
            requests["read"] += 1
            await trio.sleep(0.005)

    async with kept_up(dovecot, requests) as (_, upkeep, nursery):
        nursery.start_soon(ask)
        await trio.sleep(LONGEST_DELAY / 2)
        assert (upkeep.stats()["runs"], upkeep.stats()["running"]) == (0, True)
        await runs(upkeep, 1)


async def test_a_run_that_fails_is_counted_and_the_next_one_comes(dovecot: Dovecot) -> None:
    async with kept_up(dovecot, {}) as (writer, upkeep, _):
        await runs(upkeep, 1)
        log = f"{writer.location.mailbox_path('INBOX')}/dovecot.index.log"
        with open(log, "r+b") as file:  # not a log any more: this mailbox can't be looked at
            whole = file.read()
            file.seek(0)
            file.write(b"\xff" * 40)
        await writer.create_mailbox("New")
        await runs(upkeep, 2)
        assert upkeep.stats()["failed"] == 1
        with open(log, "r+b") as file:
            file.write(whole)
        await writer.save("INBOX", [NewMessage(body(1))])
        await runs(upkeep, 3)
        assert upkeep.stats()["failed"] == 1
