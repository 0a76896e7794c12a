"""A message that is marked by somebody else while it is moved has these marks where it comes."""

from __future__ import annotations

import pytest

from dboxfs.store import Kind
from dboxfs.store.sdbox.arrival import Arrival
from dboxfs.store.sdbox.saves import SdboxSaves
from dboxfs.store.write import Neighbour, Saved, WriteOptions
from tests.vfs.inside import ONE, Mounted, mounted

SEEN = 0x08

alone_or_not = pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda neighbour: neighbour.value)


def marked_behind(
    monkeypatch: pytest.MonkeyPatch, m: Mounted, *, copy_too: bool = False, times: int = 1
) -> None:
    """As soon as the copy is in Work, the original is marked; *copy_too*: and the copy, otherwise."""
    take = SdboxSaves.take

    async def taken(self: SdboxSaves, name: str, new: list[Arrival]) -> Saved:
        saved = await take(self, name, new)
        if name == "Work":
            await m.others.replace_flags("INBOX", 1, SEEN, ["red"])
            if copy_too:
                await m.others.replace_flags("Work", saved.uids[0], 0, ["blue"])
        return saved

    monkeypatch.setattr(SdboxSaves, "take", taken)


@alone_or_not
async def test_flags_and_keywords_that_are_given_while_a_message_is_moved_move_with_it(
    neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(Kind.SDBOX, WriteOptions(neighbour)) as m:
        marked_behind(monkeypatch, m)
        await m.program().rename("INBOX/1.eml", "Work/note")
        assert (m.uids("INBOX"), await m.stored("Work")) == ([], [(1, ONE)])
        assert await m.flags(1, "Work") == (("\\Seen",), ("red",))


@alone_or_not
async def test_marks_that_a_message_gets_where_it_has_come_stay(
    neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(Kind.SDBOX, WriteOptions(neighbour)) as m:
        marked_behind(monkeypatch, m, copy_too=True)
        await m.program().rename("INBOX/1.eml", "Work/note")
        assert (m.uids("INBOX"), await m.flags(1, "Work")) == ([], ((), ("blue",)))
