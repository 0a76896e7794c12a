"""Many users in one mount: whose mail is where, which store is open, and whose errors are whose."""

from __future__ import annotations

import errno
import os

import pytest
import trio

from dboxfs.fsapi import Driver
from dboxfs.fsapi.drivers.faults import Fault, FaultsDriver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import NewMessage
from dboxfs.vfs.node import ROOT
from dboxfs.vfs.site import stores
from dboxfs.vfs.site.listing import UserDirectory
from dboxfs.vfs.site.stores import SiteLimits
from tests.vfs.inside import ALONE, JULY, TWO, raises
from tests.vfs.site.inside import VMAIL, make_site, site_mounted, text_of

MANY = [f"user{number}" for number in range(8)]


async def test_every_user_s_messages_are_in_the_user_s_directory(kind: Kind) -> None:
    async with site_mounted(MANY, kind) as m:
        p = m.program()
        assert await p.names("/") == sorted(MANY)
        for name in MANY:
            assert await p.names(name) == ["INBOX"]
            assert await p.texts(f"{name}/INBOX") == {"1.eml": text_of(name)}
            assert await p.xattr(f"{name}/INBOX/1.eml", "uid") == "1"


async def test_inode_numbers_are_those_of_the_last_mount_and_no_two_are_the_same() -> None:
    memory = MemoryDriver()
    locations = await make_site(memory, MANY, Kind.MDBOX)
    found = []
    for order in (MANY, MANY[::-1]):
        async with site_mounted(driver=MemoryDriver(tree=memory.tree), locations=locations) as m:
            p = m.program()
            inodes = {}
            for name in order:
                for path in (name, f"{name}/INBOX", f"{name}/INBOX/1.eml", f"{name}/.dboxfs"):
                    inodes[path] = await p.inode(path)
            listed = {name: await p.listed(f"{name}/INBOX") for name in order}
            assert {name: {"1.eml": inodes[f"{name}/INBOX/1.eml"]} for name in order} == listed
            assert await p.listed("/") == {name: inodes[name] for name in order}
        assert len(set(inodes.values())) == len(inodes)
        found.append(inodes)
    assert found[0] == found[1]


async def test_above_a_user_s_directory_is_the_top_and_above_a_mailbox_the_user() -> None:
    async with site_mounted() as m:
        p = m.program()

        async def dots(path: str) -> list[tuple[bytes, int]]:
            directory = await m.site.opendir(await p.inode(path))
            await directory.prepare(0)
            found = [(name, attrs.inode) for _, name, attrs in directory.above(0)][:2]
            m.site.released(directory)
            return found

        ann, inbox = await p.inode("ann"), await p.inode("ann/INBOX")
        assert await dots("ann") == [(b".", ann), (b"..", ROOT)]
        assert await dots("ann/INBOX") == [(b".", inbox), (b"..", ann)]


async def test_a_user_s_messages_are_given_as_blocks_in_the_numbers_of_the_site() -> None:
    async with site_mounted() as m:
        p = m.program()
        for user in ("ann", "bob"):
            directory = await m.site.opendir(await p.inode(f"{user}/INBOX"))
            await directory.prepare(0)
            assert isinstance(directory, UserDirectory)
            (block,) = directory.blocks(0)
            (row,) = block
            assert [row] == list(directory.messages(0))
            assert (row.name, row.inode) == (b"1.eml", await p.inode(f"{user}/INBOX/1.eml"))
            m.site.released(directory)


async def test_a_store_is_opened_when_somebody_enters_it() -> None:
    async with site_mounted() as m:
        p = m.program()
        assert await p.names("/") == ["ann", "bob"]
        assert (await p.stat("ann")).inode == await p.inode("ann")
        assert (await m.site.getattr(await p.inode("bob"))).mode & 0o777 == 0o500
        assert m.open_now == []
        await p.names("ann")
        assert m.open_now == ["ann"]


async def test_a_store_that_nobody_uses_is_closed_and_opens_again(jumping_clock: trio.abc.Clock) -> None:
    async with site_mounted(limits=SiteLimits(idle=60)) as m:
        p = m.program()
        inode = await p.inode("ann/INBOX/1.eml")
        await trio.sleep(30)
        assert m.open_now == ["ann"]
        await trio.sleep(50)
        assert m.open_now == []
        assert (m.users["ann"].above, b"ann", 0) in m.told.entries, "its names are old from now on"
        assert (await m.site.getattr(inode)).size == len(text_of("ann")), "its numbers stay"
        assert await p.read("ann/INBOX/1.eml") == text_of("ann")
        assert m.open_now == ["ann"]


async def test_a_store_with_an_open_file_is_not_closed(jumping_clock: trio.abc.Clock) -> None:
    async with site_mounted(limits=SiteLimits(idle=60)) as m:
        file = await m.program().open("ann/INBOX/1.eml")
        await trio.sleep(70)
        assert m.open_now == ["ann"]
        assert await file.read() == text_of("ann")
        await file.close()
        await trio.sleep(70)
        assert m.open_now == []


async def test_no_more_stores_are_open_than_allowed() -> None:
    async with site_mounted(MANY, limits=SiteLimits(stores=3)) as m:
        p = m.program()
        for name in MANY * 2:
            assert await p.read(f"{name}/INBOX/1.eml") == text_of(name)
            assert len(m.open_now) <= 3
            assert name in m.open_now, "the one that was used least lately went"
        async with trio.open_nursery() as nursery:
            for name in MANY:
                nursery.start_soon(p.read, f"{name}/INBOX/1.eml")
        assert len(m.open_now) <= 3


async def test_who_enters_one_user_after_the_other_finds_the_next_one_open() -> None:
    async with site_mounted(MANY) as m:
        p = m.program()
        await p.stat("user5/INBOX")
        assert m.open_now == ["user5"]
        for name in MANY[:3]:
            assert await p.read(f"{name}/INBOX/1.eml") == text_of(name)
        with trio.fail_after(10):
            while m.open_now != ["user0", "user1", "user2", "user3", "user5"]:
                await trio.sleep(0.01)


async def test_places_are_free_before_somebody_needs_them() -> None:
    async with site_mounted([f"user{number:02}" for number in range(30)], limits=SiteLimits(stores=20)) as m:
        p = m.program()
        for name in list(m.users)[::-1]:
            assert await p.read(f"{name}/INBOX/1.eml") == text_of(name)
        with trio.fail_after(10):
            while len(m.open_now) != 19:
                await trio.sleep(0.01)


async def test_where_all_places_are_taken_a_user_is_refused(
    monkeypatch: pytest.MonkeyPatch, jumping_clock: trio.abc.Clock
) -> None:
    monkeypatch.setattr(stores, "PLACE_SECONDS", 0.5)
    async with site_mounted(limits=SiteLimits(stores=1)) as m:
        p = m.program()
        file = await p.open("ann/INBOX/1.eml")
        with raises(errno.ENFILE):
            await p.names("bob")
        await file.close()
        await trio.sleep(2)
        assert await p.names("bob") == ["INBOX"]


async def test_a_broken_store_is_its_user_s_alone_and_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = MemoryDriver()
    locations = await make_site(memory, MANY, Kind.MDBOX)
    locations["bob"] = Location(Kind.MDBOX, f"{VMAIL}/nothing")
    async with site_mounted(driver=MemoryDriver(tree=memory.tree), locations=locations) as m:
        p = m.program()
        for _ in range(3):
            with raises(errno.EIO):
                await p.names("bob")
            with raises(errno.EIO):
                await m.site.getattr(m.users["bob"].root)
        assert "bob" in await p.names("/")
        for name in MANY:
            assert await p.read(f"{name}/INBOX/1.eml") == text_of(name)
    assert sum("user bob" in record.message for record in caplog.records) == 1


async def test_a_store_that_hangs_holds_up_nobody_else() -> None:
    def hanging(driver: Driver) -> Driver:
        return FaultsDriver(driver, [Fault("*", path="/vmail/0", delay=3600)], depth=10)

    async with site_mounted(MANY, faults=hanging) as m:
        p = m.program()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(p.names, "user0")
            for name in MANY[1:] * 3:
                assert await p.read(f"{name}/INBOX/1.eml") == text_of(name)
            assert m.open_now == MANY[1:]
            nursery.cancel_scope.cancel()


async def test_between_users_nothing_is_renamed_or_linked(kind: Kind) -> None:
    async with site_mounted(kind=kind, write=ALONE) as m:
        p = m.program()
        for change in (p.rename, p.link):
            with raises(errno.EXDEV):
                await change("ann/INBOX/1.eml", "bob/INBOX/note")
        for where in ("ann", "new"):
            with raises(errno.EPERM):
                await p.rename("ann/INBOX", where)
        with raises(errno.EPERM):
            await p.mkdir("new")
        with raises(errno.EPERM):
            await p.rmdir("ann")
        assert await p.texts("ann/INBOX") == {"1.eml": text_of("ann")}
        assert await p.names("bob/INBOX") == ["1.eml"]


async def test_what_is_written_is_the_user_s_and_stays_over_a_close(
    kind: Kind, jumping_clock: trio.abc.Clock
) -> None:
    async with site_mounted(kind=kind, write=ALONE, limits=SiteLimits(idle=60)) as m:
        p = m.program()
        written = await p.write("ann/INBOX/note", TWO, received=JULY)
        await p.mkdir("ann/Work")
        await p.rename("ann/INBOX/1.eml", "ann/Work/moved")
        await p.set_xattr("ann/INBOX/note", "flags", "\\Seen")
        await trio.sleep(70)
        assert m.open_now == []
        assert await p.inode("ann/INBOX/note") == written
        assert await p.texts("ann/INBOX") == {"note": TWO}
        assert await p.texts("ann/Work") == {"moved": text_of("ann")}
        assert await p.xattr("ann/INBOX/note", "flags") == "\\Seen"
        assert await p.texts("bob/INBOX") == {"1.eml": text_of("bob")}


async def test_a_temporary_keeps_its_store_open(jumping_clock: trio.abc.Clock) -> None:
    async with site_mounted(write=ALONE, limits=SiteLimits(idle=60)) as m:
        p = m.program()
        await p.write("ann/INBOX/.note.x", TWO)
        await trio.sleep(70)
        assert m.open_now == ["ann"]
        await p.rename("ann/INBOX/.note.x", "ann/INBOX/note")
        assert await p.read("ann/INBOX/note") == TWO
        await trio.sleep(70)
        assert m.open_now == []


async def test_a_draft_s_number_means_nothing_after_its_store_was_closed(
    jumping_clock: trio.abc.Clock,
) -> None:
    async with site_mounted(write=ALONE, limits=SiteLimits(idle=60)) as m:
        p = m.program()
        file = await p.create("ann/INBOX/note")
        await file.write(TWO)
        draft = file.inode
        await file.close()
        await trio.sleep(70)
        await p.create("bob/INBOX/other")
        with raises(errno.ESTALE):
            await m.site.getattr(draft)


async def test_what_others_do_while_a_store_is_closed_is_seen(jumping_clock: trio.abc.Clock) -> None:
    async with site_mounted(limits=SiteLimits(idle=60)) as m:
        p = m.program()
        await p.names("ann/INBOX")
        await trio.sleep(70)
        others = await m.others("ann")
        await others.save("INBOX", [NewMessage(TWO, JULY)])
        await others.expunge("INBOX", [1])
        assert await p.texts("ann/INBOX") == {"2.eml": TWO}


async def test_users_come_and_go(jumping_clock: trio.abc.Clock) -> None:
    memory = MemoryDriver()
    locations = await make_site(memory, ["ann", "bob", "eve"], Kind.SDBOX)
    late = {"eve": locations.pop("eve")}
    async with site_mounted(driver=MemoryDriver(tree=memory.tree), locations=locations) as m:
        p = m.program()
        assert await p.names("/") == ["ann", "bob"]
        ann = await p.inode("ann")
        await trio.sleep(5)
        m.source.locations |= late
        assert await p.texts("eve/INBOX") == {"1.eml": text_of("eve")}, "a name that is missing is asked for"
        del m.source.locations["bob"]
        await trio.sleep(100)
        assert await p.names("/") == ["ann", "eve"]
        assert (ROOT, b"bob", 0) in m.told.entries
        with raises(errno.ENOENT):
            await p.names("bob")
        assert await p.inode("ann") == ann


async def test_with_domains_each_has_a_directory() -> None:
    names = ["ann@a.example", "bob@a.example", "ann@b.example", "root", "a.example"]
    async with site_mounted(names, by_domain=True) as m:
        p = m.program()
        assert await p.names("/") == ["a.example", "a.example@", "b.example", "root"]
        assert await p.names("a.example") == ["ann", "bob"]
        for path, name in (
            ("a.example/ann", "ann@a.example"), ("b.example/ann", "ann@b.example"), ("root", "root"),
            ("a.example@", "a.example"),
        ):  # fmt: skip
            assert await p.read(f"{path}/INBOX/1.eml") == text_of(name)
        paths = ("a.example", "b.example", "a.example/ann", "b.example/ann")
        assert len({await p.inode(path) for path in paths}) == len(paths)


ODD = [
    *("a/b", "..", ".", ".dboxfs", "new\nline", "x" * 200, "ä" * 200, "50%", "%2F", "sp ace", "\udcff"),
    *("../ann", "x" * 300, "x" * 299 + "y"),
]


async def test_any_name_is_one_directory(kind: Kind) -> None:
    async with site_mounted(["ann", *ODD], kind) as m:
        p = m.program()
        names = await p.names("/")
        assert len(names) == len(ODD) + 1
        shown = {user.name: os.fsdecode(user.shown) for user in m.users.values()}
        assert sorted(shown.values()) == names
        for name in ODD:
            assert "/" not in shown[name]
            assert shown[name] not in (".", "..", ".dboxfs")
            assert len(shown[name].encode("utf-8", "surrogateescape")) <= 255
            assert shown[name].isprintable()
            assert await p.texts(f"{shown[name]}/INBOX") == {"1.eml": text_of(name)}


async def test_through_dots_and_the_control_directory_nobody_gets_anywhere_else() -> None:
    async with site_mounted() as m:
        for parent in (ROOT, await m.program().inode("ann"), await m.program().inode("ann/INBOX")):
            for name in (b"..", b".", b"bob/INBOX", b"../bob", b""):
                with raises(errno.ENOENT):
                    await m.site.lookup(parent, name)


async def test_dropping_all_caches_reads_the_open_stores_anew_and_opens_none(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async with site_mounted(["ann", "bob", "eve"], kind) as m:
        p = m.program()
        for name in ("ann", "bob"):
            assert await p.xattr(f"{name}/INBOX/1.eml", "uid") == "1"
        m.source.locations["zoe"] = m.source.locations.pop("eve")
        bob = await m.others("bob")
        await bob.disk.fs.rename(f"{VMAIL}/1", f"{VMAIL}/away")
        await m.serving.drop_caches()
        assert m.open_now == ["ann", "bob"]
        for name in m.open_now:
            store = m.users[name].store
            assert store is not None
            assert store.served.reading.store.records.stats()["drops"] == 1
        assert await p.names("/") == ["ann", "bob", "zoe"]
        assert await p.texts("ann/INBOX") == {"1.eml": text_of("ann")}
        (line,) = [one.message for one in caplog.records if "can't be read again" in one.message]
        assert line.startswith("user bob: the store can't be read again: ")
        m.serving.resize_table(64_000)
        limits = [
            user.store.served.reading.store.records.stats()["limit"]
            for user in m.users.values()
            if user.store
        ]
        assert limits == [2000, 2000]
