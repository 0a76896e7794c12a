"""Chains: the same operations with the same outcome, whether a worker runs them at once or one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, MemoryDriver, ThreadsDriver, UringDriver, ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.types import Permissions

DRIVERS: list[Callable[[], Driver]] = [
    lambda: ThreadsDriver(2),
    UringDriver,
    lambda: FaultsDriver(ThreadsDriver(2)),
    lambda: FaultsDriver(MemoryDriver()),
]
EVERY = pytest.mark.parametrize("driver", DRIVERS, ids=["threads", "uring", "faults", "memory"])


def saving(path: str, data: bytes) -> Callable[[], Steps[bytes]]:
    """Write a file, and read its first bytes again."""

    def program() -> Steps[bytes]:
        opened = yield ops.Create(path, Permissions())
        try:
            yield ops.Append(opened.fd, (data,))
            yield ops.Sync(opened.fd, len(data))
            start: bytes = yield ops.Read(opened.fd, 3, 0)
        finally:
            yield ops.Close(opened.fd)
        return start

    return program


@EVERY
async def test_a_program_gets_the_answers_and_gives_its_own(
    driver: Callable[[], Driver], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with FileSystem(driver()) as fs:
        path = "/file" if "memory" in request.node.name else str(tmp_path / "file")
        assert await fs.run_chain(saving(path, b"text")) == b"tex"
        with pytest.raises(FileExistsError):
            await fs.run_chain(saving(path, b"other"))
        assert (await fs.stat(path)).st_size == 4


@EVERY
async def test_a_program_can_go_on_after_an_error(driver: Callable[[], Driver], tmp_path: Path) -> None:
    path = str(tmp_path / "nothing")

    def program() -> Steps[str]:
        try:
            yield ops.Stat(path)
        except FileNotFoundError:
            return "missing"
        return "there"

    async with FileSystem(driver()) as fs:
        assert await fs.run_chain(program) == "missing"


@pytest.mark.parametrize("number", range(5))
async def test_a_fault_can_be_put_at_every_step(tmp_path: Path, number: int) -> None:
    kinds = ["create", "append", "sync", "read", "close"]
    driver = FaultsDriver(ThreadsDriver(2), [Fault(kinds[number], 1, error=5)])
    async with FileSystem(driver) as fs:
        with pytest.raises(OSError, match="Input/output error"):
            await fs.run_chain(saving(str(tmp_path / "file"), b"text"))
    begun = [*kinds[: number + 1], "close"] if number else ["create"]
    assert [kind for kind in kinds if driver.counts[kind]] == list(dict.fromkeys(begun))


async def test_a_chain_takes_one_hop(tmp_path: Path) -> None:
    driver = ThreadsDriver(2)
    async with FileSystem(driver) as fs:
        await fs.run_chain(saving(str(tmp_path / "file"), b"text"))
        assert driver.stats()["jobs"] == 1
    assert os.stat(tmp_path / "file").st_size == 4
