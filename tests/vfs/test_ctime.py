"""A program that compares ctime, as bup does, sees each message whose flags have changed, and no other."""

from __future__ import annotations

from dboxfs.vfs.attrs import NS
from tests.vfs.inside import TWO, Mounted, Program


async def ctimes(p: Program) -> dict[str, int]:
    """As stat(2) has them, and as a listing has them."""
    found = {name: (await p.stat(f"INBOX/{name}")).changed_ns for name in await p.names()}
    directory = await p.vfs.opendir(await p.inode("INBOX"))
    await directory.prepare(0)
    assert {row.name.decode(): row.changed_ns for row in directory.messages(0)} == found
    return found


async def test_flags_and_keywords_change_the_nanoseconds_of_one_message(m: Mounted, p: Program) -> None:
    for number in range(3):
        await p.write(f"INBOX/m{number}", TWO)
    before, inode = await ctimes(p), await p.inode("INBOX/m1")
    m.told.changed.clear()
    await p.set_xattr("INBOX/m1", "flags", "\\Seen")
    changed = await ctimes(p)
    assert inode in m.told.changed, "the kernel has forgotten the attributes"
    assert {name for name in before if before[name] != changed[name]} == {"m1"}
    assert before["m1"] // NS == changed["m1"] // NS
    await p.set_xattr("INBOX/m2", "keywords", "$Label")
    assert (await ctimes(p))["m2"] != before["m2"]
    async with m.again() as again:
        assert await ctimes(again.program()) == await ctimes(p)
    await p.set_xattr("INBOX/m1", "flags", "")
    await p.set_xattr("INBOX/m2", "keywords", "")
    assert await ctimes(p) == before


async def test_what_others_change_is_seen_also_while_the_message_is_open(m: Mounted, p: Program) -> None:
    file, listed = await p.open("INBOX/1.eml"), await p.vfs.opendir(await p.inode("INBOX"))
    await listed.prepare(0)
    before = (await file.stat()).changed_ns
    assert [row.changed_ns for row in listed.messages(0)] == [before]
    m.told.changed.clear()
    await m.others.set_flags("INBOX", [1], add=0x08)
    await m.follow()
    assert file.inode in m.told.changed
    now = (await file.stat()).changed_ns
    assert now != before
    assert [row.changed_ns for row in listed.messages(0)] == [now]
    await p.unlink("INBOX/1.eml")
    assert (await file.stat()).changed_ns // NS == before // NS
    await file.close()
