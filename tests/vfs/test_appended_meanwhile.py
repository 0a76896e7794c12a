"""Two mounts append to one message: what the one has not read yet of the other's names is not lost."""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dboxfs.store.names import of_mailbox as names_module
from tests.vfs.inside import ONE, Mounted, Program

APPEND = os.O_WRONLY | os.O_APPEND


async def test_an_append_goes_behind_another_mounts_whose_name_is_read_while_it_waits_to_give_its_own(
    m: Mounted, p: Program
) -> None:
    await p.append("INBOX/log", b"one\n")
    async with m.again() as other, trio.open_nursery() as nursery:
        file = await p.open("INBOX/log", APPEND)
        await file.write(b"three\n")
        await other.program().append("INBOX/log", b"two\n")
        await m.follow()
        box = m.folder().mailbox
        assert box is not None
        async with m.name_reader.place(box).lock:
            nursery.start_soon(m.name_reader.look, m.folder())
            await wait_all_tasks_blocked()
            nursery.start_soon(file.close)
            await wait_all_tasks_blocked()
    assert [text for _, text in await m.stored()][1:] == [b"one\ntwo\nthree\n"]


async def test_an_append_goes_behind_another_mounts_that_has_written_the_names_anew(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    await p.append("INBOX/log", b"one\n")
    async with m.again() as other:
        file = await p.open("INBOX/log", APPEND)
        await file.write(b"four\n")
        monkeypatch.setattr(names_module, "NAMES_FOLLOWED", -100)
        for line in (b"two\n", b"three\n"):
            await other.program().append("INBOX/log", line)
        monkeypatch.undo()
        await m.name_reader.look(m.folder())
        assert await p.names() == ["1.eml", "log"]
        await file.close()
        assert await p.texts() == {"1.eml": ONE, "log": b"one\ntwo\nthree\nfour\n"}
