"""The Maildir view, read: its directories, the names of messages, and what the kernel is told."""

from __future__ import annotations

import os
import re

import pytest

from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind
from dboxfs.vfs.options import Charset, Nesting
from dboxfs.vfs.views.places import MaildirPlace, Sub, place_of
from tests.vfs.inside import ONE, TWO, raises
from tests.vfs.views.inside import InMaildir, maildir

SEEN, FLAGGED, DELETED, ANSWERED = 0x08, 0x02, 0x04, 0x01


async def test_each_mailbox_has_cur_new_and_tmp_beside_its_children(m: InMaildir) -> None:
    await m.inner.others.create_mailbox("Work/Deep")
    await m.inner.store.refresh_tree()
    assert await m.p.names("/") == ["INBOX", "Work"]
    assert await m.p.names("INBOX") == ["cur", "new", "tmp"]
    assert await m.p.names("Work") == ["Deep", "cur", "new", "tmp"]
    assert (await m.p.stat("Work")).nlink == 2 + 4
    assert (await m.p.stat("Work/cur")).nlink == 2
    assert await m.p.names("Work/Deep/tmp") == []
    with raises(2):
        await m.p.stat("cur")


async def test_a_message_that_nobody_has_seen_is_in_new_and_its_first_mark_takes_it_to_cur(
    m: InMaildir,
) -> None:
    (name,) = await m.new()
    assert re.fullmatch(rf"\d+\.U1F[0-9a-f]{{7}}\.dboxfs,S={len(ONE)},W={len(ONE) + 3}", name)
    assert await m.cur() == []
    await m.flag(1, add=FLAGGED)
    assert (await m.new(), await m.cur()) == ([], [f"{name}:2,F"])
    await m.flag(1, add=SEEN | DELETED | ANSWERED)
    assert await m.cur() == [f"{name}:2,FRST"]
    await m.flag(1, remove=0x1F)
    assert (await m.new(), await m.cur()) == ([name], [])


async def test_a_name_says_the_sizes_that_its_message_has_in_its_metadata_in_each_mount(kind: Kind) -> None:
    """A virtual size that is missing there, no number, or none that the message can have, is left out."""
    async with maildir(kind) as m:
        for change in (b"Y", b"Vx", b"V9", b"V1"):
            uid = await m.came(TWO)
            path = [path for path in m.inner.files() if path.split("/")[-1][:2] in ("u.", "m.")][-1]
            data = m.inner.file(path)
            at = data.rindex(b"\nV") + 1
            data[at : at + len(change)] = change
        await m.came(TWO, SEEN)
        whole = f"S={len(TWO)},W={len(TWO) + TWO.count(10)}"
        names = [*await m.new(), *await m.cur()]
        said = {int(name.split("U")[1].split("F")[0]): name.partition(",")[2] for name in names}
        left_out = f"S={len(TWO)}"
        assert said == {
            1: f"S={len(ONE)},W={len(ONE) + 3}", **dict.fromkeys(range(2, uid + 1), left_out),
            uid + 1: f"{whole}:2,S",
        }  # fmt: skip
        assert [await m.p.read(f"INBOX/new/{name}") for name in names[1:5]] == [TWO] * 4
        with raises(2):
            await m.p.stat(f"INBOX/new/{names[0].partition(',W')[0]}")
        async with maildir(kind, driver=MemoryDriver(tree=m.inner.tree)) as other:
            assert [*await other.new(), *await other.cur()] == names


async def test_a_name_leads_to_its_message_only_while_it_is_its_name(m: InMaildir) -> None:
    (name,) = await m.new()
    assert await m.p.read(f"INBOX/new/{name}") == ONE
    inode = await m.p.inode(f"INBOX/new/{name}")
    await m.flag(1, add=SEEN)
    assert await m.p.inode(f"INBOX/cur/{name}:2,S") == inode
    wrong = [
        "new/" + name,
        f"cur/{name}",
        f"cur/{name}:2,",
        f"cur/{name}:2,F",
        f"tmp/{name}",
        f"cur/{name[:-1]}:2,S",
        f"cur/{name}:2,S".replace("U1F", "U2F"),
        "cur/1.eml",
    ]
    for path in wrong:
        assert not await m.p.exists(f"INBOX/{path}"), path


async def test_a_message_has_the_attributes_that_it_has_without_the_view(m: InMaildir) -> None:
    (name,) = await m.new()
    plain = await m.inner.vfs.lookup((await m.p.inode("INBOX")), b"1.eml")
    shown = await m.p.stat(f"INBOX/new/{name}")
    assert (shown.inode, shown.size, shown.modified_ns) == (plain.inode, plain.size, plain.modified_ns)
    assert await m.p.xattr(f"INBOX/new/{name}", "uid") == "1"
    with raises(61):
        await m.p.xattr("INBOX/new", "uid")


async def test_keywords_are_letters_and_dovecot_keywords_says_which(m: InMaildir) -> None:
    assert not await m.p.exists("INBOX/dovecot-keywords")
    uid = await m.came(TWO, SEEN, ("urgent", "$Forwarded", "later"))
    (name,) = await m.cur()
    assert name.endswith(":2,PSab")
    assert f".U{uid}F" in name
    assert await m.p.read("INBOX/dovecot-keywords") == b"0 urgent\n1 later\n"
    assert "dovecot-keywords" in await m.p.names("INBOX")
    with raises(13):
        await m.p.open("INBOX/dovecot-keywords", os.O_WRONLY)


async def test_a_name_that_a_program_chose_is_the_base_and_a_base_is_one_messages(m: InMaildir) -> None:
    q = m.inner.program()
    await q.write("INBOX/1600.M1P2.host", TWO)
    assert "1600.M1P2.host" in await m.new()
    await m.flag(2, add=FLAGGED)
    assert "1600.M1P2.host:2,F" in await m.new(), "a program chose to put it there"
    await q.write("INBOX/1600.M1P2.host:2,", TWO)  # the same base, in cur/
    (other,) = await m.cur()
    assert ".U3F" in other
    await q.unlink("INBOX/1600.M1P2.host")
    assert await m.cur() == ["1600.M1P2.host:2,"]


async def test_a_name_like_that_of_another_message_makes_way(m: InMaildir) -> None:
    (name,) = await m.new()
    await m.inner.program().write(f"INBOX/{name}", TWO)
    assert sorted(await m.new()) == sorted([name, f"{name}+"])
    assert await m.p.read(f"INBOX/new/{name}") == TWO
    assert await m.p.read(f"INBOX/new/{name}+") == ONE


async def test_the_kernel_forgets_a_name_when_flags_change_and_no_other(m: InMaildir) -> None:
    uid = await m.came(TWO)
    await m.new()
    new = MaildirPlace(await m.p.inode("INBOX"), Sub.NEW).inode
    (name,) = [name for name in await m.new() if f".U{uid}F" in name]
    m.inner.told.entries.clear()
    await m.flag(uid, add=SEEN)
    told = [(parent, entry) for parent, entry, _ in m.inner.told.entries if place_of(parent)]
    assert told == [(new, name.encode())]
    assert {new, MaildirPlace(await m.p.inode("INBOX"), Sub.CUR).inode} <= set(m.inner.told.changed)


async def test_the_times_of_cur_and_new_move_with_every_change_of_a_name(m: InMaildir) -> None:
    async def times() -> set[int]:
        return {(await m.p.stat(f"INBOX/{sub}")).modified_ns for sub in ("cur", "new")}

    before = await times()
    await m.came(TWO)
    after = await times()
    assert min(after) > max(before)
    await m.inner.program().rename("INBOX/2.eml", "INBOX/chosen")
    assert min(await times()) > max(after)


async def test_flags_that_change_while_a_directory_is_read_show_each_message_once(m: InMaildir) -> None:
    for _ in range(3):
        await m.came(TWO, SEEN)
    directory = await m.view.opendir(await m.p.inode("INBOX/cur"))
    await directory.prepare(0)
    rows = directory.messages(2)
    first = next(rows)
    await m.flag(2, add=FLAGGED)
    await m.flag(4, add=FLAGGED)
    others = [row.name for row in directory.messages(first.next)]
    assert [name.rpartition(b",")[2] for name in others] == [b"S", b"FS"]


async def test_a_name_that_the_kernel_has_lost_while_a_directory_is_read_is_remembered_when_it_is_shown_again(
    m: InMaildir,
) -> None:
    await m.came(TWO, SEEN)
    directory = await m.view.opendir(await m.p.inode("INBOX/cur"))
    await directory.prepare(0)
    (row,) = directory.messages(2)
    inbox, cur = m.inner.folder("INBOX"), await m.p.inode("INBOX/cur")
    m.view.has_moved(inbox, 2, None)
    assert list(directory.messages(2)) == [row]
    m.inner.told.entries.clear()
    await m.flag(2, add=FLAGGED)
    assert (cur, row.name, 0) in m.inner.told.entries


async def test_names_that_are_made_together_are_those_that_are_made_one_by_one(m: InMaildir) -> None:
    for text, flags, keywords in (
        (ONE, 0, ()),
        (TWO, SEEN, ()),
        (ONE, FLAGGED, ("later",)),
        (TWO, 0, ("$Forwarded",)),
    ):
        await m.came(text, flags, keywords)
    (name, *_) = await m.new()
    q = m.inner.program()
    for written in (name, "chosen", "chosen:2,", "7.eml:2,"):
        await q.write(f"INBOX/{written}", TWO)
    await m.flag(8, add=FLAGGED)
    folder, box = m.inner.folder("INBOX"), m.inner.folder("INBOX").mailbox
    assert box is not None
    await box.scan()
    alone = [m.view.names.now(folder, uid) for uid in box.uids.tolist()]
    for sub in (Sub.CUR, Sub.NEW):
        there, names = m.view.names.in_directory(folder, sub, box.uids, box.facts.columns())
        assert there.any()
        assert names == [one.name for one in alone if one is not None and one.sub is sub]


async def test_maildir_plus_plus_has_all_mailboxes_beside_the_inbox() -> None:
    async with maildir(Kind.SDBOX, Nesting.PLUS_PLUS) as m:
        for name in ("Work/Deep", "a.b", "dboxfs", "Nowhere/Below"):
            await m.inner.others.create_mailbox(name)
        await m.inner.store.refresh_tree()
        found = set(await m.p.names("/"))
        assert {"cur", "new", "tmp", ".Work", ".Work.Deep", ".a%2Eb", ".%64boxfs", ".Nowhere.Below"} <= found
        assert "INBOX" not in found
        assert await m.p.names(".Work") == ["cur", "new", "tmp"]
        (name,) = await m.p.names("new")
        assert await m.p.read(f"new/{name}") == ONE
        assert (await m.p.stat(".Work.Deep")).inode == m.inner.reading.inodes.of(m.inner.folder("Work/Deep"))


@pytest.mark.parametrize("nesting", list(Nesting))
async def test_names_of_mailboxes_are_in_utf7_where_that_is_asked_for(nesting: Nesting) -> None:
    async with maildir(Kind.SDBOX, nesting, Charset.MUTF7) as m:
        await m.inner.others.create_mailbox("Entw&APw-rfe")
        await m.inner.store.refresh_tree()
        dot = "." if nesting is Nesting.PLUS_PLUS else ""
        assert await m.p.names(f"{dot}Entw&APw-rfe") == ["cur", "new", "tmp"]
        assert not await m.p.exists(f"{dot}Entwürfe")


async def test_a_mailbox_that_is_called_as_the_view_calls_its_own_is_escaped(m: InMaildir) -> None:
    await m.inner.others.create_mailbox("Work/cur")
    await m.inner.store.refresh_tree()
    assert await m.p.names("Work") == ["%63ur", "cur", "new", "tmp"]
    assert await m.p.names("Work/%63ur") == ["cur", "new", "tmp"]


async def test_names_are_the_same_in_the_next_mount(kind: Kind) -> None:
    async with maildir(kind) as m:
        await m.came(TWO, SEEN, ("later",))
        before = await m.new() + await m.cur()
        driver = MemoryDriver(tree=m.inner.tree)
    async with maildir(kind, driver=driver) as m:
        assert await m.new() + await m.cur() == before


async def test_the_control_directory_is_what_it_is_without_the_view(m: InMaildir) -> None:
    assert "stats.json" in await m.p.names(".dboxfs")
    assert b'"mailboxes": 2' in await m.p.read(".dboxfs/stats.json")
    assert ".dboxfs" not in await m.p.names("/")
    if m.inner.location.kind is Kind.MDBOX:
        await m.inner.others.expunge("INBOX", [1])
        await m.inner.follow()
        (name,) = await m.p.names(".dboxfs/deleted/INBOX")
        assert await m.p.read(f".dboxfs/deleted/INBOX/{name}") == ONE
