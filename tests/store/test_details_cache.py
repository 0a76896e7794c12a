"""The table of parsed records: bounded, the longest unused first, and never out of date."""

from __future__ import annotations

import pytest

from dboxfs.errors import NoSuchMessage
from dboxfs.store.details_cache import DetailsCache, DetailsKey
from tests.live.dovecot import Account, Append, Dovecot
from tests.store.opened import box_of, opened

BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


def key(n: int) -> DetailsKey:
    return "mailbox", n, ()


def made(dovecot: Dovecot, location: str, **settings: str) -> Account:
    account = dovecot.account(location, **settings)
    account.append(Append(b"Subject: %d\n\nbody\n" % n) for n in range(1, 7))
    return account


def test_the_limit_holds_at_a_million_messages() -> None:
    table: DetailsCache[int] = DetailsCache(10_000)
    for n in range(1_000_000):
        table.put(key(n), n)
        assert len(table) <= 10_000
    assert table.get(key(999_999)) == 999_999
    assert table.get(key(989_999)) is None
    assert table.stats()["evicted"] == 990_000


def test_what_was_not_used_for_the_longest_time_goes_first() -> None:
    table: DetailsCache[str] = DetailsCache(3)
    for n, value in enumerate("abc"):
        table.put(key(n), value)
    assert table.get(key(0)) == "a"
    table.put(key(3), "d")
    assert [table.get(key(n)) for n in range(4)] == ["a", None, "c", "d"]


def test_everything_is_dropped_in_one_step() -> None:
    table: DetailsCache[int] = DetailsCache(100)
    for n in range(100):
        table.put(key(n), n)
    table.drop()
    assert len(table) == 0
    assert all(table.get(key(n)) is None for n in range(100))
    assert table.stats()["drops"] == 1


@BOTH
async def test_attributes_asked_for_again_cost_no_open(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, f"{driver}:{{home}}/mail")
    async with opened(account) as (store, _):
        box = box_of(store)
        first = await box.details(2)
        opens = store.fs.stats()["opens"]
        for _ in range(10):
            assert await box.details(2) == first
        assert store.fs.stats()["opens"] == opens
        assert (store.records.stats()["hits"], store.records.stats()["entries"]) == (10, 1)


async def test_a_purge_gives_the_new_location(dovecot: Dovecot) -> None:
    account = made(dovecot, "mdbox:{home}/mail")
    async with opened(account) as (store, _):
        box = box_of(store)
        before = (await box.details(3)).location
        assert before.startswith("storage/m.1 ")
        account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:2")
        account.purge()
        await store.refresh_mailbox(store.folders["INBOX"])
        assert store.storage is not None
        await store.storage.map(fresh=True)
        assert (await box.details(3)).location.startswith("storage/m.2 ")
        with pytest.raises(NoSuchMessage):
            await box.details(1)


async def test_an_altmove_gives_the_new_location(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox:{home}/mail:ALT={home}/alt")
    async with opened(account) as (store, _):
        box = box_of(store)
        assert (await box.details(3)).location.startswith("mailboxes/INBOX/")
        account.doveadm("altmove", "mailbox", "INBOX", "uid", "3")
        await store.refresh_mailbox(store.folders["INBOX"])
        assert (await box.details(3)).location.startswith("../alt/mailboxes/INBOX/")
