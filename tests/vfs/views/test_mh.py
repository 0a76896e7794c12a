"""The MH view: numbers, ``.mh_sequences``, and what MH programs do with them."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind
from dboxfs.vfs.views import foreign, mh_editing, mh_numbering
from tests.vfs.inside import ONE, TWO, Program, raises
from tests.vfs.views.inside import InView, mh

SEEN, FLAGGED, DELETED, ANSWERED = 0x08, 0x02, 0x04, 0x01
SEQUENCES = "INBOX/.mh_sequences"


@pytest.fixture
async def w(kind: Kind, tmp_path: Path) -> AsyncIterator[InView]:
    """INBOX with one message, Work with none, writable."""
    async with mh(kind, directory=tmp_path / "foreign") as made:
        yield made


async def numbers(w: InView, box: str = "INBOX") -> list[str]:
    return [name for name in await w.p.names(box) if name.strip(",").isdigit()]


async def said(p: Program, box: str = "INBOX") -> str:
    return (await p.read(f"{box}/.mh_sequences")).decode()


async def rewrite(p: Program, text: str, box: str = "INBOX") -> None:
    """As nmh does: read, cut, write, with one descriptor."""
    file = await p.open(f"{box}/.mh_sequences", os.O_RDWR)
    await file.read()
    await file.truncate(0)
    if text:
        await file.write(text.encode(), 0)
    await file.close()


async def replace(p: Program, text: str, box: str = "INBOX") -> None:
    """As mutt does: read, another file, unlink, link, unlink."""
    await said(p, box)
    await p.write(f"{box}/.mutt-host-1", text.encode())
    await p.unlink(f"{box}/.mh_sequences")
    assert not await p.exists(f"{box}/.mh_sequences")
    await p.link(f"{box}/.mutt-host-1", f"{box}/.mh_sequences")
    await p.unlink(f"{box}/.mutt-host-1")


# -- reading -----------------------------------------------------------------------------------


async def test_a_message_is_called_by_its_uid_and_the_sequences_say_its_flags(kind: Kind) -> None:
    async with mh(kind) as m:
        await m.came(TWO, SEEN | FLAGGED)
        await m.came(ONE, ANSWERED | DELETED)
        assert await m.p.names() == [".mh_sequences", "1", "2", "3"]
        assert await m.p.read("INBOX/2") == TWO
        assert await said(m.p) == "unseen: 1 3\nflagged: 2\nreplied: 3\n"
        assert (await m.p.stat(SEQUENCES)).size == len(await said(m.p))
        assert await m.p.inode("INBOX/2") == await m.inner.program().inode("INBOX/2.eml")
        await m.flag(1, add=SEEN)
        assert await said(m.p) == "unseen: 3\nflagged: 2\nreplied: 3\n"
        assert await said(m.p, "Work") == ""
        for name in ("INBOX/02", "INBOX/2.eml", "INBOX/4", "INBOX/,2", "INBOX/0", "INBOX/4294967296"):
            assert not await m.p.exists(name)
        with raises(errno.EACCES):
            await m.p.open(SEQUENCES, os.O_WRONLY)


async def test_a_mailbox_whose_name_is_a_number_is_escaped_and_comes_back(kind: Kind, tmp_path: Path) -> None:
    async with mh(kind, directory=tmp_path) as w:
        await w.inner.others.create_mailbox("Work/2024")
        await w.inner.store.refresh_tree()
        assert await w.p.names("Work") == ["%32024", ".mh_sequences"]
        assert await w.p.names("Work/%32024") == [".mh_sequences"]
        with raises(errno.EINVAL):
            await w.p.mkdir("Work/2025")
        await w.p.mkdir("Work/%32025")
        assert "Work/2025" in w.inner.store.folders


async def test_the_kernel_forgets_a_number_when_its_message_goes(w: InView) -> None:
    await w.p.names()
    inbox = await w.p.inode("INBOX")
    w.inner.told.entries.clear()
    await w.inner.others.expunge("INBOX", [1])
    await w.inner.follow()
    assert (inbox, b"1") in [(parent, name) for parent, name, _ in w.inner.told.entries]


# -- new messages ------------------------------------------------------------------------------


async def test_a_new_file_is_a_message_with_the_number_that_the_program_gave_it(w: InView) -> None:
    await w.p.write("INBOX/2", TWO)
    await w.p.write("INBOX/7", ONE, flags=os.O_EXCL)
    assert await numbers(w) == ["1", "2", "7"]
    assert [uid for uid, _ in await w.inner.stored()] == [1, 2, 7]
    assert w.inner.folder().mailbox is not None
    for number in (0, w.inner.folder().mailbox.uid_next + mh_numbering.LEAP):  # type: ignore[union-attr]
        with raises(errno.EINVAL, errno.EEXIST):
            await w.p.write(f"INBOX/{number}" if number else "INBOX/,9", TWO)
    with raises(errno.EEXIST):
        await w.p.write("INBOX/7", TWO, flags=os.O_EXCL)


async def test_a_number_below_the_next_uid_is_kept_as_the_name_of_the_message(
    kind: Kind, tmp_path: Path
) -> None:
    async with mh(kind, directory=tmp_path) as w:
        for number in range(2, 6):
            await w.p.write(f"INBOX/{number}", TWO)
        for number in range(3, 6):
            await w.p.unlink(f"INBOX/{number}")
        await w.p.write("INBOX/3", ONE, flags=os.O_EXCL)  # one above the highest, as all MH programs do
        assert await numbers(w) == ["1", "2", "3"]
        assert [uid for uid, _ in await w.inner.stored()] == [1, 2, 6]
        assert await said(w.p) != ""
        uid = await w.came(TWO)
        assert (uid, await numbers(w)) == (7, ["1", "2", "3", "7"])
        driver = MemoryDriver(tree=w.inner.tree)
    async with mh(kind, driver=driver) as m:
        assert await numbers(m) == ["1", "2", "3", "7"]
        assert await m.p.read("INBOX/3") == ONE


async def test_a_number_that_is_the_uid_of_a_message_is_that_messages(w: InView) -> None:
    uid = await w.came(TWO)
    plain = w.inner.program()
    await plain.rename(f"INBOX/{uid}.eml", "INBOX/9.eml")  # without the view any name is free
    assert await numbers(w) == ["1", "2"]
    for expected in range(3, 10):
        assert await w.came(ONE) == expected
    assert await numbers(w) == [str(n) for n in range(1, 10)]
    assert await w.p.read("INBOX/9") == ONE
    assert await w.p.read("INBOX/2") == TWO


async def test_another_file_that_is_linked_or_renamed_to_a_number_is_a_message(w: InView) -> None:
    await w.p.write("INBOX/.mutt-host-1", TWO)
    assert await w.inner.stored() == [(1, ONE)]
    await w.p.link("INBOX/.mutt-host-1", "INBOX/2")
    assert await w.p.read("INBOX/2") == TWO
    with raises(errno.EEXIST):
        await w.p.link("INBOX/.mutt-host-1", "INBOX/2")
    await w.p.unlink("INBOX/.mutt-host-1")
    await w.p.write("INBOX/muABCDEF", ONE)
    await w.p.rename("INBOX/muABCDEF", "INBOX/3")
    assert await w.inner.stored() == [(1, ONE), (2, TWO), (3, ONE)]
    assert await w.p.names() == [".mh_sequences", "1", "2", "3"]


async def test_a_file_that_is_written_still_is_no_message_yet(w: InView) -> None:
    file = await w.p.create("INBOX/.mutt-host-1")
    await file.write(TWO)
    for change in (w.p.link, w.p.rename):
        with raises(errno.EBUSY):
            await change("INBOX/.mutt-host-1", "INBOX/2")
    await file.close()
    await w.p.rename("INBOX/.mutt-host-1", "INBOX/2")
    assert await w.inner.stored() == [(1, ONE), (2, TWO)]


async def test_a_message_that_is_written_anew_keeps_its_number_and_flags(w: InView) -> None:
    await w.flag(1, add=FLAGGED | SEEN)
    await w.p.write("INBOX/1", TWO)  # in place
    assert (await numbers(w), await w.inner.stored()) == (["1"], [(2, TWO)])
    await w.p.write("INBOX/muABCDEF", ONE)
    await w.p.rename("INBOX/muABCDEF", "INBOX/1")  # mailutils
    assert (await numbers(w), await w.inner.stored()) == (["1"], [(3, ONE)])
    assert (await w.inner.flags(3))[0] == ("\\Flagged", "\\Seen")


async def test_a_message_that_is_cut_and_written_through_two_descriptors_is_what_was_written(
    w: InView,
) -> None:
    """As Python's ``mailbox.MH`` does: the one writes, another has cut it."""
    writes = await w.p.open("INBOX/1", os.O_RDWR)
    await (await w.p.open("INBOX/1", os.O_WRONLY | os.O_TRUNC)).close()
    await writes.write(b"Subject: x\n\n")
    await writes.close()
    assert [text for _, text in await w.inner.stored()] == [b"Subject: x\n\n"]
    assert await numbers(w) == ["1"]


async def test_a_message_that_somebody_reads_is_written_as_another_inode(w: InView) -> None:
    reader = await w.p.open("INBOX/1")
    writer = await w.program().open("INBOX/1", os.O_WRONLY | os.O_APPEND)
    assert writer.inode != reader.inode
    await writer.write(TWO, len(ONE))
    await writer.close()
    assert await reader.read() == ONE
    await reader.close()
    assert [text for _, text in await w.inner.stored()] == [ONE + TWO]


# -- removing ----------------------------------------------------------------------------------


async def test_a_rename_to_a_comma_marks_the_message_deleted_and_takes_it_out_of_sight(
    kind: Kind, tmp_path: Path
) -> None:
    async with mh(kind, directory=tmp_path) as w:
        await w.came(TWO, SEEN)
        await w.p.rename("INBOX/2", "INBOX/,2")
        assert await w.p.names() == [",2", ".mh_sequences", "1"]
        assert (await w.inner.flags(2))[0] == ("\\Deleted", "\\Seen")
        assert await w.p.read("INBOX/,2") == TWO
        driver = MemoryDriver(tree=w.inner.tree)
    async with mh(kind, directory=tmp_path, driver=driver) as w:
        assert await numbers(w) == [",2", "1"]
        await w.p.rename("INBOX/,2", "INBOX/2")
        assert (await w.inner.flags(2))[0] == ("\\Seen",)
        await w.p.rename("INBOX/2", "INBOX/,2")
        await w.flag(2, remove=DELETED)  # by another client
        assert await numbers(w) == ["1", "2"]
        await w.p.rename("INBOX/2", "INBOX/,2")
        await w.p.unlink("INBOX/,2")
        assert await w.inner.stored() == [(1, ONE)]


async def test_a_message_that_another_client_has_marked_deleted_has_its_number(w: InView) -> None:
    await w.flag(1, add=DELETED)
    assert await numbers(w) == ["1"]


async def test_the_number_of_a_removed_message_can_be_given_again_and_removed_again(w: InView) -> None:
    await w.p.rename("INBOX/1", "INBOX/,1")
    await w.p.write("INBOX/1", TWO, flags=os.O_EXCL)
    assert await numbers(w) == [",1", "1"]
    assert await w.p.read("INBOX/1") == TWO
    await w.p.rename("INBOX/1", "INBOX/,1")
    assert await numbers(w) == [",1"]
    assert await w.p.read("INBOX/,1") == TWO
    assert [uid for uid, _ in await w.inner.stored()] == [2]


async def test_unlink_is_an_expunge(w: InView) -> None:
    await w.p.unlink("INBOX/1")
    assert await w.inner.stored() == []
    with raises(errno.ENOENT):
        await w.p.unlink("INBOX/1")


# -- numbers that change, other mailboxes ------------------------------------------------------


async def test_folder_pack_gives_lower_numbers_and_the_sequences_follow(w: InView) -> None:
    for _ in range(4):
        await w.came(TWO)
    await w.flag(5, add=FLAGGED)
    for number in (1, 3):
        await w.p.unlink(f"INBOX/{number}")
    for old, new in ((2, 1), (4, 2), (5, 3)):
        await w.p.rename(f"INBOX/{old}", f"INBOX/{new}")
    assert await numbers(w) == ["1", "2", "3"]
    assert await said(w.p) == "unseen: 1-3\nflagged: 3\n"
    assert [uid for uid, _ in await w.inner.stored()] == [2, 4, 5]
    with raises(errno.EINVAL):  # the number of a message to come
        await w.p.rename("INBOX/3", "INBOX/6")


async def test_a_message_moves_and_is_copied_to_another_mailbox_with_its_flags(w: InView) -> None:
    await w.came(TWO, FLAGGED)
    await w.p.link("INBOX/2", "Work/1")
    assert (await w.inner.flags(1, "Work"))[0] == ("\\Flagged",)
    await w.p.rename("INBOX/1", "Work/2")
    assert (await numbers(w), await numbers(w, "Work")) == (["2"], ["1", "2"])
    with raises(errno.EEXIST):
        await w.p.link("INBOX/2", "Work/1")
    with raises(errno.EINVAL):
        await w.p.rename("INBOX/2", "Work/77")
    for name in ("Work/2.eml", "Work/.mh_sequences", "INBOX/kept"):
        with raises(errno.EPERM):
            await w.p.rename("INBOX/2", name)


# -- sequences ---------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [rewrite, replace], ids=["in place", "by another file"])
async def test_what_a_program_changes_in_the_sequences_becomes_flags(w: InView, write) -> None:  # type: ignore[no-untyped-def]
    for flags in (0, FLAGGED, ANSWERED):
        await w.came(TWO, flags)
    assert await said(w.p) == "unseen: 1-4\nflagged: 3\nreplied: 4\n"
    await write(w.p, "unseen: 2 4\nflagged: 1-2\ncur: 4\nmine: 1 3\n")
    found = [(await w.inner.flags(uid))[0] for uid in (1, 2, 3, 4)]
    assert found == [("\\Flagged", "\\Seen"), ("\\Flagged",), ("\\Seen",), ()]
    assert await said(w.p) == "unseen: 2 4\nflagged: 1-2\ncur: 4\nmine: 1 3\n"
    assert await said(w.program()) == await said(w.p)


async def test_what_others_have_changed_meanwhile_stays(w: InView) -> None:
    await w.came(TWO)
    await said(w.p)
    await w.flag(2, add=SEEN | FLAGGED)
    await w.came(ONE)
    file = await w.p.open(SEQUENCES, os.O_WRONLY | os.O_TRUNC)
    await file.write(b"unseen: 2\n")  # it has read message 1, and knows of no message 3
    await file.close()
    assert [(await w.inner.flags(uid))[0] for uid in (1, 2, 3)] == [("\\Seen",), ("\\Flagged", "\\Seen"), ()]


async def test_a_program_that_has_read_nothing_only_adds(w: InView) -> None:
    await w.came(TWO, SEEN)
    await rewrite(w.p, "unseen: 1\ncur: 1\n")
    other = w.program()
    await other.write(SEQUENCES, b"unseen: 2\nflagged: 1\nmine: 2\n")
    assert [(await w.inner.flags(uid))[0] for uid in (1, 2)] == [("\\Flagged",), ()]
    assert await said(w.p) == "unseen: 1-2\nflagged: 1\ncur: 1\nmine: 2\n"


async def test_a_file_that_is_only_cut_says_nothing(w: InView) -> None:
    await (await w.program().open(SEQUENCES, os.O_WRONLY | os.O_TRUNC)).close()
    assert (await w.inner.flags(1))[0] == ()
    assert await said(w.p) == "unseen: 1\n"


async def test_a_program_that_has_read_it_empties_it(w: InView) -> None:
    """As Python does where no sequence is left: one descriptor writes nothing, another has cut the file."""
    await said(w.p)
    writes = await w.p.open(SEQUENCES, os.O_RDWR)
    cuts = await w.p.open(SEQUENCES, os.O_WRONLY | os.O_TRUNC)
    await cuts.close()
    assert (await w.inner.flags(1))[0] == ()
    await writes.close()
    assert (await w.inner.flags(1))[0] == ("\\Seen",)


async def test_a_file_that_is_taken_away_while_it_is_open_is_empty(w: InView) -> None:
    """As nmh does where no sequence is left."""
    file = await w.p.open(SEQUENCES, os.O_RDWR)
    await file.read()
    await w.p.unlink(SEQUENCES)
    await file.close()
    assert (await w.inner.flags(1))[0] == ("\\Seen",)


async def test_a_file_that_is_taken_away_and_not_made_again_is_back_soon(
    w: InView, monkeypatch: pytest.MonkeyPatch
) -> None:
    await w.p.unlink(SEQUENCES)
    assert not await w.p.exists(SEQUENCES)
    assert ".mh_sequences" not in await w.p.names()
    monkeypatch.setattr(mh_editing, "HIDDEN_SECONDS", 0.0)
    with raises(errno.ENOENT):
        await w.p.unlink(SEQUENCES)
    await w.p.write(SEQUENCES, b"", flags=os.O_EXCL)
    await w.p.unlink(SEQUENCES)
    assert await said(w.p) == "unseen: 1\n"
    assert (await w.inner.flags(1))[0] == ()


async def test_a_message_that_a_program_brings_is_what_it_says_of_it_next(w: InView) -> None:
    await w.p.write("INBOX/2", TWO)
    assert await said(w.p) == "unseen: 1\n"  # for others it is there
    assert await said(w.program()) == "unseen: 1-2\n"
    await rewrite(w.p, "unseen: 1\nflagged: 2\n")
    assert (await w.inner.flags(2))[0] == ("\\Flagged", "\\Seen")
    await w.p.write("INBOX/3", TWO)
    await rewrite(w.p, "unseen: 1 3\nflagged: 2\n")
    assert (await w.inner.flags(3))[0] == ()


async def test_a_message_may_be_in_the_sequences_before_it_is_closed(w: InView) -> None:
    """As with Python's ``mailbox.MH.add``."""
    file = await w.p.create("INBOX/2", os.O_EXCL)
    await rewrite(w.p, "unseen: 1\nflagged: 2\n")
    await file.write(TWO)
    await file.close()
    assert (await w.inner.flags(2))[0] == ("\\Flagged", "\\Seen")


async def test_the_time_of_the_sequences_moves_with_every_change(w: InView) -> None:
    before = (await w.p.stat(SEQUENCES)).modified_ns
    await w.flag(1, add=FLAGGED)
    after = (await w.p.stat(SEQUENCES)).modified_ns
    assert after > before


async def test_sequences_stay_in_the_next_mount(kind: Kind, tmp_path: Path) -> None:
    async with mh(kind, directory=tmp_path) as w:
        await rewrite(w.p, "unseen: 1\ncur: 1\n")
        driver = MemoryDriver(tree=w.inner.tree)
    async with mh(kind, directory=tmp_path, driver=driver) as w:
        assert await said(w.p) == "unseen: 1\ncur: 1\n"


# -- directories and other files ---------------------------------------------------------------


async def test_a_program_makes_a_folder_and_its_sequences(w: InView) -> None:
    await w.p.mkdir("New")
    assert not await w.p.exists("New/.mh_sequences")
    await w.p.write("New/.mh_sequences", b"", flags=os.O_EXCL)
    assert await said(w.p, "New") == ""
    await w.p.write("New/1", TWO)
    with raises(errno.ENOTEMPTY):
        await w.p.rmdir("New")
    await w.p.unlink("New/1")
    await w.p.unlink("New/.mh_sequences")
    await w.p.rmdir("New")
    assert "New" not in w.inner.store.folders
    await w.p.rename("Work", "Play")
    assert "Play" in w.inner.store.folders


async def test_every_other_name_is_a_file_of_a_program(w: InView) -> None:
    await w.p.write("INBOX/.mh_sequences.lock.1", b"")
    await w.p.link("INBOX/.mh_sequences.lock.1", "INBOX/.mh_sequences.lock")
    with raises(errno.EEXIST):
        await w.p.link("INBOX/.mh_sequences.lock.1", "INBOX/.mh_sequences.lock")
    await w.p.unlink("INBOX/.mh_sequences.lock.1")
    assert await w.p.read("INBOX/.mh_sequences.lock") == b""
    await w.p.write("context", b"Current-Folder: INBOX\n")
    await w.p.write("INBOX/.mu-prop", b"uidnext: 4\n")
    assert await w.p.read("context") == b"Current-Folder: INBOX\n"
    assert await w.p.names() == [".mh_sequences", ".mh_sequences.lock", ".mu-prop", "1"]
    assert await w.inner.stored() == [(1, ONE)]
    await w.p.unlink("INBOX/.mh_sequences.lock")
    assert await w.p.names() == [".mh_sequences", ".mu-prop", "1"]
    with raises(errno.EPERM):
        await w.p.write("5", TWO)


async def test_a_new_file_for_the_sequences_is_the_programs_until_it_is_renamed(w: InView) -> None:
    await w.p.write(f"{SEQUENCES}.new", b"mine: 1\n")
    await rewrite(w.program(), "unseen: 1\ncur: 1\n")
    assert await said(w.p) == "unseen: 1\ncur: 1\n"
    assert await w.p.read(f"{SEQUENCES}.new") == b"mine: 1\n"
    await w.p.rename(f"{SEQUENCES}.new", SEQUENCES)
    assert "mine: 1\n" in await said(w.p)


async def test_a_name_that_a_foreign_file_has_besides_takes_and_gives_no_room(
    w: InView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "FOREIGN_BYTES", 15)
    await w.p.write("INBOX/a", b"0123456789")
    for _ in range(3):
        await w.p.link("INBOX/a", "INBOX/b")
        await w.p.unlink("INBOX/b")
    file = await w.p.create("INBOX/c")
    with raises(errno.ENOSPC):
        await file.write(b"0123456789")
    await file.close()
