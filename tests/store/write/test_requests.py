"""Requests to expunge, as Dovecot, readers and writers take them: all three agree on what counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.index import payload
from dboxfs.index.log import RecordType, encode_record
from dboxfs.store import open_store, parse_location
from dboxfs.store.write import Neighbour, WriteOptions
from tests.live.dovecot import Dovecot
from tests.store.write.stores import RESYNC, Shown, body, writing

pytestmark = pytest.mark.expected_log(*RESYNC, "Expunged GUID mismatch")
WRONG = b"\xab" * 16


def ask(root: Path, uid: int, guid: bytes) -> None:
    """Ask for an expunge as another program does."""
    record = encode_record(RecordType.EXPUNGE_GUID, payload.expunge_guid([(uid, guid)]))
    with (root / "mailboxes/INBOX/dbox-Mails/dovecot.index.log").open("ab") as log:
        log.write(record)


async def shown(location: str) -> list[int]:
    """What our readers show."""
    where = parse_location(location)
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, where, follow=False) as store:
        box = store.folders["INBOX"].mailbox
        assert box is not None
        return [int(uid) for uid in box.uids]


@pytest.mark.parametrize("guid", [WRONG, bytes(16)], ids=["another guid", "no guid"])
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
async def test_a_message_is_hidden_if_and_only_if_it_will_be_expunged(
    dovecot: Dovecot, driver: str, guid: bytes
) -> None:
    ours, theirs = (dovecot.account(f"{driver}:{{home}}/mail") for _ in range(2))
    for account in (ours, theirs):
        for n in range(3):
            account.save(body(n))
        ask(account.root, 2, guid)
    left = await shown(ours.location)
    async with writing(ours.location, WriteOptions(Neighbour.ALONE)) as writer:
        await writer.maintain()
    assert await shown(ours.location) == left
    assert Shown.of(ours).uids == left
    # Dovecot 2.4.1 expunges from an mdbox whatever guid the request has; no program is known to ask wrongly.
    whatever = driver == "mdbox" and guid == WRONG and dovecot.dialect.version >= (2, 4)
    assert Shown.of(theirs).uids == ([1, 3] if whatever else left)
