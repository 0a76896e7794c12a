"""A mailbox is renamed by another program while a request about it is carried out: the request succeeds."""

from __future__ import annotations

import os

import pytest

from dboxfs.store.write import StoreWriter
from tests.vfs.inside import ONE, TWO, Mounted, Program


def renamed_behind(monkeypatch: pytest.MonkeyPatch, m: Mounted, change: str, old: str, new: str) -> None:
    """As soon as *change* of a writer is done, the mailbox *old* is called *new*, and the mount knows."""
    real = getattr(StoreWriter, change)

    async def changed(self: StoreWriter, *args: object, **kwargs: object) -> object:
        answer = await real(self, *args, **kwargs)
        if old in m.store.folders:
            await m.others.rename_mailbox(old, new)
            await m.store.refresh_tree()
        return answer

    monkeypatch.setattr(StoreWriter, change, changed)


@pytest.mark.parametrize("over", [False, True], ids=["new", "over"])
async def test_a_message_that_is_moved_is_in_its_target_whatever_that_is_called_by_then(
    m: Mounted, p: Program, over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if over:
        await p.write("Work/note", TWO)
    renamed_behind(monkeypatch, m, "move", "Work", "Job")
    await p.rename("INBOX/1.eml", "Work/note")
    assert (await p.texts("Job"), await p.names("INBOX")) == ({"note": ONE}, [])


async def test_a_message_that_is_moved_has_left_its_source_whatever_that_is_called_by_then(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    await p.write("Work/note", TWO)
    renamed_behind(monkeypatch, m, "move", "Work", "Job")
    await p.rename("Work/note", "INBOX/note")
    assert (await p.texts("INBOX"), await p.names("Job")) == ({"1.eml": ONE, "note": TWO}, [])


async def test_a_copy_is_in_its_target_whatever_that_is_called_by_then(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed_behind(monkeypatch, m, "copy", "Work", "Job")
    await p.link("INBOX/1.eml", "Work/note")
    assert await p.texts("Job") == {"note": ONE}


@pytest.mark.parametrize("change", ["replace_flags", "take_place", "save"])
async def test_whatever_changes_a_message_succeeds_in_a_mailbox_that_is_renamed_meanwhile(
    m: Mounted, p: Program, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("one", ONE), ("two", TWO)):
        await p.write(f"Work/{name}", text)
    file = await p.open("Work/one", os.O_WRONLY | os.O_APPEND)
    await file.write(b"more\n")
    renamed_behind(monkeypatch, m, change, "Work", "Job")
    if change == "replace_flags":
        await p.set_xattr("Work/two", "flags", "\\Seen")
        assert await p.xattr("Job/two", "flags") == "\\Seen"
    elif change == "take_place":
        await p.rename("Work/two", "Work/one")
        assert (await p.texts("Job"))["one"] == TWO
    else:
        await file.flush()
        assert await p.texts("Job") == {"one": ONE + b"more\n", "two": TWO}
    await file.close()


async def test_removals_follow_a_mailbox_that_is_renamed_before_they_are_carried_out(
    m: Mounted, p: Program, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(30):
        await p.write(f"Work/{number}", ONE)
    for number in range(29):
        await p.unlink(f"Work/{number}")
    await m.others.rename_mailbox("Work", "Job")
    await m.vfs.finish()
    assert [text for _, text in await m.stored("Job")] == [ONE]
    assert caplog.text == ""


@pytest.mark.parametrize("way", ["create", "rename", "link"])
async def test_a_mailbox_of_which_only_the_directory_was_seen_takes_messages(
    m: Mounted, p: Program, way: str
) -> None:
    """Another program makes a mailbox in several steps, and the mount looks between two of them."""
    root = m.location.root
    await m.fs.mkdir(f"{root}/mailboxes/New")
    await m.store.refresh_tree()
    assert m.folder("New").mailbox is None
    await m.others.create_mailbox("Other")
    await m.fs.rename(f"{root}/mailboxes/Other/dbox-Mails", f"{root}/mailboxes/New/dbox-Mails")
    if way == "create":
        await p.write("New/note", ONE)
    elif way == "rename":
        await p.rename("INBOX/1.eml", "New/note")
    else:
        await p.link("INBOX/1.eml", "New/note")
    assert await p.texts("New") == {"note": ONE}
