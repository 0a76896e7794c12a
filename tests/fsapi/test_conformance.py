"""Every driver keeps every promise of the conformance suite, and leaves no descriptor open."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.fsapi import Driver, Fault, FaultsDriver, MemoryDriver, ObjectsDriver, ThreadsDriver, UringDriver
from dboxfs.fsapi.drivers.object_client import connect
from dboxfs.fsapi.testing.conformance import CHECKS, Check, check_driver, run_check
from dboxfs.fsapi.types import Capabilities


def memory(tmp_path: Path) -> tuple[Driver, str]:
    driver = MemoryDriver()
    driver.make_dirs("/some/where")
    return driver, "/some/where"


def memory_nowait(tmp_path: Path) -> tuple[Driver, str]:
    driver = MemoryDriver(nowait=True)
    driver.make_dirs("/some/where")
    return driver, "/some/where"


def memory_without_locks(tmp_path: Path) -> tuple[Driver, str]:
    driver = MemoryDriver(capabilities=Capabilities(locks=False, link=False))
    driver.make_dirs("/top")
    return driver, "/top"


def threads(tmp_path: Path) -> tuple[Driver, str]:
    number = next(number for number in itertools.count() if not (tmp_path / str(number)).exists())
    (tmp_path / str(number)).mkdir()
    return ThreadsDriver(4), str(tmp_path / str(number))


def one_thread(tmp_path: Path) -> tuple[Driver, str]:
    _, root = threads(tmp_path)
    return ThreadsDriver(1), root


def faults_off(tmp_path: Path) -> tuple[Driver, str]:
    driver, root = threads(tmp_path)
    return FaultsDriver(driver), root


def faults_nowait(tmp_path: Path) -> tuple[Driver, str]:
    driver, root = threads(tmp_path)
    return FaultsDriver(driver, nowait=True), root


def uring(tmp_path: Path) -> tuple[Driver, str]:
    _, root = threads(tmp_path)
    return UringDriver(4), root


def uring_one_at_a_time(tmp_path: Path) -> tuple[Driver, str]:
    _, root = threads(tmp_path)
    return UringDriver(1, depth=1), root


def uring_faults_off(tmp_path: Path) -> tuple[Driver, str]:
    driver, root = uring(tmp_path)
    return FaultsDriver(driver), root


def uring_faults_nowait(tmp_path: Path) -> tuple[Driver, str]:
    driver, root = uring(tmp_path)
    return FaultsDriver(driver, nowait=True), root


def uring_short_transfers(tmp_path: Path) -> tuple[Driver, str]:
    driver, root = uring(tmp_path)
    return FaultsDriver(driver, [Fault("read", short=700), Fault("append", short=5000)], depth=2), root


def short_transfers(tmp_path: Path) -> tuple[Driver, str]:
    driver, root = memory(tmp_path)
    return FaultsDriver(driver, [Fault("read", short=700), Fault("append", short=5000)], depth=2), root


def objects_in_memory(tmp_path: Path) -> tuple[Driver, str]:
    return ObjectsDriver(lambda: connect("memory://"), 4), "/"


def objects_in_a_directory(tmp_path: Path) -> tuple[Driver, str]:
    _, root = threads(tmp_path)
    return ObjectsDriver(lambda: connect(f"file://{root}/new"), 4), "/"


FACTORIES = (
    memory,
    memory_nowait,
    memory_without_locks,
    threads,
    one_thread,
    faults_off,
    faults_nowait,
    uring,
    uring_one_at_a_time,
    uring_faults_off,
    uring_faults_nowait,
    uring_short_transfers,
    short_transfers,
    objects_in_memory,
    objects_in_a_directory,
)


@pytest.fixture(scope="module", autouse=True)
def _runtime_of_obstore() -> None:
    """Three descriptors that obstore opens at the first request of a process, and keeps."""
    assert list(connect("memory://").list_all("")) == []


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_driver(check: Check, factory: Callable[[Path], tuple[Driver, str]], tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    await run_check(check, lambda: factory(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_check_driver_runs_all_checks(tmp_path: Path) -> None:
    made = []

    def factory() -> tuple[Driver, str]:
        made.append(1)
        return memory(tmp_path)

    await check_driver(factory)
    assert len(made) == len(CHECKS)


async def test_a_driver_that_breaks_a_promise_is_named_with_it(tmp_path: Path) -> None:
    def factory() -> tuple[Driver, str]:
        driver, root = memory(tmp_path)
        return FaultsDriver(driver, [Fault("sync_dir", error=5)]), root

    with pytest.raises(AssertionError, match=r"^read_is_exact: "):
        await check_driver(factory)
