"""A message is replaced by another mount, of which this one has not heard."""

from __future__ import annotations

from tests.vfs.inside import ONE, TWO, Mounted, Program


async def test_a_name_whose_message_another_mount_has_just_replaced_is_gone_when_unlink_answers(
    m: Mounted, p: Program
) -> None:
    await p.write("INBOX/note", ONE)
    async with m.again() as other:
        await other.program().write("INBOX/note", TWO)
        await p.unlink("INBOX/note")
        assert [text for _, text in await m.stored()] == [ONE]
        assert not await p.exists("INBOX/note")


async def test_a_name_whose_message_somebody_else_has_just_removed_is_gone_without_an_error(
    m: Mounted, p: Program
) -> None:
    await p.write("INBOX/note", TWO)
    async with m.again() as other:
        await other.program().unlink("INBOX/note")
        await p.unlink("INBOX/note")
        assert [text for _, text in await m.stored()] == [ONE]
