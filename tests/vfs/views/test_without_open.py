"""Views of which nothing is opened: what a file said is read to its end; names in listings are found."""

from __future__ import annotations

import errno

import pytest
import trio.testing

from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from dboxfs.vfs.unopened import Unopened
from dboxfs.vfs.views import without_open
from dboxfs.vfs.views.mh import MhView
from tests.vfs.inside import JULY, ONE, TWO, raises
from tests.vfs.test_names_anew import SAME_SIZE, written_anew
from tests.vfs.test_unopened import Pages
from tests.vfs.views.inside import InMaildir, maildir, mh

SEEN, FLAGGED = 0x08, 0x02


async def test_what_a_file_said_has_a_number_of_its_own_and_is_read_to_its_end(
    m: InMaildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(without_open, "KEPT_CONTENTS", 2)
    unopened = Unopened(m.inner.reading, Pages(), m.view.without_open)
    path, said = "INBOX/dovecot-keywords", [b"0 one\n", b"0 one\n1 two\n", b"0 one\n1 two\n2 three\n"]
    numbers = []
    for word, content in zip(("one", "two", "three"), said, strict=True):
        await m.came(TWO, SEEN, (word,))
        attrs = await m.p.stat(path)
        assert (await m.p.stat(path)).inode == attrs.inode  # the same as long as it says the same
        assert (attrs.size, attrs.entry_timeout, attrs.attr_timeout) == (len(content), 0.0, 0.0)
        assert await unopened.read(attrs.inode, 99, 0) == content
        numbers.append(attrs.inode)
    assert len(set(numbers)) == 3
    assert await unopened.read(numbers[1], 3, 2) == said[1][2:5]
    assert (await m.view.getattr(numbers[1])).size == len(said[1])
    assert await m.view.listxattr(numbers[1]) == []
    with raises(errno.ESTALE):
        await unopened.read(numbers[0], 99, 0)


async def test_sequences_of_another_moment_have_another_number(kind: Kind) -> None:
    async with mh(kind) as w:
        view = w.p.vfs
        assert isinstance(view, MhView)
        unopened = Unopened(w.inner.reading, Pages(), view.without_open)
        before = await w.p.stat("INBOX/.mh_sequences")
        await w.flag(1, add=SEEN)
        now = await w.p.stat("INBOX/.mh_sequences")
        assert await unopened.read(before.inode, 99, 0) == b"unseen: 1\n"
        assert (await unopened.read(now.inode, 99, 0), now.size) == (b"", 0)


async def test_a_change_of_flags_makes_the_listings_of_its_mailbox_old(m: InMaildir) -> None:
    cur = await m.p.inode("INBOX/cur")
    before = m.view.without_open.listing_changes(cur)
    await m.flag(1, add=FLAGGED)
    assert m.view.without_open.listing_changes(cur) > before
    assert m.view.without_open.listing_changes(await m.p.inode("Work/cur")) == 0


async def test_a_listing_has_each_message_under_the_name_that_a_look_finds(kind: Kind) -> None:
    """Plain ones, with keywords, named by a program, with a base that another message has."""
    async with maildir(kind) as m:
        for number in range(150):
            await m.came(b"Subject: %d\n\n" % number, number % 32, ("word",) if number % 7 == 0 else ())
        (first, *_) = await m.new()
        await m.inner.program().rename("INBOX/3.eml", f"INBOX/{first}:2,")
        await m.inner.program().rename("INBOX/4.eml", "INBOX/chosen")
        await m.inner.others.expunge("INBOX", [9])
        await m.inner.follow()
        listed = {sub: await m.p.names(f"INBOX/{sub}") for sub in ("cur", "new")}
        assert len(listed["cur"]) + len(listed["new"]) == 150
        found = [await m.p.read(f"INBOX/{sub}/{name}") for sub in listed for name in listed[sub]]
        assert len(set(found)) == 150
        assert ONE in found


async def test_a_name_that_another_mount_gives_makes_the_times_of_cur_and_new_old(m: InMaildir) -> None:
    await m.inner.program().rename("INBOX/1.eml", "INBOX/first-a")
    places = {await m.p.inode("INBOX/cur"), await m.p.inode("INBOX/new")}
    written_anew(m.inner, SAME_SIZE)
    m.inner.told.changed.clear()
    await m.inner.name_reader.look(m.inner.folder())
    assert places <= set(m.inner.told.changed)


async def test_messages_of_cur_and_new_come_ahead_of_a_program_that_reads_one_of_them(kind: Kind) -> None:
    """Every third message is in new/: its neighbours by uid are in cur/, and are not what comes next."""
    async with maildir(kind) as m:
        some = [NewMessage(b"Subject: %d\n\n" % n, JULY, SEEN if n % 3 else 0) for n in range(2, 300)]
        await m.inner.others.save("INBOX", some)
        await m.inner.follow()

        async def reads(sub: str, names: list[str]) -> tuple[int, int]:
            """Read these messages; how many READs that takes, and how many messages were pushed."""
            pages, asked = Pages(), 0
            unopened = Unopened(m.inner.reading, pages, m.view.without_open)
            for name in names:
                inode = await m.p.inode(f"INBOX/{sub}/{name}")
                if inode not in pages.there:
                    asked += 1
                    await unopened.read(inode, 1 << 20, 0)
                    await trio.testing.wait_all_tasks_blocked()  # the program works with it
            return asked, len(pages.there)

        for sub, count in (("new", 100), ("cur", 199)):
            by_uid = await m.p.names(f"INBOX/{sub}")
            assert len(by_uid) == count
            by_uid.sort(key=lambda name: int(name.partition("U")[2].partition("F")[0]))
            for order in (by_uid, sorted(by_uid)):
                asked, pushed = await reads(sub, order)
                assert asked <= 12
                assert count - 12 <= pushed <= count
