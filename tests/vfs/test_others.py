"""What a Dovecot, or another mount, does to the store meanwhile: nothing that was acknowledged is lost."""

from __future__ import annotations

import errno
import os

import pytest
import trio
from trio.testing import MockClock

from dboxfs.fsapi import Driver, FaultsDriver
from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, Told, mounted, raises


async def test_a_new_message_of_somebody_else_is_shown(m: Mounted, p: Program) -> None:
    await m.others.save("INBOX", [NewMessage(TWO)])
    await m.follow()
    assert await p.texts() == {"1.eml": ONE, "2.eml": TWO}


async def test_an_expunge_of_somebody_else_is_shown_and_told(m: Mounted, p: Program) -> None:
    inbox, inode = await p.inode("INBOX"), await p.inode("INBOX/1.eml")
    await m.others.expunge("INBOX", [1])
    await m.follow()
    assert await p.names() == []
    assert (inbox, b"1.eml", inode) in m.told.entries


async def test_the_kernel_is_told_of_a_directory_s_new_time_after_its_new_entries(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    for what in ("attributes", "at_once", "listing"):
        monkeypatch.setattr(Told, what, lambda self, inode, what=what: told.append((what, inode)))
    inbox = await p.inode("INBOX")
    await m.others.save("INBOX", [NewMessage(TWO)])
    await m.follow()
    assert [what for what, inode in told if inode == inbox] == ["listing", "attributes"]


async def test_flags_of_somebody_else_are_shown(m: Mounted, p: Program) -> None:
    await m.others.replace_flags("INBOX", 1, 0x08, ["x"])
    await m.follow()
    assert (await p.xattr("INBOX/1.eml", "flags"), await p.xattr("INBOX/1.eml", "keywords")) == (
        "\\Seen",
        "x",
    )


async def test_what_is_written_on_a_message_that_somebody_else_expunges_comes_back(
    m: Mounted, p: Program
) -> None:
    file = await p.create("INBOX/1.eml", os.O_TRUNC)
    await file.write(TWO)
    await m.others.expunge("INBOX", [1])
    await m.follow()
    await file.close()
    assert await p.texts() == {"1.eml": TWO}
    assert await m.stored() == [(2, TWO)]


async def test_an_append_to_a_message_that_somebody_else_expunges_comes_back(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/1.eml", os.O_APPEND)
    await file.write(b"more\n")
    await m.others.expunge("INBOX", [1])
    await file.close()
    assert [text for _, text in await m.stored()] == [ONE + b"more\n"]


async def test_the_descriptor_of_an_expunged_message_is_what_is_written(m: Mounted, p: Program) -> None:
    file = await p.open("INBOX/1.eml", os.O_RDWR | os.O_TRUNC)
    await file.write(b"12345")
    await m.others.expunge("INBOX", [1])
    await m.follow()
    await file.flush()
    await p.write("INBOX/1.eml", TWO)
    assert await p.read("INBOX/1.eml") == TWO
    await file.close()


@pytest.mark.parametrize("quick", [True, False])
async def test_a_name_that_another_mount_gives_first_is_its(m: Mounted, p: Program, quick: bool) -> None:
    file = await p.create("INBOX/note", os.O_EXCL)
    await file.write(TWO)
    async with m.again() as again:
        await again.program().write("INBOX/note", ONE)
    if quick:
        await m.follow()
    await file.close()
    await m.follow()
    assert await p.texts() == {"1.eml": ONE, "note": ONE, "3.eml": TWO}


async def test_an_append_goes_behind_what_another_mount_has_appended(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/1.eml", os.O_APPEND)
    await file.write(b"ours\n")
    async with m.again() as again:
        await again.program().append("INBOX/1.eml", b"theirs\n")
    await file.close()
    assert [text for _, text in await m.stored()] == [ONE + b"theirs\nours\n"]


async def test_a_message_that_another_mount_renames_is_written_under_its_new_name(
    m: Mounted, p: Program
) -> None:
    file = await p.create("INBOX/1.eml", os.O_APPEND)
    await file.write(b"more\n")
    async with m.again() as again:
        await again.program().rename("INBOX/1.eml", "INBOX/letter")
        await m.follow()
        await file.close()
        await again.follow()
        assert await again.program().texts() == {"letter": ONE + b"more\n"}


async def test_two_mounts_rename_over_one_message_one_after_the_other(m: Mounted, p: Program) -> None:
    async with m.again() as again:
        q = again.program()
        await p.write("INBOX/.p", b"from p\n")
        await q.write("INBOX/.q", b"from q\n")
        await p.rename("INBOX/.p", "INBOX/1.eml")
        await q.rename("INBOX/.q", "INBOX/1.eml")
        await m.follow()
        assert await p.texts() == await q.texts() == {"1.eml": b"from q\n"}


async def test_a_removal_of_what_another_mount_has_removed_says_so(m: Mounted, p: Program) -> None:
    async with m.again() as again:
        await again.program().unlink("INBOX/1.eml")
    await m.follow()
    with raises(errno.ENOENT):
        await p.unlink("INBOX/1.eml")


async def test_a_rename_of_what_somebody_else_has_expunged_says_so(m: Mounted, p: Program) -> None:
    inbox = await p.inode("INBOX")
    await m.others.expunge("INBOX", [1])
    with raises(errno.ENOENT):
        await p.rw.rename(inbox, b"1.eml", inbox, b"letter", 0, p.pid)
    assert await m.stored() == []


async def test_a_link_of_what_another_mount_has_replaced_copies_what_replaced_it(
    m: Mounted, p: Program
) -> None:
    inode = await p.inode("INBOX/1.eml")
    async with m.again() as again:
        await again.program().write("INBOX/1.eml", TWO)
    await m.follow()
    await p.rw.link(inode, await p.inode("Work"), b"copy", p.pid)
    assert await p.texts("Work") == {"copy": TWO}


async def test_the_old_inode_of_what_another_mount_has_replaced_leads_to_it(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    async with m.again() as again:
        await again.program().write("INBOX/1.eml", TWO)
    await m.follow()
    await m.reading.names.know(m.folder())
    assert (await m.vfs.getattr(inode)).size == len(TWO)
    opened = await m.vfs.open(inode, os.O_RDONLY, p.pid)
    assert await opened.file.read(100, 0) == TWO
    await opened.file.release()


async def test_names_that_another_mount_gives_are_shown(m: Mounted, p: Program) -> None:
    async with m.again() as again:
        q = again.program()
        await q.write("INBOX/note", TWO)
        await q.rename("INBOX/1.eml", "INBOX/letter")
    await m.follow()
    async with m.again() as third:
        assert await third.program().texts() == {"letter": ONE, "note": TWO}


# -- at the same time --------------------------------------------------------------------------------


async def test_many_files_closed_at_once_are_all_there(m: Mounted, p: Program) -> None:
    files = [(n, await p.create(f"INBOX/n{n}")) for n in range(20)]
    async with trio.open_nursery() as nursery:
        for n, file in files:
            await file.write(b"Subject: %d\n\n" % n)
            nursery.start_soon(file.close)
    assert await p.texts() == {"1.eml": ONE} | {f"n{n}": b"Subject: %d\n\n" % n for n in range(20)}


async def test_many_appends_to_one_file_at_once_are_all_there(m: Mounted) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(m.program().append, "INBOX/1.eml", b"%d\n" % n)
    ((_, text),) = await m.stored()
    assert sorted(text.removeprefix(ONE).split()) == [b"%d" % n for n in range(10)]


async def test_a_rename_while_its_file_is_closed_finds_the_message(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    inbox = await p.inode("INBOX")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.close)
        nursery.start_soon(p.rw.rename, inbox, b"note", inbox, b"other", 0, p.pid)
    assert await p.texts() == {"1.eml": ONE, "other": TWO}


async def test_a_removal_while_its_file_is_closed_removes_it(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    inbox = await p.inode("INBOX")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.close)
        nursery.start_soon(p.rw.unlink, inbox, b"note", p.pid)
    assert (await p.texts(), await m.stored()) == ({"1.eml": ONE}, [(1, ONE)])


async def test_of_many_renames_to_one_name_one_stays(m: Mounted, p: Program) -> None:
    for n in range(6):
        await p.write(f"INBOX/n{n}", b"Subject: %d\n\n" % n)
    async with trio.open_nursery() as nursery:
        for n in range(6):
            nursery.start_soon(p.rename, f"INBOX/n{n}", "INBOX/one")
    assert sorted(await p.names()) == ["1.eml", "one"]
    assert len(await m.stored()) == 2


async def test_many_moves_at_once_lose_and_double_nothing(m: Mounted, p: Program) -> None:
    for n in range(8):
        await p.write(f"INBOX/n{n}", b"Subject: %d\n\n" % n)
    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(p.rename, f"INBOX/n{n}", f"Work/m{n}")
    assert await p.texts("Work") == {f"m{n}": b"Subject: %d\n\n" % n for n in range(8)}
    assert await p.names() == ["1.eml"]


async def test_o_excl_of_many_at_once_succeeds_once(m: Mounted) -> None:
    won: list[int] = []

    async def make(n: int) -> None:
        try:
            file = await m.program().create("INBOX/lock", os.O_EXCL)
        except FileExistsError:
            return
        except OSError as error:
            assert error.errno == errno.EEXIST  # noqa: PT017 - one of several errors that may come
            return
        await file.write(b"Subject: %d\n\n" % n)
        await file.close()
        won.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(8):
            nursery.start_soon(make, n)
    assert len(won) == 1
    assert await m.program().texts() == {"1.eml": ONE, "lock": b"Subject: %d\n\n" % won[0]}


async def test_removals_at_once_are_answered_once_each(m: Mounted, p: Program) -> None:
    await p.write("INBOX/note", TWO)
    inbox, answers = await p.inode("INBOX"), list[int]()

    async def remove() -> None:
        try:
            await p.rw.unlink(inbox, b"note", p.pid)
        except OSError as error:
            answers.append(error.errno or 0)
        else:
            answers.append(0)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(remove)
    assert sorted(answers) == [0, *[errno.ENOENT] * 4]


async def test_a_listing_while_things_change_shows_each_name_once(m: Mounted, p: Program, q: Program) -> None:
    async def churn() -> None:
        for n in range(10):
            await p.write(f"INBOX/n{n}", TWO, received=JULY)
            await p.rename(f"INBOX/n{n}", f"INBOX/m{n}")
            if n % 2:
                await p.unlink(f"INBOX/m{n}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(churn)
        for _ in range(10):
            assert "1.eml" in await q.listed()
            await trio.lowlevel.checkpoint()
    assert await q.names() == ["1.eml", *[f"m{n}" for n in range(0, 10, 2)]]


async def test_a_file_that_is_called_as_its_message_would_be_anyway_costs_no_sync_for_its_name(
    kind: Kind, mock_clock: MockClock
) -> None:
    """Two mounts know it all the same, and a mount after them.  The time stands still: no mount hears of the
    other by itself.
    """
    drivers: list[FaultsDriver] = []

    def counting(driver: Driver) -> Driver:
        drivers.append(FaultsDriver(driver))
        return drivers[0]

    async with mounted(kind, faults=counting) as m, m.again() as other:
        p, q, counts = m.program(), other.program(), drivers[0].counts
        took = []
        for name in ("INBOX/first", "INBOX/second", "INBOX/4.eml", "INBOX/third"):
            before = counts["sync"]
            await p.write(name, TWO)
            took.append(counts["sync"] - before)
        assert took[2] == took[1] - 1 == took[3] - 1
        await q.write("INBOX/4.eml", ONE)  # it has not heard of it: the first one keeps the name
        await q.write("INBOX/4.eml", TWO + ONE)
        await m.follow()
        expected = {"1.eml": ONE, "4.eml": TWO + ONE, "6.eml": ONE, "first": TWO, "second": TWO, "third": TWO}
        assert await p.texts() == expected
        async with m.again() as later:
            assert await later.program().texts() == expected
