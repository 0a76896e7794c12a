"""A single writer's saves into an sdbox: few jobs, and the errors of each are its own."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from dboxfs.errors import NoSuchMailbox
from dboxfs.fsapi import Driver, Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

TEXT = b"Subject: one\n\ntext\n"


@asynccontextmanager
async def writing(root: Path, driver: Driver) -> AsyncIterator[StoreWriter]:
    location = Location(Kind.SDBOX, str(root))
    async with FileSystem(ThreadsDriver(1)) as fs:
        await init_store(fs, location)
    async with FileSystem(driver) as fs:
        writer = StoreWriter(fs, location, root.stat(), WriteOptions(Neighbour.ALONE))
        await writer.save("INBOX", [NewMessage(TEXT)])
        yield writer


async def texts(root: Path) -> list[int]:
    """The uids of a store that is opened now, each of which can be read."""
    async with (
        FileSystem(ThreadsDriver(1)) as fs,
        open_store(fs, Location(Kind.SDBOX, str(root)), follow=False) as store,
    ):
        box = store.folders["INBOX"].mailbox
        assert box is not None
        for uid in box.uids.tolist():
            body = await box.open(uid)
            assert await body.read(body.size, 0) == TEXT
            body.close()
        return list(box.uids.tolist())


async def test_a_save_is_two_jobs_and_four_together_need_no_more_than_one_each_and_two(
    tmp_path: Path,
) -> None:
    driver = ThreadsDriver(4)
    async with writing(tmp_path / "mail", driver) as writer:
        before = driver.stats()["jobs"]
        for _ in range(5):
            await writer.save("INBOX", [NewMessage(TEXT)])
        assert driver.stats()["jobs"] - before == 2 * 5
    assert await texts(tmp_path / "mail") == [1, 2, 3, 4, 5, 6]


async def test_a_file_that_can_not_be_written_fails_its_own_save_and_leaves_nothing(tmp_path: Path) -> None:
    driver = FaultsDriver(ThreadsDriver(2))
    async with writing(tmp_path / "mail", driver) as writer:
        driver.replan([Fault("append", nth=1, error=errno.ENOSPC)])
        failed = list[OSError]()

        async def save() -> None:
            try:
                await writer.save("INBOX", [NewMessage(TEXT)])
            except OSError as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(save)
        assert [error.errno for error in failed] == [errno.ENOSPC]
    assert await texts(tmp_path / "mail") == [1, 2, 3, 4]
    assert not list((tmp_path / "mail").rglob(".temp.*"))


@pytest.mark.parametrize("times", [1, 3])
async def test_a_temporary_name_that_is_taken_is_not_used_and_stays(tmp_path: Path, times: int) -> None:
    driver = FaultsDriver(ThreadsDriver(2))
    async with writing(tmp_path / "mail", driver) as writer:
        taken = [Fault("create", nth=1, path=".temp.", error=errno.EEXIST) for _ in range(times)]
        driver.replan(taken)
        await writer.save("INBOX", [NewMessage(TEXT)])
        assert driver.counts["unlink"] <= 2, "it has removed the other's file"
    assert await texts(tmp_path / "mail") == [1, 2]


async def test_a_mailbox_that_is_gone_is_told_and_is_not_made(tmp_path: Path) -> None:
    async with writing(tmp_path / "mail", ThreadsDriver(2)) as writer:
        with pytest.raises(NoSuchMailbox):
            await writer.save("Gone", [NewMessage(TEXT)])
    assert not (tmp_path / "mail" / "mailboxes" / "Gone").exists()
