"""A mailbox that is made anew can stand for one that was lost: Dovecot sees the same numbers and uids."""

from __future__ import annotations

import pytest

from dboxfs.store.write import CopyAs, NewMessage
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, body, writing

GUID = bytes(range(16))


@pytest.mark.expected_log(*RESYNC)
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
async def test_dovecot_sees_the_uids_and_numbers_that_were_given(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(body(99))
    async with writing(account.location) as writer:
        await writer.create_mailbox("Box")
        news = [NewMessage(body(n), uid=uid, saved=1_000_000_000) for n, uid in enumerate((3, 4, 9))]
        saved = await writer.save("Box", news)
        await writer.set_identity("Box", guid=GUID, uid_validity=4_000_000_001, next_uid=20)
        later = await writer.save("Box", [NewMessage(body(5), uid=7), NewMessage(body(6))])
    shown = Shown.of(account, "Box")
    assert (saved.uids, later.uids) == ((3, 4, 9), (20, 21))
    assert shown.uids == [3, 4, 9, 20, 21]
    assert shown.texts == [body(n) for n in (0, 1, 2, 5, 6)]
    assert (shown.status.guid, shown.status.uidvalidity, shown.status.uidnext) == (
        GUID.hex(),
        4_000_000_001,
        22,
    )
    assert [message.saved for message in shown.messages[:3]] == [1_000_000_000] * 3
    assert all(message.saved > 1_700_000_000 for message in shown.messages[3:])
    assert_resync_changes_nothing(account)


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
async def test_a_copy_can_have_its_own_uid_flags_and_keywords(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(body(99))
    account.doveadm("mailbox create", "Box")
    async with writing(account.location) as writer:
        saved = await writer.save("INBOX", [NewMessage(body(n), flags=0x10) for n in range(3)])
        like = {saved.uids[1]: CopyAs(40, 0x08, ("$Kept",), 1_000_000_000)}
        copied = await writer.copy("INBOX", saved.uids[:2], "Box", like=like)
    shown = Shown.of(account, "Box")
    assert copied.uids == (1, 40)
    assert [(m.uid, m.flags, m.keywords) for m in shown.messages] == [
        (1, "\\Draft", ""),
        (40, "\\Seen", "$Kept"),
    ]
    assert shown.texts == [body(0), body(1)]


async def test_an_identity_that_cannot_be_is_refused(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.doveadm("mailbox create", "Box")
    before = Shown.of(account, "Box")
    async with writing(account.location) as writer:
        for guid, validity, uid in ((b"short", 1, 1), (GUID, 0, 1), (GUID, 1, 1 << 32)):
            with pytest.raises(ValueError, match="16 bytes"):
                await writer.set_identity("Box", guid=guid, uid_validity=validity, next_uid=uid)
    assert Shown.of(account, "Box") == before


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
async def test_a_message_that_is_put_back_has_the_pop3_uidl_that_it_brings(
    dovecot: Dovecot, driver: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(body(99))
    assert pop3_uidls(account) != ["uidl-5"]
    async with writing(account.location) as writer:
        news = [NewMessage(body(5), pop3_uidl=b"uidl-5", uid=9), NewMessage(body(6))]
        await writer.save("INBOX", news)
        await writer.save("INBOX", [NewMessage(body(7), pop3_uidl=b"uidl-7")])
    found = pop3_uidls(account)
    assert (len(found), found[1], found[3]) == (4, "uidl-5", "uidl-7")
    async with writing(account.location) as writer:  # Dovecot has looked at them, and remembers what has none
        await writer.save("INBOX", [NewMessage(body(8), pop3_uidl=b"uidl-8")])
    assert pop3_uidls(account)[3:] == ["uidl-7", "uidl-8"]
    with pytest.raises(ValueError, match="UIDL"):
        async with writing(account.location) as writer:
            await writer.save("INBOX", [NewMessage(body(8), pop3_uidl=b"a\nb")])


def pop3_uidls(account: Account) -> list[str]:
    """What Dovecot's POP3 would list."""
    lines = account.doveadm("fetch", "pop3.uidl", "mailbox", "INBOX").decode().splitlines()
    return [line.partition(": ")[2] for line in lines if line.startswith("pop3.uidl")]


@pytest.mark.expected_log(*RESYNC)
async def test_where_dovecot_has_a_cache_file_a_saved_date_of_an_sdbox_is_not_kept(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.save(body(99))
    account.fetch("INBOX")
    async with writing(account.location) as writer:
        await writer.save("INBOX", [NewMessage(body(1), saved=1_000_000_000)])
    assert Shown.of(account).messages[1].saved > 1_700_000_000
    assert_resync_changes_nothing(account)
