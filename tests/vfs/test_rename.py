"""rename, link, unlink of messages and files that are being written: SEMANTICS.md, Writing."""

from __future__ import annotations

import errno
import os

import pytest
import trio
from trio.testing import MockClock

from dboxfs.vfs.rename import NOREPLACE
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, raises

# -- rename ----------------------------------------------------------------------------------------


async def test_a_rename_in_a_mailbox_changes_the_name_alone(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    await p.rename("INBOX/1.eml", "INBOX/letter")
    assert await p.texts() == {"letter": ONE}
    assert (await p.inode("INBOX/letter"), await m.stored()) == (inode, [(1, ONE)])


async def test_a_rename_back_and_forth(m: Mounted, p: Program) -> None:
    for name in ("a", "b", "1.eml", "c", "1.eml"):
        old = (await p.names())[0]
        await p.rename(f"INBOX/{old}", f"INBOX/{name}")
        assert await p.texts() == {name: ONE}


async def test_a_rename_to_its_own_name_changes_nothing(m: Mounted, p: Program) -> None:
    await p.rename("INBOX/1.eml", "INBOX/1.eml")
    assert (await p.texts(), await m.stored()) == ({"1.eml": ONE}, [(1, ONE)])


async def test_a_rename_over_a_message_takes_its_place(m: Mounted, p: Program) -> None:
    await m.others.replace_flags("INBOX", 1, 0x02, ["kept"])
    await m.follow()
    await p.write("INBOX/note", TWO)
    await p.rename("INBOX/note", "INBOX/1.eml")
    assert await p.texts() == {"1.eml": TWO}
    assert await m.stored() == [(2, TWO)]
    assert await m.flags(2) == (("\\Flagged",), ("kept",)), "the flags of the one whose place it takes"


async def test_who_reads_a_message_that_is_renamed_over_reads_it_to_its_end(m: Mounted, p: Program) -> None:
    await p.write("INBOX/note", TWO)
    file = await p.open("INBOX/1.eml")
    await p.rename("INBOX/note", "INBOX/1.eml")
    assert await file.read() == ONE
    await file.close()


async def test_a_rename_to_another_mailbox_moves(m: Mounted, p: Program) -> None:
    await m.others.replace_flags("INBOX", 1, 0x08, ["kept"])
    await m.follow()
    await p.rename("INBOX/1.eml", "Work/letter")
    assert (await p.texts(), await p.texts("Work")) == ({}, {"letter": ONE})
    assert (await m.stored(), await m.stored("Work")) == ([], [(1, ONE)])
    assert await m.flags(1, "Work") == (("\\Seen",), ("kept",))
    assert (await p.stat("Work/letter")).modified_ns == JULY * 10**9


async def test_a_move_over_a_message_takes_its_place(m: Mounted, p: Program) -> None:
    await p.write("Work/letter", TWO)
    await m.others.replace_flags("Work", 1, 0x02, ["kept"])
    await m.follow("Work")
    await p.rename("INBOX/1.eml", "Work/letter")
    assert (await p.texts(), await p.texts("Work")) == ({}, {"letter": ONE})
    assert await m.flags(2, "Work") == (("\\Flagged",), ("kept",))


async def test_the_kernel_is_told_of_a_name_that_moved_elsewhere(m: Mounted, p: Program) -> None:
    work = await p.inode("Work")
    await p.rename("INBOX/1.eml", "Work/letter")
    assert (work, b"letter", 0) in m.told.entries, "it moves the name with the inode, which is another one"


@pytest.mark.parametrize("new", ["INBOX/note", "Work/note", "INBOX/Sub", "Work"])
async def test_noreplace_refuses_what_is_there(m: Mounted, p: Program, new: str) -> None:
    await p.write("INBOX/note", TWO)
    await p.write("Work/note", TWO)
    await p.mkdir("INBOX/Sub")
    before = await p.texts(), await p.texts("Work")
    with raises(errno.EEXIST):
        await p.rename("INBOX/1.eml", new, NOREPLACE)
    assert (await p.texts(), await p.texts("Work")) == before
    await p.rename("INBOX/1.eml", "INBOX/free", NOREPLACE)
    assert await p.read("INBOX/free") == ONE


async def test_noreplace_refuses_a_file_that_is_being_written(m: Mounted, p: Program, q: Program) -> None:
    file = await q.create("INBOX/new")
    await file.write(TWO)
    with raises(errno.EEXIST):
        await p.rename("INBOX/1.eml", "INBOX/new", NOREPLACE)
    await file.close()
    assert await p.texts() == {"1.eml": ONE, "new": TWO}


@pytest.mark.parametrize("flags", [2, 4, 3])
async def test_exchanging_two_files_is_refused(m: Mounted, p: Program, flags: int) -> None:
    with raises(errno.EINVAL):
        await p.rename("INBOX/1.eml", "INBOX/x", flags)


async def test_a_message_cannot_replace_a_directory(m: Mounted, p: Program) -> None:
    await p.mkdir("INBOX/Sub")
    for new in ("INBOX/Sub", "Work"):
        with raises(errno.EISDIR):
            await p.rename("INBOX/1.eml", new)


async def test_a_message_cannot_go_where_there_is_no_mailbox(m: Mounted, p: Program) -> None:
    with raises(errno.EPERM):
        await p.rename("INBOX/1.eml", "letter")


async def test_a_rename_of_nothing_is_refused(m: Mounted, p: Program) -> None:
    inbox = await p.inode("INBOX")
    with raises(errno.ENOENT):
        await p.rw.rename(inbox, b"nothing", inbox, b"x", 0, p.pid)


async def test_a_new_file_keeps_its_writer_when_it_is_renamed(m: Mounted, p: Program, q: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"one ")
    await p.rename("INBOX/note", "INBOX/other")
    await file.write(b"two")
    assert not await q.exists("INBOX/other")
    await file.close()
    assert await p.texts() == {"1.eml": ONE, "other": b"one two"}


async def test_a_new_file_renamed_over_a_message_replaces_it_at_its_close(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await p.rename("INBOX/note", "INBOX/1.eml")
    assert await m.stored() == [(1, ONE)]
    await file.close()
    assert await m.stored() == [(2, TWO)]
    assert await p.texts() == {"1.eml": TWO}


async def test_a_new_file_renamed_to_a_dot_name_waits_for_the_next_rename(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await p.rename("INBOX/note", "INBOX/.note")
    await file.close()
    assert await m.stored() == [(1, ONE)]
    await p.rename("INBOX/.note", "Work/note")
    assert await p.texts("Work") == {"note": TWO}


async def test_a_temporary_renamed_over_a_message_replaces_it(m: Mounted, p: Program) -> None:
    await m.others.replace_flags("INBOX", 1, 0x02, ["kept"])
    await m.follow()
    await p.write("INBOX/.1.eml.x", TWO)
    await p.rename("INBOX/.1.eml.x", "INBOX/1.eml")
    assert await m.stored() == [(2, TWO)]
    assert await m.flags(2) == (("\\Flagged",), ("kept",))


async def test_a_temporary_that_is_refused_is_there_to_be_tried_again(m: Mounted, p: Program) -> None:
    await p.write("INBOX/.note", b"\x1f\x8b\x08\x00" + b"x" * 40)
    with raises(errno.EINVAL):
        await p.rename("INBOX/.note", "INBOX/note")
    assert (await p.exists("INBOX/.note"), await p.exists("INBOX/note")) == (True, False)
    file = await p.create("INBOX/.note", os.O_TRUNC)
    await file.write(TWO)
    await file.close()
    await p.rename("INBOX/.note", "INBOX/note")
    assert (await p.texts())["note"] == TWO


async def test_an_open_temporary_is_written_on_after_its_rename(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/.note")
    await file.write(b"one\n")
    await p.rename("INBOX/.note", "INBOX/note")
    assert (await p.texts())["note"] == b"one\n"
    await file.write(b"two\n")
    await file.close()
    assert await p.texts() == {"1.eml": ONE, "note": b"one\ntwo\n"}


async def test_an_empty_temporary_renamed_to_a_plain_name_is_no_message(m: Mounted, p: Program) -> None:
    await (await p.create("INBOX/.note")).close()
    await p.rename("INBOX/.note", "INBOX/note")
    assert (await p.exists("INBOX/note"), await m.stored()) == (True, [(1, ONE)])


async def test_a_message_renamed_to_a_dot_name_is_a_message_still(m: Mounted, p: Program, q: Program) -> None:
    await p.rename("INBOX/1.eml", "INBOX/.1")
    assert await q.texts() == {".1": ONE}
    assert await m.stored() == [(1, ONE)]


async def test_what_is_written_on_a_message_follows_its_rename(m: Mounted, p: Program, q: Program) -> None:
    file = await p.create("INBOX/1.eml", os.O_APPEND)
    await file.write(b"more\n")
    await q.rename("INBOX/1.eml", "INBOX/letter")
    await file.close()
    assert await p.texts() == {"letter": ONE + b"more\n"}


async def test_what_is_written_on_a_message_follows_its_move(m: Mounted, p: Program, q: Program) -> None:
    file = await p.create("INBOX/1.eml", os.O_APPEND)
    await file.write(b"more\n")
    await q.rename("INBOX/1.eml", "Work/letter")
    await file.close()
    assert (await p.texts(), await p.texts("Work")) == ({}, {"letter": ONE + b"more\n"})


async def test_a_file_whose_name_goes_to_another_becomes_a_message_of_its_own(
    m: Mounted, p: Program, q: Program
) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await q.rename("INBOX/1.eml", "INBOX/note")
    await file.close()
    assert await q.texts() == {"note": ONE, "2.eml": TWO}, "no message is destroyed that it never opened"


async def test_a_new_message_that_is_given_the_name_of_a_file_is_not_replaced_by_it(
    m: Mounted, p: Program, q: Program
) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await q.write("INBOX/other", b"third\n")
    await q.rename("INBOX/other", "INBOX/note")
    await file.close()
    assert await q.texts() == {"1.eml": ONE, "note": b"third\n", "3.eml": TWO}


async def test_what_is_written_on_a_message_that_is_renamed_over_becomes_one_of_its_own(
    m: Mounted, p: Program, q: Program
) -> None:
    await p.write("INBOX/note", TWO)
    file = await p.create("INBOX/1.eml", os.O_TRUNC)
    await file.write(b"third\n")
    await q.rename("INBOX/note", "INBOX/1.eml")
    await file.close()
    assert await q.texts() == {"1.eml": TWO, "3.eml": b"third\n"}


async def test_an_editor_that_makes_a_backup_keeps_flags_and_keywords(m: Mounted, p: Program) -> None:
    await m.others.replace_flags("INBOX", 1, 0x0A, ["urgent"])
    await m.follow()
    await p.rename("INBOX/1.eml", "INBOX/1.eml~")
    await p.write("INBOX/1.eml", TWO)
    await p.unlink("INBOX/1.eml~")
    assert await p.texts() == {"1.eml": TWO}
    assert await m.flags(2) == (("\\Flagged", "\\Seen"), ("urgent",))


async def test_after_five_minutes_a_backup_is_only_a_message(
    m: Mounted, p: Program, autojump_clock: MockClock
) -> None:
    await m.others.replace_flags("INBOX", 1, 0x0A, ["urgent"])
    await m.follow()
    await p.rename("INBOX/1.eml", "INBOX/1.eml~")
    await trio.sleep(301)
    await p.write("INBOX/1.eml", TWO)
    assert await m.flags(2) == ((), ())


# -- link ------------------------------------------------------------------------------------------


async def test_a_link_is_a_copy(m: Mounted, p: Program) -> None:
    await m.others.replace_flags("INBOX", 1, 0x08, ["kept"])
    await m.follow()
    attrs = await p.link("INBOX/1.eml", "Work/copy")
    assert (attrs.size, attrs.inode) == (len(ONE), await p.inode("Work/copy"))
    assert (await p.texts(), await p.texts("Work")) == ({"1.eml": ONE}, {"copy": ONE})
    assert await m.flags(1, "Work") == (("\\Seen",), ("kept",))
    await p.unlink("INBOX/1.eml")
    assert await p.texts("Work") == {"copy": ONE}


async def test_a_link_in_the_same_mailbox_is_a_second_message(m: Mounted, p: Program) -> None:
    await p.link("INBOX/1.eml", "INBOX/copy")
    assert await m.stored() == [(1, ONE), (2, ONE)]


@pytest.mark.parametrize("new", ["INBOX/1.eml", "INBOX/Sub", "Work"])
async def test_a_link_refuses_a_name_that_is_taken(m: Mounted, p: Program, new: str) -> None:
    await p.mkdir("INBOX/Sub")
    with raises(errno.EEXIST, errno.EPERM):
        await p.link("INBOX/1.eml", new)


async def test_a_link_refuses_the_name_of_a_file_that_is_being_written(
    m: Mounted, p: Program, q: Program
) -> None:
    file = await q.create("INBOX/new")
    with raises(errno.EEXIST):
        await p.link("INBOX/1.eml", "INBOX/new")
    await file.close()


async def test_a_link_of_a_file_that_is_being_written_is_refused(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    with raises(errno.EBUSY):
        await p.link("INBOX/note", "INBOX/other")
    await file.close()
    assert await p.texts() == {"1.eml": ONE, "note": TWO}


async def test_a_link_of_a_temporary_commits(m: Mounted, p: Program, q: Program) -> None:
    await p.write("INBOX/.note", TWO)
    await p.link("INBOX/.note", "INBOX/note")
    assert await q.texts() == {"1.eml": ONE, "note": TWO}
    assert await p.read("INBOX/.note") == TWO, "both names are the message then"
    await p.unlink("INBOX/.note")
    assert not await p.exists("INBOX/.note")
    assert await q.texts() == {"1.eml": ONE, "note": TWO}


async def test_what_is_written_after_a_link_changes_the_message(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/.note")
    await file.write(b"one\n")
    await p.link("INBOX/.note", "Work/note")
    await file.write(b"two\n")
    await file.close()
    assert await p.texts("Work") == {"note": b"one\ntwo\n"}


async def test_a_link_to_a_dot_name_is_refused(m: Mounted, p: Program) -> None:
    await p.write("INBOX/.note", TWO)
    with raises(errno.EOPNOTSUPP):
        await p.link("INBOX/.note", "INBOX/.other")


async def test_a_directory_cannot_be_linked(m: Mounted, p: Program) -> None:
    with raises(errno.EPERM):
        await p.link("Work", "INBOX/x")


# -- unlink ----------------------------------------------------------------------------------------


async def test_an_unlinked_message_is_expunged(m: Mounted, p: Program) -> None:
    await p.unlink("INBOX/1.eml")
    assert (await p.names(), await m.stored()) == ([], [])
    assert not await p.exists("INBOX/1.eml")


async def test_a_row_of_removals_is_gone_when_each_is_answered(m: Mounted, p: Program) -> None:
    names = [f"n{n}" for n in range(30)]
    for name in names:
        await p.write(f"INBOX/{name}", TWO)
    for n, name in enumerate(names):
        await p.unlink(f"INBOX/{name}")
        assert await p.names() == sorted(["1.eml", *names[n + 1 :]])
        assert not await p.exists(f"INBOX/{name}")
    assert [uid for uid, _ in await m.stored()] == [1]


async def test_fsync_of_the_directory_carries_removals_out(m: Mounted, p: Program) -> None:
    for n in range(20):
        await p.write(f"INBOX/n{n}", TWO)
    before = len(m.files())
    for n in range(20):
        await p.unlink(f"INBOX/n{n}")
    directory = await m.vfs.opendir(await p.inode("INBOX"))
    await m.vfs.fsyncdir(directory)
    await trio.testing.wait_all_tasks_blocked()
    if m.location.kind.value == "sdbox":
        assert len(m.files()) == before - 20, "u.N"


async def test_an_unlinked_name_is_free_at_once(m: Mounted, p: Program) -> None:
    await p.unlink("INBOX/1.eml")
    await p.write("INBOX/1.eml", TWO, flags=os.O_EXCL)
    assert await p.texts() == {"1.eml": TWO}


async def test_a_removal_takes_what_is_written_on_the_message_with_it(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/1.eml", os.O_TRUNC)
    await file.write(TWO)
    await p.unlink("INBOX/1.eml")
    await file.close()
    assert (await p.texts(), await m.stored()) == ({}, [])


async def test_a_new_file_can_be_removed_by_its_writer_alone(m: Mounted, p: Program, q: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    with raises(errno.ENOENT):
        await q.unlink("INBOX/note")
    await p.unlink("INBOX/note")
    await file.close()
    assert await m.stored() == [(1, ONE)]


async def test_a_name_that_is_not_there_cannot_be_removed(m: Mounted, p: Program) -> None:
    for path in ("INBOX/nothing", "INBOX/2.eml", "Work/1.eml"):
        with raises(errno.ENOENT):
            await p.unlink(path)


async def test_a_number_under_which_a_named_message_is_not_shown_removes_nothing(
    m: Mounted, p: Program
) -> None:
    await p.rename("INBOX/1.eml", "INBOX/letter")
    with raises(errno.ENOENT):
        await p.unlink("INBOX/1.eml")
    assert await p.texts() == {"letter": ONE}
