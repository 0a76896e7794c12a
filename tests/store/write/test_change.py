"""Flags, keywords, expunges, copies, moves and replacements, as Dovecot sees them."""

from __future__ import annotations

import pytest

from dboxfs.errors import NoSuchMailbox, NoSuchMessage
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, body, writing

pytestmark = pytest.mark.expected_log(*RESYNC)
BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
NEIGHBOURS = pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)


def made(dovecot: Dovecot, driver: str, count: int = 6) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    for n in range(count):
        account.save(body(n))
    account.doveadm("mailbox create", "Work")
    return account


def flags_of(account: Account, name: str = "INBOX") -> dict[int, tuple[str, set[str]]]:
    return {m.uid: (m.flags, set(m.keywords.split())) for m in Shown.of(account, name).messages}


@BOTH
async def test_flags_and_keywords(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as writer:
        await writer.set_flags("INBOX", [1, 2, 3, 5], add=0x08 | 0x02)
        await writer.set_flags("INBOX", [2], remove=0x02)
        await writer.set_keywords("INBOX", [1, 3], add=["$Label1", "Work"])
        await writer.set_keywords("INBOX", [3], add=["other"], remove=["WORK", "unknown"])
        await writer.replace_flags("INBOX", 5, 0x10, ["a", "b"])
        await writer.replace_flags("INBOX", 5, 0x11, ["B", "c"])
        await writer.replace_flags("INBOX", 1, 0, None)
    assert flags_of(account) == {
        1: ("", {"$Label1", "Work"}),
        2: (r"\Seen", set()),
        3: (r"\Flagged \Seen", {"$Label1", "other"}),
        4: ("", set()),
        5: (r"\Answered \Draft", {"b", "c"}),
        6: ("", set()),
    }
    assert Shown.of(account).status.unseen == 4
    assert_resync_changes_nothing(account)


@BOTH
async def test_what_is_gone_cannot_be_flagged(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as writer:
        with pytest.raises(NoSuchMessage):
            await writer.set_flags("INBOX", [1, 77], add=0x08)
        with pytest.raises(ValueError, match="keyword"):
            await writer.set_keywords("INBOX", [1], add=[""])
        with pytest.raises(NoSuchMailbox):
            await writer.set_flags("Nowhere", [1], add=0x08)
    assert flags_of(account) == {uid: ("", set()) for uid in range(1, 7)}


@BOTH
@NEIGHBOURS
async def test_expunge(dovecot: Dovecot, driver: str, neighbour: Neighbour) -> None:
    account = made(dovecot, driver)
    async with writing(account.location, WriteOptions(neighbour)) as writer:
        assert await writer.expunge("INBOX", [2, 3, 99]) == [2, 3]
        assert await writer.expunge("INBOX", [2, 6]) == [6]
        assert await writer.expunge("INBOX", []) == []
    shown = Shown.of(account)
    assert shown.uids == [1, 4, 5]
    assert shown.status.uidnext == 7
    assert_resync_changes_nothing(account)
    if driver == "mdbox":
        account.purge()
        assert Shown.of(account).texts == shown.texts
    else:
        account.doveadm("mailbox status", "messages", "INBOX")
        assert len(list(account.root.glob("mailboxes/INBOX/dbox-Mails/u.*"))) == 3


@BOTH
async def test_requests_of_others_are_carried_out(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as asking:
        await asking.expunge("INBOX", [1, 2], execute=False)
    async with writing(account.location, WriteOptions(Neighbour.ALONE)) as writer:
        assert await writer.expunge("INBOX", [5]) == [1, 2, 5]
    if driver == "sdbox":
        files = sorted(p.name for p in account.root.glob("mailboxes/INBOX/dbox-Mails/u.*"))
        assert files == ["u.3", "u.4", "u.6"]
    assert Shown.of(account).uids == [3, 4, 6]
    assert_resync_changes_nothing(account)


@BOTH
async def test_a_rebuild_brings_back_nothing_that_was_removed_replaced_or_moved_beside_a_dovecot(
    dovecot: Dovecot, driver: str
) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as writer:
        assert await writer.expunge("INBOX", [1]) == [1]
        await writer.save("INBOX", [NewMessage(body(7), replaces=2)])
        await writer.move("INBOX", [3], "Work")
        await writer.take_place("INBOX", 5, 4)
        await writer.move("Work", [1], "INBOX", replaces=6)
    account.force_resync("*")  # before any Dovecot could carry out what it was asked for
    assert Shown.of(account).texts == [body(4), body(7), body(2)]
    assert Shown.of(account, "Work").texts == []


@BOTH
async def test_requests_of_others_stay_where_a_dovecot_may_carry_them_out(
    dovecot: Dovecot, driver: str
) -> None:
    account = made(dovecot, driver)
    async with writing(account.location) as writer:
        assert await writer.expunge("INBOX", [1, 2], execute=False) == [1, 2]
        assert await writer.expunge("INBOX", [5]) == [5]
        await writer.save("INBOX", [NewMessage(body(7), replaces=6)])
    assert Shown.of(account).texts == [body(2), body(3), body(7)]
    assert_resync_changes_nothing(account)


@BOTH
@NEIGHBOURS
async def test_copies_share_their_bytes(dovecot: Dovecot, driver: str, neighbour: Neighbour) -> None:
    account = made(dovecot, driver)
    size = sum(p.stat().st_size for p in account.root.rglob("m.*"))
    async with writing(account.location, WriteOptions(neighbour)) as writer:
        await writer.set_flags("INBOX", [2], add=0x08)
        await writer.set_keywords("INBOX", [2], add=["Work"])
        copied = await writer.copy("INBOX", [2, 4], "Work")
        again = await writer.copy("INBOX", [2], "INBOX")
        with pytest.raises(NoSuchMessage):
            await writer.copy("INBOX", [1, 55], "Work")
        with pytest.raises(NoSuchMailbox):
            await writer.copy("INBOX", [1], "Nowhere")
    here, there = Shown.of(account), Shown.of(account, "Work")
    assert (copied.source_uids, copied.uids) == ((2, 4), (1, 2))
    assert copied.uid_validity == there.status.uidvalidity
    assert again.uids == (7,)
    assert there.texts == [body(1), body(3)]
    assert here.texts == [*(body(n) for n in range(6)), body(1)]
    assert [m.guid for m in there.messages] == [here.messages[1].guid, here.messages[3].guid]
    assert flags_of(account, "Work") == {1: (r"\Seen", {"Work"}), 2: ("", set())}
    if driver == "mdbox":
        assert sum(p.stat().st_size for p in account.root.rglob("m.*")) == size
    else:
        assert (account.root / "mailboxes/Work/dbox-Mails/u.1").stat().st_nlink == 3
    assert_resync_changes_nothing(account)


@BOTH
@NEIGHBOURS
async def test_a_copy_outlives_its_source(dovecot: Dovecot, driver: str, neighbour: Neighbour) -> None:
    account = made(dovecot, driver)
    async with writing(account.location, WriteOptions(neighbour)) as writer:
        await writer.copy("INBOX", range(1, 7), "Work")
        await writer.expunge("INBOX", range(1, 7))
    assert Shown.of(account).uids == []
    if driver == "mdbox":
        account.purge()
    assert Shown.of(account, "Work").texts == [body(n) for n in range(6)]
    assert_resync_changes_nothing(account)


@BOTH
@NEIGHBOURS
async def test_move(dovecot: Dovecot, driver: str, neighbour: Neighbour) -> None:
    account = made(dovecot, driver)
    guids = [m.guid for m in Shown.of(account).messages]
    async with writing(account.location, WriteOptions(neighbour)) as writer:
        moved = await writer.move("INBOX", [6, 1, 3], "Work")
        assert (moved.source_uids, moved.uids) == ((1, 3, 6), (1, 2, 3))
        await writer.move("Work", [2], "INBOX")
    assert Shown.of(account).texts == [body(1), body(3), body(4), body(2)]
    there = Shown.of(account, "Work")
    assert there.texts == [body(0), body(5)]
    assert [m.guid for m in there.messages] == [guids[0], guids[5]]
    if driver == "mdbox":
        account.purge()
    assert Shown.of(account, "Work").texts == there.texts
    assert_resync_changes_nothing(account)


@BOTH
@NEIGHBOURS
async def test_a_replacement_keeps_flags_and_keywords(
    dovecot: Dovecot, driver: str, neighbour: Neighbour
) -> None:
    account = made(dovecot, driver)
    async with writing(account.location, WriteOptions(neighbour)) as writer:
        await writer.set_flags("INBOX", [2], add=0x02 | 0x08)
        await writer.set_keywords("INBOX", [2], add=["Work"])
        saved = await writer.save("INBOX", [NewMessage(body(100), replaces=2, flags=0x10)])
        gone = await writer.save("INBOX", [NewMessage(body(101), replaces=2, flags=0x10)])
    shown = Shown.of(account)
    assert shown.texts == [body(0), *(body(n) for n in range(2, 6)), body(100), body(101)]
    flags = flags_of(account)
    assert flags[saved.uids[0]] == (r"\Flagged \Seen", {"Work"})
    assert flags[gone.uids[0]] == (r"\Draft", set())
    if driver == "mdbox":
        account.purge()
    assert_resync_changes_nothing(account)
    assert Shown.of(account).texts == shown.texts


@BOTH
async def test_ten_thousand_messages_in_a_batch(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver, 1)
    texts = [body(n) for n in range(10_000)]
    async with writing(account.location, WriteOptions(Neighbour.ALONE)) as writer:
        saved = await writer.save("INBOX", [NewMessage(text) for text in texts])
        await writer.set_flags("INBOX", saved.uids, add=0x08)
        await writer.move("INBOX", saved.uids[:5000], "Work")
        assert await writer.expunge("INBOX", saved.uids) == list(saved.uids[5000:])
    status = account.status()
    assert (status["INBOX"].messages, status["Work"].messages, status["Work"].unseen) == (1, 5000, 0)
    assert [m.text for m in account.fetch("Work", "uid 1:10,4990:5000")] == texts[:10] + texts[4989:5000]
    assert_resync_counts(account)


def assert_resync_counts(account: Account) -> None:
    before = account.status()
    account.force_resync()
    assert {name: s.messages for name, s in account.status().items()} == {
        name: s.messages for name, s in before.items()
    }


@BOTH
async def test_an_imap_session_sees_it_all(dovecot: Dovecot, driver: str) -> None:
    account = made(dovecot, driver)
    client = account.imap()
    client.select("INBOX")
    async with writing(account.location) as writer:
        await _change(writer)
    client.noop()
    assert client.response("EXISTS")[1][-1:] == [b"7"] or client.response("EXISTS")[1] == [None]
    _, found = client.uid("SEARCH", "ALL")
    assert found[0].split() == [b"2", b"3", b"4", b"5", b"6", b"7", b"8"]
    _, found = client.uid("SEARCH", "FLAGGED")
    assert found[0].split() == [b"3"]
    _, found = client.uid("SEARCH", "KEYWORD", "Work")
    assert found[0].split() == [b"7"]
    client.uid("STORE", "8", "+FLAGS", r"(\Deleted)")
    client.expunge()
    client.logout()
    assert Shown.of(account).uids == [2, 3, 4, 5, 6, 7]


async def _change(writer: StoreWriter) -> None:
    await writer.save("INBOX", [NewMessage(body(7), keywords=("Work",)), NewMessage(body(8))])
    await writer.set_flags("INBOX", [3], add=0x02)
    await writer.expunge("INBOX", [1])
