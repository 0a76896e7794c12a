"""Extended attributes of messages, files that are being written, and directories."""

from __future__ import annotations

import errno
import time

import pytest

from dboxfs.store import open_store
from dboxfs.store.attrs import Uids
from dboxfs.store.backend import OpenRecord, Scanned
from dboxfs.store.mailbox import FLAG_NAMES
from dboxfs.store.write import NewMessage
from dboxfs.vfs import xattrs
from tests.vfs.inside import ONE, TWO, Mounted, Program, raises


@pytest.mark.parametrize(
    ("name", "value"), [("uid", "1"), ("flags", ""), ("keywords", ""), ("received", "2023-07-10T14:40:00Z")]
)
async def test_what_a_message_says_of_itself(m: Mounted, p: Program, name: str, value: str) -> None:
    assert await p.xattr("INBOX/1.eml", name) == value


async def test_the_guid_is_that_of_the_message(m: Mounted, p: Program) -> None:
    box = m.folder().mailbox
    assert box is not None
    guid = (await box.details(1)).metadata.guid
    assert guid is not None
    assert await p.xattr("INBOX/1.eml", "guid") == guid.decode()


async def test_what_a_mailbox_says_of_itself(m: Mounted, p: Program) -> None:
    assert await p.xattr("INBOX", "mailbox") == "INBOX"
    assert [await p.xattr("INBOX", name) for name in ("messages", "unseen", "uidnext")] == ["1", "1", "2"]
    await p.write("INBOX/note", TWO)
    await p.set_xattr("INBOX/note", "flags", "\\Seen")
    assert [await p.xattr("INBOX", name) for name in ("messages", "unseen", "uidnext")] == ["2", "1", "3"]


async def test_the_full_name_has_its_parts_joined(m: Mounted, p: Program) -> None:
    await p.mkdir("Work/Sub")
    assert await p.xattr("Work/Sub", "mailbox") == "Work/Sub"


@pytest.mark.parametrize("path", ["INBOX/1.eml", "INBOX", ""])
async def test_what_is_listed_can_be_read(m: Mounted, p: Program, path: str) -> None:
    inode = await p.inode(path)
    names = await m.vfs.listxattr(inode)
    for name in names:
        await m.vfs.getxattr(inode, name)
    assert bool(names) == bool(path)


async def test_attributes_that_can_be_set_are_listed_before_those_that_only_inform(
    m: Mounted, p: Program
) -> None:
    names = [
        name.decode().removeprefix("user.dbox.")
        for name in await m.vfs.listxattr(await p.inode("INBOX/1.eml"))
    ]
    assert names[:6] == ["flags", "keywords", "guid", "saved", "received", "uid"]
    assert names[-3:] == ["virtual_size", "modseq", "location"]
    assert await m.vfs.listxattr(await p.inode("Work")) == [
        b"user.dbox." + name
        for name in (
            b"subscribed", b"mailbox", b"uidvalidity", b"guid",
            b"uidnext", b"messages", b"unseen", b"highestmodseq",
        )
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["INBOX/1.eml", "INBOX", "", ".dboxfs", ".dboxfs/stats.json"])
@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"user.dbox.nothing", errno.ENODATA),
        (b"user.other", errno.ENODATA),
        (b"security.capability", errno.EOPNOTSUPP),
        (b"system.posix_acl_access", errno.EOPNOTSUPP),
        (b"trusted.x", errno.EOPNOTSUPP),
    ],
)
async def test_a_name_that_is_none_says_so(
    m: Mounted, p: Program, path: str, name: bytes, number: int
) -> None:
    with raises(number):
        await m.vfs.getxattr(await p.inode(path), name)


@pytest.mark.parametrize("flag", [name for _, name in FLAG_NAMES])
async def test_each_flag_can_be_set_and_taken_away(m: Mounted, p: Program, flag: str) -> None:
    await p.set_xattr("INBOX/1.eml", "flags", flag.lower())
    assert await p.xattr("INBOX/1.eml", "flags") == flag
    assert await m.flags(1) == ((flag,), ())
    await m.vfs.removexattr(await p.inode("INBOX/1.eml"), b"user.dbox.flags")
    assert await m.flags(1) == ((), ())


async def test_flags_are_exactly_those_that_are_set(m: Mounted, p: Program) -> None:
    await p.set_xattr("INBOX/1.eml", "flags", "\\Seen \\Flagged")
    await p.set_xattr("INBOX/1.eml", "keywords", "a b")
    await p.set_xattr("INBOX/1.eml", "flags", "\\Draft")
    assert await m.flags(1) == (("\\Draft",), ("a", "b")), "keywords stay"
    await p.set_xattr("INBOX/1.eml", "keywords", "b  c")
    assert await m.flags(1) == (("\\Draft",), ("b", "c")), "flags stay"
    assert await m.stored() == [(1, ONE)], "it is no replacement"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flags", b"\\Nothing"),
        ("flags", b"Seen"),
        ("flags", b"\\Recent"),
        ("flags", b"\xff"),
        ("keywords", b"\xff"),
        ("keywords", b"\\Seen"),
        ("nothing", b"x"),
        ("", b"x"),
    ],
)
async def test_a_value_that_can_be_none_changes_nothing(
    m: Mounted, p: Program, name: str, value: bytes
) -> None:
    inode = await p.inode("INBOX/1.eml")
    await p.set_xattr("INBOX/1.eml", "flags", "\\Seen")
    with raises(errno.EINVAL):
        await m.vfs.setxattr(inode, b"user.dbox." + name.encode(), value)
    assert await m.flags(1) == (("\\Seen",), ())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uid", b"7"),
        ("guid", b"0123"),
        ("saved", b"2001-02-03T04:05:06Z"),
        ("virtual_size", b"7"),
        ("modseq", b"77777"),
        ("location", b"elsewhere"),
        ("pop3_uidl", b"x"),
        ("orig_mailbox", b"x"),
    ],
)
async def test_what_a_message_is_cannot_be_set(m: Mounted, p: Program, name: str, value: bytes) -> None:
    inode = await p.inode("INBOX/1.eml")
    with raises(errno.EPERM):
        await m.vfs.setxattr(inode, b"user.dbox." + name.encode(), value)
    with raises(errno.EPERM):
        await m.vfs.removexattr(inode, b"user.dbox." + name.encode())
    assert await m.stored() == [(1, ONE)]


@pytest.mark.parametrize("name", ["uid", "guid", "received", "saved", "virtual_size", "location"])
async def test_the_value_that_it_has_is_accepted_and_changes_nothing(
    m: Mounted, p: Program, name: str
) -> None:
    value = await p.xattr("INBOX/1.eml", name)
    await p.set_xattr("INBOX/1.eml", name, value)
    assert (await p.xattr("INBOX/1.eml", name), await m.stored()) == (value, [(1, ONE)])


async def test_other_namespaces_cannot_be_set(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    with raises(errno.EOPNOTSUPP):
        await m.vfs.setxattr(inode, b"security.selinux", b"x")
    with raises(errno.EINVAL):
        await m.vfs.setxattr(inode, b"user.other", b"x")
    with raises(errno.EOPNOTSUPP):
        await m.vfs.removexattr(inode, b"trusted.x")
    with raises(errno.ENODATA):
        await m.vfs.removexattr(inode, b"user.other")


async def test_a_new_file_has_the_flags_it_will_have(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    assert await m.vfs.listxattr(file.inode) == []
    await p.set_xattr("INBOX/note", "flags", "\\Seen \\Answered")
    await p.set_xattr("INBOX/note", "keywords", "one two")
    assert await m.vfs.listxattr(file.inode) == [b"user.dbox.flags", b"user.dbox.keywords"]
    assert await p.xattr("INBOX/note", "flags") == "\\Answered \\Seen"
    assert await p.xattr("INBOX/note", "keywords") == "one two"
    await file.close()
    assert await m.flags(2) == (("\\Answered", "\\Seen"), ("one", "two"))


@pytest.mark.parametrize(("name", "value"), [("flags", "\\Nothing"), ("keywords", "\\Seen")])
async def test_a_new_file_refuses_what_no_message_can_have(
    m: Mounted, p: Program, name: str, value: str
) -> None:
    file = await p.create("INBOX/note")
    await file.write(TWO)
    with raises(errno.EINVAL):
        await p.set_xattr("INBOX/note", name, value)
    for word in ("uid", "guid", "flags"):
        with raises(errno.ENODATA):
            await p.xattr("INBOX/note", word)
    await file.close()


@pytest.mark.parametrize("path", ["INBOX", "Work"])
async def test_a_mailbox_is_subscribed_to_and_no_more(m: Mounted, p: Program, path: str) -> None:
    for value in ("1", "0", "1"):
        await p.set_xattr(path, "subscribed", value)
        assert await p.xattr(path, "subscribed") == value
    for wrong in ("", "2", "yes"):
        with raises(errno.EINVAL):
            await p.set_xattr(path, "subscribed", wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [("messages", "77"), ("mailbox", "Else"), ("guid", "ab" * 16), ("uidvalidity", "77"), ("unseen", "77")],
)
async def test_what_a_mailbox_with_messages_is_cannot_be_set(
    m: Mounted, p: Program, name: str, value: str
) -> None:
    before = await p.xattr("INBOX", name)
    with raises(errno.EPERM):
        await p.set_xattr("INBOX", name, value)
    assert await p.xattr("INBOX", name) == before


@pytest.mark.parametrize("path", ["", ".dboxfs"])
async def test_the_root_has_no_attributes_to_set(m: Mounted, p: Program, path: str) -> None:
    with raises(errno.EPERM, errno.ENOENT):
        await p.set_xattr(path, "subscribed", "1")
    with raises(errno.ENODATA):
        await p.xattr(path, "mailbox")


async def test_flags_of_a_replaced_message_are_those_of_what_replaced_it(m: Mounted, p: Program) -> None:
    old = await p.inode("INBOX/1.eml")
    await p.write("INBOX/1.eml", TWO)
    await m.vfs.setxattr(old, b"user.dbox.flags", b"\\Seen")
    assert await m.flags(2) == (("\\Seen",), ())
    assert await m.vfs.getxattr(old, b"user.dbox.uid") == b"2"


async def test_a_directory_that_is_copied_with_its_attributes_is_another_mailbox(
    m: Mounted, p: Program
) -> None:
    guid, validity = await p.xattr("INBOX", "guid"), await p.xattr("INBOX", "uidvalidity")
    await p.mkdir("Copy")
    await p.set_xattr("Copy", "guid", guid)
    await p.set_xattr("Copy", "uidvalidity", validity)
    async with open_store(m.fs, m.location, follow=False) as fresh:
        first, second = fresh.folders["INBOX"].mailbox, fresh.folders["Copy"].mailbox
        assert first is not None
        assert second is not None
        assert first.guid != second.guid
        assert str(second.uid_validity) == validity


async def values(m: Mounted, inode: int) -> dict[bytes, bytes]:
    """As ``getfattr -d`` reads them: the names, and then each of them."""
    return {name: await m.vfs.getxattr(inode, name) for name in await m.vfs.listxattr(inode)}


async def test_all_attributes_of_a_message_take_one_look_at_its_record(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode, box = await p.inode("INBOX/1.eml"), m.folder().mailbox
    assert box is not None
    first = await values(m, inode)
    monkeypatch.setattr(box, "details", None)
    monkeypatch.setattr(box, "facts_of", None)
    assert await values(m, inode) == first


async def test_a_change_shows_at_once_in_attributes_that_were_just_read(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    before = await values(m, inode)
    await p.set_xattr("INBOX/1.eml", "flags", "\\Flagged")
    assert (await values(m, inode))[b"user.dbox.flags"] == b"\\Flagged"
    async with m.again() as other:
        await other.program().set_xattr("INBOX/1.eml", "keywords", "seen-elsewhere")
    await m.follow()
    after = await values(m, inode)
    assert after[b"user.dbox.keywords"] == b"seen-elsewhere"
    assert int(after[b"user.dbox.modseq"]) > int(before[b"user.dbox.modseq"])


async def test_what_was_seen_of_a_message_is_not_shown_for_one_that_is_gone(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    await values(m, inode)
    await m.others.expunge("INBOX", [1])
    await m.follow()
    with raises(errno.ESTALE):
        await m.vfs.listxattr(inode)
    with raises(errno.ESTALE):
        await m.vfs.getxattr(inode, b"user.dbox.uid")


async def test_what_was_seen_is_kept_for_a_moment_and_for_few(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    await m.others.save("INBOX", [NewMessage(TWO) for _ in range(xattrs.MOST_SEEN)])
    await m.follow()
    looks, base = xattrs.Looks(m.reading.inodes), m.reading.inodes.of(m.folder())
    box = m.folder().mailbox
    assert box is not None
    for uid in m.uids():
        await box.facts_of(uid)
    for uid in m.uids():
        await looks.take(base | uid, box, uid)
    assert [uid for uid in m.uids() if looks.get(base | uid) is None] == [1]
    monkeypatch.setattr(time, "monotonic", lambda: time.monotonic_ns() / 1e9 + xattrs.LOOK_SECONDS)
    assert [uid for uid in m.uids() if looks.get(base | uid) is not None] == []


async def test_the_records_of_messages_that_are_asked_in_order_are_read_together_and_say_the_same(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    await m.others.save("INBOX", [NewMessage(b"Subject: %d\n\n" % n) for n in range(100)])
    await m.follow()
    box, base = m.folder().mailbox, m.reading.inodes.of(m.folder())
    assert box is not None
    await box.scan()
    alone, opening = [], box.files.open

    async def counted(uid: int) -> OpenRecord:
        alone.append(uid)
        return await opening(uid)

    monkeypatch.setattr(box.files, "open", counted)
    for uid in m.uids():
        await values(m, base | uid)
    assert len(alone) <= 2
    for uid in m.uids()[::9]:
        record = await opening(uid)
        details = await box.details(uid)
        assert details.metadata == record.record.metadata
        assert details.location == box.files.where(record.path, record.record)
        record.close()


@pytest.mark.parametrize("limit", [1, 10, 31, 32, 50, 300])
async def test_a_walk_reads_no_record_twice_however_few_are_kept(
    m: Mounted, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    await m.others.save("INBOX", [NewMessage(b"Subject: %d\n\n" % n) for n in range(100)])
    async with open_store(m.fs, m.location, follow=False, table_size=limit) as store:
        box = store.folders["INBOX"].mailbox
        assert box is not None
        read: list[int] = []
        opening, scanning = box.files.open, box.files.scan

        async def opened(uid: int) -> OpenRecord:
            read.append(uid)
            return await opening(uid)

        async def scanned(uids: Uids) -> list[Scanned]:
            read.extend(uids.tolist())
            return await scanning(uids)

        monkeypatch.setattr(box.files, "open", opened)
        monkeypatch.setattr(box.files, "scan", scanned)
        for uid in box.uids.tolist():
            await box.details(uid)
        assert sorted(read) == box.uids.tolist()
        assert store.records.stats()["entries"] == min(limit, len(read))
