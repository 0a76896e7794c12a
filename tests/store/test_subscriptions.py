"""The file ``subscriptions`` (mailbox-layout section 9), both versions, and as Dovecot writes it."""

from __future__ import annotations

import errno

import pytest

from dboxfs.fsapi import Fault, FaultsDriver, ThreadsDriver
from dboxfs.store.subscriptions import parse_subscriptions
from tests.live.dovecot import Dovecot
from tests.store.opened import opened


def test_version_2_has_parts_and_escapes() -> None:
    data = b"V\t2\n\nINBOX\nA\tB\tC\ntab\x01tin\x01n\x01r\x010\x011name\n"
    assert parse_subscriptions(data) == {"INBOX", "A/B/C", "tab\tin\n\r\0\x01name"}


def test_version_1_has_plain_lines() -> None:
    assert parse_subscriptions(b"INBOX\nA/B\nTr&AOk-s") == {"INBOX", "A/B", "Tr&AOk-s"}


@pytest.mark.parametrize("data", [b"", b"\n\n", b"V\t2\n", b"V\t2\n\n", b"V\t2\n\n\n\n"])
def test_nothing_is_subscribed(data: bytes) -> None:
    assert parse_subscriptions(data) == frozenset()


def test_odd_bytes_stay_what_they_are() -> None:
    assert parse_subscriptions(b"V\t2\n\n\xe9\x01x\x01\n") == {"\udce9\x01x\x01"}


async def test_subscriptions_are_those_of_dovecot(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail:CONTROL={home}/control")
    for name in ("Work", "Work/Sub", "Trés"):
        account.doveadm("mailbox create", "-s", name)
    async with opened(account) as (store, _):
        assert await store.subscribed() == {"Work", "Work/Sub", "Tr&AOk-s"}
        account.doveadm("mailbox unsubscribe", "Work")
        assert await store.subscribed() == {"Work/Sub", "Tr&AOk-s"}


async def test_a_file_that_cannot_be_read_is_no_empty_one(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.doveadm("mailbox create", "-s", "Work")
    driver = FaultsDriver(ThreadsDriver(), [Fault("open", path="subscriptions", error=errno.EACCES)])
    async with opened(account, driver=driver) as (store, _):
        assert await store.subscribed() == {"Work"}
    (account.root / "subscriptions").unlink()
    (account.root / "subscriptions").mkdir()
    async with opened(account) as (store, _):
        with pytest.raises(IsADirectoryError):
            await store.subscribed()
