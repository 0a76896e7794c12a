"""A message that another mount has just replaced is moved and copied, before this mount has heard of it."""

from __future__ import annotations

import pytest

from tests.vfs.inside import ONE, TWO, Mounted, Program


@pytest.mark.parametrize("way", ["move", "move over", "link"])
async def test_a_message_that_another_mount_has_just_replaced_is_moved_and_copied_as_it_is_now(
    m: Mounted, p: Program, way: str, autojump_clock: object
) -> None:
    await p.write("INBOX/note", ONE)
    await p.write("Work/job", ONE)
    inbox, work, note = await p.inode("INBOX"), await p.inode("Work"), await p.inode("INBOX/note")
    async with m.again() as other:
        await other.program().write("INBOX/note", TWO)
        if way == "link":
            await p.rw.link(note, work, b"copy", p.pid)
            assert (await other.program().texts("INBOX"))["note"] == TWO
        else:
            await p.rw.rename(inbox, b"note", work, b"job" if way == "move over" else b"note", 0, p.pid)
    texts = await p.texts("Work")
    expected = {
        "move": {"job": ONE, "note": TWO},
        "move over": {"job": TWO},
        "link": {"job": ONE, "copy": TWO},
    }
    assert texts == expected[way]
