"""What an owner puts among the files of MH programs holds up nobody and takes no memory."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dboxfs.store import Kind
from dboxfs.vfs.views import foreign
from tests.vfs.inside import raises
from tests.vfs.views.inside import InView, mh

PATIENCE = 10.0
"""Seconds until somebody opens the other end of a FIFO, so that who waits for it waits no longer."""


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[InView]:
    """INBOX with one message, writable, and a program's file ``.note``."""
    async with mh(Kind.SDBOX, directory=tmp_path / "foreign") as made:
        await made.p.write("INBOX/.note", b"a note\n")
        yield made


@pytest.fixture
def files(tmp_path: Path, w: InView) -> Path:
    """Where the files of INBOX are."""
    (found,) = (tmp_path / "foreign").iterdir()
    return found


@contextmanager
def nobody_waits_for(fifo: Path) -> Iterator[None]:
    """*fifo* is made, in the place of what was there."""
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    ends: list[int] = []
    timer = threading.Timer(PATIENCE, lambda: ends.append(os.open(fifo, os.O_RDWR)))
    timer.start()
    try:
        yield
        assert timer.is_alive(), f"somebody waited for {fifo.name}"
    finally:
        timer.cancel()
        for end in ends:
            os.close(end)


async def test_a_fifo_in_the_place_of_the_sequences_is_none(w: InView, files: Path) -> None:
    before = await w.p.read("INBOX/.mh_sequences")
    with nobody_waits_for(files / ".mh_sequences"):
        assert await w.p.read("INBOX/.mh_sequences") == before == b"unseen: 1\n"


async def test_a_file_that_a_fifo_took_the_place_of_is_opened_by_nobody_and_keeps_no_descriptor(
    w: InView, files: Path
) -> None:
    inode = await w.p.inode("INBOX/.note")
    before = os.listdir("/proc/self/fd")
    with nobody_waits_for(files / ".note"):
        for flags in (os.O_RDONLY, os.O_RDWR):
            with raises(errno.EINVAL):
                await w.p.vfs.open(inode, flags, pid=1)
        assert not await w.p.exists("INBOX/.note")
    assert os.listdir("/proc/self/fd") == before


async def test_a_file_that_is_too_large_for_the_sequences_is_none(
    w: InView, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "FOREIGN_SMALL", 100)
    text = b"mine: 1\n"
    (files / ".mh_sequences").write_bytes(text)
    assert await w.p.read("INBOX/.mh_sequences") == b"unseen: 1\nmine: 1\n"
    (files / ".mh_sequences").write_bytes(text * 13)
    assert await w.p.read("INBOX/.mh_sequences") == b"unseen: 1\n"
