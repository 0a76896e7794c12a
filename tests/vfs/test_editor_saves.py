"""What editors that rename have put aside, and for how long."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from dboxfs.vfs.editor_saves import MOST_REMEMBERED, REMEMBERED_SECONDS, EditorSaves


async def test_only_backups_of_the_name_itself_count(autojump_clock: MockClock) -> None:
    backups = EditorSaves()
    for uid, (old, new) in enumerate(
        [(b"a", b"a~"), (b"b", b"#b#"), (b"c", b"d"), (b"ee", b"e"), (b"f", b"f")]
    ):
        backups.put_aside("INBOX", old, new, uid)
    found = {name: backups.find("INBOX", name) for name in (b"a", b"b", b"c", b"ee", b"f")}
    assert [name for name, aside in found.items() if aside is not None] == [b"a", b"b"]
    assert backups.find("Work", b"a") is None


async def test_five_minutes_and_not_longer(autojump_clock: MockClock) -> None:
    backups = EditorSaves()
    backups.put_aside("INBOX", b"a", b"a~", 7)
    backups.saved("INBOX", 9)
    await trio.sleep(REMEMBERED_SECONDS - 1)
    aside = backups.find("INBOX", b"a")
    assert aside is not None
    assert aside.uid == 7
    assert backups.is_new("INBOX", 9)
    assert not backups.is_new("INBOX", 7)
    await trio.sleep(2)
    assert backups.find("INBOX", b"a") is None
    assert not backups.is_new("INBOX", 9)


async def test_memory_is_bounded() -> None:
    backups = EditorSaves()
    for number in range(3 * MOST_REMEMBERED):
        backups.put_aside("INBOX", b"%d" % number, b"%d~" % number, number)
        backups.saved("INBOX", number)
    assert (len(backups._aside), len(backups._new)) == (MOST_REMEMBERED, MOST_REMEMBERED)
