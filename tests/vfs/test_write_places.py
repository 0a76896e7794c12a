"""Where a file may be written, and what becomes of the message that was there: SEMANTICS.md, Writing."""

from __future__ import annotations

import errno
import os

import pytest
import trio
import trio.testing

from dboxfs.vfs.emptied import EMPTIED_SECONDS
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, raises

ANEW = b"x" * len(ONE)


async def test_writing_a_message_anew_is_a_replacement(m: Mounted, p: Program) -> None:
    await p.write("INBOX/1.eml", TWO)
    assert await p.texts() == {"1.eml": TWO}
    assert await m.stored() == [(2, TWO)], "a new uid"


async def test_a_replacement_keeps_flags_keywords_and_name(m: Mounted, p: Program) -> None:
    await p.rename("INBOX/1.eml", "INBOX/letter")
    await m.others.replace_flags("INBOX", 1, 0x0A, ["urgent"])
    await m.follow()
    await p.write("INBOX/letter", TWO)
    assert await p.texts() == {"letter": TWO}
    assert await m.flags(2) == (("\\Flagged", "\\Seen"), ("urgent",))


async def test_a_message_that_is_written_over_is_there_until_the_close(
    m: Mounted, p: Program, q: Program
) -> None:
    file = await p.create("INBOX/1.eml", os.O_TRUNC)
    await file.write(TWO)
    assert (await q.stat("INBOX/1.eml")).size == len(ONE)
    assert await q.read("INBOX/1.eml") == ONE
    await file.close()
    assert await q.read("INBOX/1.eml") == TWO


async def test_o_trunc_and_a_close_without_a_byte_change_nothing(m: Mounted, p: Program) -> None:
    await (await p.create("INBOX/1.eml", os.O_TRUNC)).close()
    assert await m.stored() == [(1, ONE)]


async def test_opening_for_writing_and_closing_changes_nothing(m: Mounted, p: Program) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        await (await p.open("INBOX/1.eml", flags)).close()
    assert await m.stored() == [(1, ONE)]


async def test_an_append_goes_behind_what_is_there(m: Mounted, p: Program) -> None:
    await p.append("INBOX/1.eml", b"more\n")
    assert await m.stored() == [(2, ONE + b"more\n")]
    await p.append("INBOX/1.eml", b"and more\n")
    assert await p.texts() == {"1.eml": ONE + b"more\nand more\n"}


async def test_an_append_to_a_new_file_makes_it(m: Mounted, p: Program) -> None:
    await p.append("INBOX/log", TWO)
    assert await p.texts() == {"1.eml": ONE, "log": TWO}


async def test_writing_at_the_end_without_o_append_is_an_append_too(m: Mounted, p: Program) -> None:
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    await file.write(b"more\n", at=len(ONE))
    await file.close()
    assert await m.stored() == [(2, ONE + b"more\n")]


@pytest.mark.parametrize("extra", [b"", b"!", b"and more\n" * 50])
async def test_writing_again_from_the_beginning_reaches_the_old_end(
    m: Mounted, p: Program, extra: bytes
) -> None:
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    for at in range(0, len(ANEW + extra), 5):
        await file.write((ANEW + extra)[at : at + 5])
    await file.close()
    assert await m.stored() == [(2, ANEW + extra)]


async def test_what_is_not_written_over_stays(m: Mounted, p: Program) -> None:
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    await file.write(b"xx")
    await file.close()
    assert await m.stored() == [(2, b"xx" + ONE[2:])]


async def test_a_rewrite_may_set_its_own_end(m: Mounted, p: Program) -> None:
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    await file.write(b"short\n")
    await file.truncate(6)
    await file.close()
    assert await m.stored() == [(2, b"short\n")]


@pytest.mark.parametrize("at", [0, 2, 5, 100])
async def test_a_new_file_is_written_anywhere(m: Mounted, p: Program, at: int) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"12345")
    await file.write(b"x", at=at)
    await file.close()
    text = bytearray(b"12345".ljust(at, b"\0"))
    text[at : at + 1] = b"x"
    assert (await p.texts())["note"] == text


@pytest.mark.parametrize("name", ["note", "1.eml"])
async def test_truncate_to_nothing_begins_again(m: Mounted, p: Program, name: str) -> None:
    file = await p.create(f"INBOX/{name}", os.O_TRUNC)
    await file.write(b"never seen")
    await file.truncate(0)
    await file.write(TWO, at=0)
    await file.close()
    assert (await p.texts())[name] == TWO


@pytest.mark.parametrize("size", [1, 4, 6, 1000])
async def test_truncate_cuts_or_puts_zeros_behind(m: Mounted, p: Program, size: int) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"12345")
    await file.truncate(size)
    await file.close()
    assert (await p.texts())["note"] == b"12345"[:size].ljust(size, b"\0")


async def test_truncate_to_the_size_it_has_changes_nothing(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"12345")
    await file.truncate(5)
    await file.close()
    assert (await p.texts())["note"] == b"12345"


async def test_a_message_that_is_cut_to_nothing_by_its_name_stays_until_something_is_written(
    m: Mounted, p: Program, q: Program, autojump_clock: trio.testing.MockClock
) -> None:
    await p.truncate("INBOX/1.eml", 0)
    assert (await m.stored(), await q.read("INBOX/1.eml")) == ([(1, ONE)], ONE)
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    await file.close()
    assert await m.stored() == [(1, ONE)], "nothing was written"
    await p.truncate("INBOX/1.eml", 0)
    await q.append("INBOX/1.eml", b"of another program\n")
    assert await m.stored() == [(2, ONE + b"of another program\n")]
    await p.truncate("INBOX/1.eml", 0)
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    await file.write(b"new\n")
    await file.close()
    assert await m.stored() == [(3, b"new\n")]
    await p.truncate("INBOX/1.eml", 0)
    await trio.sleep(EMPTIED_SECONDS)
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    await file.write(b"N")
    await file.close()
    assert await m.stored() == [(4, b"New\n")]


@pytest.mark.parametrize("is_read", [False, True])
async def test_what_one_descriptor_cuts_to_nothing_is_cut_for_another_of_its_process_that_has_written_nothing(
    m: Mounted, p: Program, q: Program, is_read: bool
) -> None:
    reader = await q.open("INBOX/1.eml") if is_read else None
    file = await p.open("INBOX/1.eml", os.O_RDWR)
    of_another = await m.program().open("INBOX/1.eml", os.O_RDWR)
    await (await p.open("INBOX/1.eml", os.O_WRONLY | os.O_TRUNC)).close()
    assert await m.stored() == [(1, ONE)]
    await file.write(b"new\n")
    await file.close()
    assert await m.stored() == [(2, b"new\n")]
    assert await of_another.read() == ONE
    await of_another.close()
    if reader is not None:
        assert await reader.read() == ONE
        await reader.close()


async def test_the_handle_of_a_removed_message_cuts_nothing_else(m: Mounted, p: Program) -> None:
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    await p.unlink("INBOX/1.eml")
    await p.write("INBOX/1.eml", TWO)
    await file.truncate(0)
    await file.write(b"nowhere", at=0)
    assert (await file.stat()).size == len(b"nowhere")
    await file.close()
    assert await p.texts() == {"1.eml": TWO}


async def test_what_comes_after_a_commit_is_a_replacement(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"first\n")
    await file.flush()
    assert (await p.texts())["note"] == b"first\n"
    await file.write(b"second\n")
    await file.close()
    assert await m.stored() == [(1, ONE), (3, b"first\nsecond\n")]


async def test_two_appends_at_once_are_both_there(m: Mounted, p: Program, q: Program) -> None:
    one = await p.create("INBOX/1.eml", os.O_APPEND)
    two = await q.create("INBOX/1.eml", os.O_APPEND)
    await one.write(b"one\n")
    await two.write(b"two\n")
    await two.close()
    await one.close()
    assert await p.texts() == {"1.eml": ONE + b"two\none\n"}, "in the order of their closes"


async def test_two_appends_to_a_new_file_are_both_there(m: Mounted, p: Program, q: Program) -> None:
    one = await p.create("INBOX/log", os.O_APPEND)
    two = await q.create("INBOX/log", os.O_APPEND)
    await one.write(b"one\n")
    await two.write(b"two\n")
    await one.close()
    await two.close()
    assert await p.texts() == {"1.eml": ONE, "log": b"one\ntwo\n"}


async def test_of_two_who_write_from_the_beginning_the_last_to_close_wins(
    m: Mounted, p: Program, q: Program
) -> None:
    one, two = await p.create("INBOX/1.eml", os.O_TRUNC), await q.create("INBOX/1.eml", os.O_TRUNC)
    await one.write(b"one\n")
    await two.write(b"two\n")
    await two.close()
    await one.close()
    assert await p.texts() == {"1.eml": b"one\n"}


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08\x00", b"BZh91AY", b"CRYPTED\x03\x07"])
async def test_bytes_that_a_dovecot_would_misread_are_refused_at_close(
    m: Mounted, p: Program, magic: bytes
) -> None:
    file = await p.create("INBOX/note")
    await file.write(magic + b"x" * 40)
    with raises(errno.EINVAL):
        await file.close()
    assert await m.stored() == [(1, ONE)]
    assert await p.texts() == {"1.eml": ONE}


async def test_a_refused_file_is_refused_at_every_later_close(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(b"\x1f\x8b\x08\x00" + b"x" * 40)
    for _ in range(2):
        with raises(errno.EINVAL):
            await file.flush()
    await file.file.release()
    assert not await p.exists("INBOX/note")


async def test_utimens_on_a_message_is_a_replacement_with_that_date(m: Mounted, p: Program) -> None:
    await p.set_received("INBOX/1.eml", JULY + 7)
    assert (await p.stat("INBOX/1.eml")).modified_ns == (JULY + 7) * 10**9
    assert await m.stored() == [(2, ONE)]


async def test_utimens_with_the_date_it_has_changes_nothing(m: Mounted, p: Program) -> None:
    await p.set_received("INBOX/1.eml", JULY)
    assert await m.stored() == [(1, ONE)]


async def test_utimens_behind_a_commit_by_the_open_file(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    await file.flush()
    await file.set_received(JULY)
    await file.close()
    assert (await p.stat("INBOX/note")).modified_ns == JULY * 10**9
    assert (await p.texts())["note"] == TWO


@pytest.mark.parametrize("path", ["INBOX", "Work", ""])
async def test_times_of_a_directory_are_accepted_and_change_nothing(
    m: Mounted, p: Program, path: str
) -> None:
    before = (await p.stat(path)).modified_ns
    await p.set_received(path, JULY + 1)
    assert (await p.stat(path)).modified_ns == before


async def test_modes_and_owners_are_accepted_and_change_nothing(m: Mounted, p: Program) -> None:
    before = await p.stat("INBOX/1.eml")
    after = await m.vfs.setattr(before.inode, None, None, None, p.pid)
    assert (after.mode, after.uid, after.gid) == (before.mode, before.uid, before.gid)
    assert await m.stored() == [(1, ONE)]
