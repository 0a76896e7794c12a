"""The Maildir view, written: deliveries, flags, moves, removals, directories, foreign files."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind
from dboxfs.vfs.options import Nesting
from dboxfs.vfs.views import foreign, maildir_directories
from dboxfs.vfs.views.places import MaildirPlace, Sub, place_of
from tests.vfs.inside import ONE, TWO, raises
from tests.vfs.views.inside import InMaildir, maildir

SEEN, FLAGGED, DELETED, ANSWERED = 0x08, 0x02, 0x04, 0x01


@pytest.fixture
async def w(kind: Kind, tmp_path: Path) -> AsyncIterator[InMaildir]:
    """INBOX with one message, Work with none, writable."""
    async with maildir(kind, directory=tmp_path / "foreign") as made:
        yield made


async def deliver(
    w: InMaildir, name: str, text: bytes = TWO, box: str = "INBOX", tmp: str = "1600.M1P1.host"
) -> None:
    """As most programs deliver: a file in tmp/, and a rename."""
    file = await w.p.create(f"{box}/tmp/1600.M1P1.host", os.O_EXCL)
    await file.write(text)
    await file.fsync()
    await file.close()
    await w.p.rename(f"{box}/tmp/1600.M1P1.host", f"{box}/{name}")


# -- deliveries --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("new/1600.M1P1.host", ()),
        ("new/1600.M1P1.host,U=3:2,F", ("\\Flagged",)),
        ("cur/1600.M1P1.host,S=12,FMD5=0123:2,", ()),
        ("cur/1600.M1P1.host:2,RS", ("\\Answered", "\\Seen")),
        ("cur/1600.M1P1.host,U=7:2,P", ()),
    ],
)
async def test_a_rename_out_of_tmp_is_a_message_with_the_name_and_flags_that_the_program_chose(
    w: InMaildir, name: str, flags: tuple[str, ...]
) -> None:
    await deliver(w, name)
    assert await w.p.read(f"INBOX/{name}") == TWO
    sub, _, last = name.partition("/")
    assert last in await w.p.names(f"INBOX/{sub}")
    assert await w.p.names("INBOX/tmp") == []
    assert await w.inner.stored() == [(1, ONE), (2, TWO)]
    found, keywords = await w.inner.flags(2)
    assert (found, keywords) == (flags, ("$Forwarded",) if name.endswith("P") else ())


async def test_a_link_out_of_tmp_is_a_message_and_the_unlink_afterwards_takes_only_the_name(
    w: InMaildir,
) -> None:
    file = await w.p.create("INBOX/tmp/1600.M1P1.host", os.O_EXCL)
    await file.write(TWO)
    await file.close()
    assert await w.p.names("INBOX/tmp") == ["1600.M1P1.host"]
    await w.p.link("INBOX/tmp/1600.M1P1.host", "INBOX/new/1600.M1P1.host:2,F")
    assert await w.inner.flags(2) == (("\\Flagged",), ())
    await w.p.unlink("INBOX/tmp/1600.M1P1.host")
    assert await w.inner.stored() == [(1, ONE), (2, TWO)]
    assert await w.p.names("INBOX/tmp") == []
    assert await w.p.read("INBOX/new/1600.M1P1.host:2,F") == TWO


async def test_what_is_in_tmp_is_no_message_and_goes_with_the_mount(w: InMaildir) -> None:
    file = await w.p.create("INBOX/tmp/unfinished")
    await file.write(TWO)
    await file.close()
    assert await w.p.read("INBOX/tmp/unfinished") == TWO
    assert await w.inner.stored() == [(1, ONE)]
    await w.p.unlink("INBOX/tmp/unfinished")
    assert await w.p.names("INBOX/tmp") == []


async def test_a_file_that_is_made_in_new_is_a_message_when_it_is_closed(w: InMaildir) -> None:
    await w.p.write("INBOX/new/copied:2,F", TWO)
    assert await w.p.read("INBOX/new/copied:2,F") == TWO
    assert await w.inner.flags(2) == (("\\Flagged",), ())


async def test_a_base_is_given_once_and_letters_without_a_meaning_never(w: InMaildir) -> None:
    await deliver(w, "new/1600.M1P1.host")
    file = await w.p.create("INBOX/tmp/other")
    await file.write(ONE)
    await file.close()
    for name, number in (
        ("cur/1600.M1P1.host:2,S", errno.EEXIST),
        ("cur/x:2,Q", errno.EINVAL),
        ("cur/x:2,a", errno.EINVAL),
        ("cur/:2,S", errno.EINVAL),
        ("new/" + "x" * 250, errno.ENAMETOOLONG),
    ):
        with raises(number):
            await w.p.rename("INBOX/tmp/other", f"INBOX/{name}")
        with raises(number):
            await w.p.link("INBOX/tmp/other", f"INBOX/{name}")
    assert await w.inner.stored() == [(1, ONE), (2, TWO)]
    with raises(errno.EEXIST):
        await w.p.link("INBOX/tmp/other", "INBOX/new/1600.M1P1.host")
    await w.p.rename("INBOX/tmp/other", "INBOX/new/1600.M1P1.host")  # rename(2) replaces
    assert await w.inner.stored() == [(1, ONE), (3, ONE)]


async def test_names_and_marks_stay_in_the_next_mount(kind: Kind, tmp_path: Path) -> None:
    async with maildir(kind, directory=tmp_path) as w:
        await deliver(w, "new/a.b.c:2,F")
        await deliver(w, "cur/d.e.f:2,")
        (own,) = [name for name in await w.new() if ".U1F" in name]
        await w.p.rename(f"INBOX/new/{own}", f"INBOX/cur/{own}:2,")
        driver = MemoryDriver(tree=w.inner.tree)
    async with maildir(kind, directory=tmp_path, driver=driver) as w:
        assert await w.new() == ["a.b.c:2,F"]
        assert await w.cur() == sorted([f"{own}:2,", "d.e.f:2,"])


async def test_a_message_that_somebody_reads_is_written_as_another_inode(w: InMaildir) -> None:
    """So that the kernel, which makes an inode larger as it is written, shows nobody a part of it."""
    (name,) = await w.new()
    reader = await w.p.open(f"INBOX/new/{name}")
    other = w.program()
    writer = await other.open(f"INBOX/new/{name}", os.O_WRONLY | os.O_APPEND)
    assert writer.inode != reader.inode
    await writer.write(TWO, len(ONE))
    assert (await w.p.stat(f"INBOX/new/{name}")).inode == reader.inode
    await writer.close()
    assert await reader.read() == ONE
    await reader.close()
    assert [text for _, text in await w.inner.stored()] == [ONE + TWO]


# -- flags -------------------------------------------------------------------------------------


async def test_a_rename_inside_cur_changes_flags_and_nothing_else(w: InMaildir) -> None:
    uid = await w.came(TWO, SEEN, ("later",))
    (name,) = await w.cur()
    base = name.removesuffix(":2,Sa")
    inode = await w.p.inode(f"INBOX/cur/{name}")
    for old, new, marks in (
        ("Sa", "FSa", (("\\Flagged", "\\Seen"), ("later",))),
        ("FSa", "RST", (("\\Answered", "\\Deleted", "\\Seen"), ())),
        ("RST", "PSTa", (("\\Deleted", "\\Seen"), ("later", "$Forwarded"))),
        ("PSTa", "", ((), ())),
    ):
        await w.p.rename(f"INBOX/cur/{base}:2,{old}", f"INBOX/cur/{base}:2,{new}")
        assert await w.inner.flags(uid) == marks
        assert await w.p.inode(f"INBOX/cur/{base}:2,{new}") == inode
        assert not await w.p.exists(f"INBOX/cur/{base}:2,{old}")
    assert await w.inner.stored() == [(1, ONE), (uid, TWO)], "T expunges nothing"


async def test_a_message_that_a_program_has_moved_to_cur_stays_there(w: InMaildir) -> None:
    (name,) = await w.new()
    await w.p.rename(f"INBOX/new/{name}", f"INBOX/cur/{name}:2,")
    assert (await w.new(), await w.cur()) == ([], [f"{name}:2,"])
    await w.flag(1, add=SEEN)
    await w.flag(1, remove=SEEN)
    assert await w.cur() == [f"{name}:2,"]
    await w.p.rename(f"INBOX/cur/{name}:2,", f"INBOX/new/{name}")
    assert (await w.new(), await w.cur()) == ([name], [])


async def test_a_message_that_a_program_marks_unread_stays_in_cur(w: InMaildir) -> None:
    await w.flag(1, add=SEEN)
    (name,) = await w.cur()
    unread = name.removesuffix("S")
    await w.p.rename(f"INBOX/cur/{name}", f"INBOX/cur/{unread}")
    assert (await w.new(), await w.cur()) == ([], [unread])
    assert await w.inner.flags(1) == ((), ())


async def test_flags_that_somebody_else_has_set_meanwhile_stay(w: InMaildir) -> None:
    await w.flag(1, add=SEEN)
    (name,) = await w.cur()
    await w.inner.others.set_flags("INBOX", [1], add=ANSWERED)  # which the mount has not heard of
    await w.p.rename(f"INBOX/cur/{name}", f"INBOX/cur/{name.replace(':2,S', ':2,FS')}")
    assert await w.inner.flags(1) == (("\\Answered", "\\Flagged", "\\Seen"), ())


async def test_the_kernel_is_not_told_of_what_it_has_renamed_itself_but_of_what_others_change_then(
    w: InMaildir,
) -> None:
    await w.flag(1, add=SEEN)
    (name,) = await w.cur()
    w.inner.told.entries.clear()
    await w.p.rename(f"INBOX/cur/{name}", f"INBOX/cur/{name.replace(':2,S', ':2,FS')}")
    assert [entry for entry in w.inner.told.entries if place_of(entry[0])] == []
    await w.flag(1, add=ANSWERED)
    cur = MaildirPlace(await w.p.inode("INBOX"), Sub.CUR).inode
    assert (cur, name.replace(":2,S", ":2,FS").encode(), 0) in w.inner.told.entries


# -- moves, copies, removals -------------------------------------------------------------------


async def test_a_rename_to_another_mailbox_is_a_move_with_name_flags_and_keywords(w: InMaildir) -> None:
    await w.came(TWO, SEEN, ("later",))
    (name,) = await w.cur()
    await w.p.rename(f"INBOX/cur/{name}", f"Work/cur/{name.replace(':2,Sa', ':2,RSa')}")
    assert await w.inner.stored() == [(1, ONE)]
    assert await w.inner.stored("Work") == [(1, TWO)]
    assert await w.inner.flags(1, "Work") == (("\\Answered", "\\Seen"), ("later",))
    assert await w.cur("Work") == [name.replace(":2,Sa", ":2,RSa")]
    await w.p.rename(f"Work/cur/{name.replace(':2,Sa', ':2,RSa')}", "INBOX/cur/chosen:2,S")
    assert await w.cur() == ["chosen:2,S"]
    assert await w.inner.flags(3) == (("\\Seen",), ())


async def test_a_link_of_a_message_is_a_copy(w: InMaildir) -> None:
    (name,) = await w.new()
    await w.p.link(f"INBOX/new/{name}", f"Work/cur/{name}:2,S")
    assert await w.inner.stored("Work") == [(1, ONE)]
    assert await w.inner.flags(1, "Work") == (("\\Seen",), ())
    assert await w.new() == [name]


async def test_unlink_is_an_expunge_and_takes_the_exact_name(w: InMaildir) -> None:
    await w.flag(1, add=SEEN)
    (name,) = await w.cur()
    for wrong in (name.removesuffix("S"), name + "T"):
        with raises(errno.ENOENT):
            await w.inner.vfs.unlink(*await w.p.place("INBOX/1.emx"), 0)
        with raises(errno.ENOENT):
            await w.p.unlink(f"INBOX/cur/{wrong}")
    await w.p.unlink(f"INBOX/cur/{name}")
    assert not await w.p.exists(f"INBOX/cur/{name}")
    await w.p.rw.fsyncdir(await w.p.vfs.opendir(await w.p.inode("INBOX/cur")))
    assert await w.inner.stored() == []


# -- directories -------------------------------------------------------------------------------


async def test_a_program_makes_a_maildir_one_directory_after_the_other(w: InMaildir) -> None:
    await w.p.mkdir("Lists")
    for sub in ("cur", "new", "tmp"):
        assert not await w.p.exists(f"Lists/{sub}")
        await w.p.mkdir(f"Lists/{sub}")
        assert await w.p.exists(f"Lists/{sub}")
        with raises(errno.EEXIST):
            await w.p.mkdir(f"Lists/{sub}")
    await deliver(w, "new/x", box="Lists")
    assert await w.inner.stored("Lists") == [(1, TWO)]


async def test_a_mailbox_that_is_only_made_is_a_maildir_a_little_later(
    w: InMaildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    await w.p.mkdir("Lists")
    assert await w.p.names("Lists") == []
    monkeypatch.setattr(maildir_directories, "MAKING_SECONDS", 0.0)
    await w.p.mkdir("Others")
    assert await w.p.names("Others") == ["cur", "new", "tmp"]


async def test_a_maildir_is_taken_apart_when_it_is_empty(w: InMaildir) -> None:
    await deliver(w, "new/x", box="Work")
    for sub in ("cur", "tmp"):
        await w.p.rmdir(f"Work/{sub}")
    with raises(errno.ENOTEMPTY):
        await w.p.rmdir("Work/new")
    with raises(errno.ENOTEMPTY):
        await w.p.rmdir("Work")
    await w.p.unlink("Work/new/x")
    await w.p.rmdir("Work/new")
    await w.p.rmdir("Work")
    assert "Work" not in w.inner.store.folders


async def test_maildir_plus_plus_directories_are_made_renamed_and_removed(tmp_path: Path) -> None:
    async with maildir(Kind.SDBOX, Nesting.PLUS_PLUS, directory=tmp_path) as w:
        await w.p.mkdir(".Lists")
        await w.p.mkdir(".Lists.a%2Eb")
        assert {"Lists", "Lists/a.b"} <= set(w.inner.store.folders)
        await w.p.rename(".Lists", ".Old")
        assert {"Old", "Old/a.b"} <= set(w.inner.store.folders)
        assert any(name == b".Lists.a%2Eb" for _, name, _ in w.inner.told.entries)
        with raises(errno.EINVAL):
            await w.p.mkdir("Plain")
        await w.p.rmdir(".Old.a%2Eb")
        assert "Old/a.b" not in w.inner.store.folders


# -- foreign files -----------------------------------------------------------------------------


async def test_what_programs_keep_beside_the_mail_is_kept_and_is_no_mail(
    w: InMaildir, tmp_path: Path
) -> None:
    await w.p.write("INBOX/.uidvalidity", b"1\n2\n")
    file = await w.p.open("INBOX/.uidvalidity", os.O_RDWR)
    await file.write(b"9", 2)
    await file.truncate(3)
    await file.close()
    assert await w.p.read("INBOX/.uidvalidity") == b"1\n9"
    await w.p.rename("INBOX/.uidvalidity", "INBOX/.renamed")
    await w.p.mkdir(".notmuch")
    await w.p.mkdir(".notmuch/xapian")
    await w.p.write(".notmuch/xapian/flintlock", b"")
    assert await w.p.names("INBOX") == [".renamed", "cur", "new", "tmp"]
    assert await w.p.names(".notmuch") == ["xapian"]
    assert ".notmuch" not in w.inner.store.folders
    assert await w.inner.stored() == [(1, ONE)]
    assert await w.inner.program().names("INBOX") == ["1.eml"]
    with raises(errno.ENOTEMPTY):
        await w.p.rmdir(".notmuch")
    with raises(errno.EEXIST):
        await w.p.mknod("INBOX/cur")
    await w.p.unlink("INBOX/.renamed")
    assert not await w.p.exists("INBOX/.renamed")


KNOWN = (
    ".uidvalidity", ".mbsyncstate", ".mbsyncstate.new", ".mbsyncstate.journal", ".mbsyncstate.lock",
    ".mh_sequences", "courierimapuiddb", "courierimapkeywords/:list", "courierimaphieracl/x", "maildirsize",
    ".notmuch/xapian/postlist.glass",
)  # fmt: skip
"""What mbsync, mblaze, Courier and notmuch keep in a Maildir."""


async def test_each_file_that_programs_are_known_to_keep_is_there_in_the_next_mount_and_is_no_mail(
    kind: Kind, tmp_path: Path
) -> None:
    async with maildir(kind, directory=tmp_path) as w:
        for above in ("courierimapkeywords", "courierimaphieracl", ".notmuch", ".notmuch/xapian"):
            await w.p.mkdir(f"INBOX/{above}")
        for name in KNOWN:
            await w.p.write(f"INBOX/{name}", name.encode())
        assert await w.inner.stored() == [(1, ONE)]
        assert await w.inner.program().names("INBOX") == ["1.eml"]
        driver = MemoryDriver(tree=w.inner.tree)
    async with maildir(kind, directory=tmp_path, driver=driver) as w:
        for name in KNOWN:
            assert await w.p.read(f"INBOX/{name}") == name.encode()
        tops = {name.partition("/")[0] for name in KNOWN}
        assert await w.p.names("INBOX") == sorted([*tops, "cur", "new", "tmp"])
        assert await w.inner.stored() == [(1, ONE)]


async def test_foreign_files_follow_their_mailbox_and_keep_it_from_being_removed(w: InMaildir) -> None:
    await w.p.write("Work/.uidvalidity", b"1\n")
    await w.p.rename("Work", "Done")
    assert await w.p.read("Done/.uidvalidity") == b"1\n"
    with raises(errno.ENOTEMPTY):
        await w.p.rmdir("Done")


async def test_foreign_files_have_limits(w: InMaildir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "FOREIGN_LARGEST", 10)
    monkeypatch.setattr(foreign, "FOREIGN_BYTES", 15)
    monkeypatch.setattr(foreign, "FOREIGN_ENTRIES", 3)
    await w.p.write("INBOX/.a", b"0123456789")
    file = await w.p.create("INBOX/.b")
    with raises(errno.EFBIG):
        await file.write(b"0123456789a")
    with raises(errno.ENOSPC):
        await file.write(b"012345")
    await file.write(b"01234")
    await file.close()
    await w.p.write("INBOX/.c", b"")
    with raises(errno.ENOSPC):
        await w.p.create("INBOX/.d")
    await w.p.unlink("INBOX/.a")
    await w.p.write("INBOX/.d", b"0123456789")


async def test_a_foreign_file_that_is_replaced_or_cut_gives_its_room_back(
    w: InMaildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "FOREIGN_BYTES", 30)
    for _ in range(5):
        await w.p.write("INBOX/.state.new", b"0123456789")
        await w.p.rename("INBOX/.state.new", "INBOX/.state")
        await w.p.write("INBOX/.log", b"0123456789")
    assert await w.p.read("INBOX/.state") == b"0123456789"
