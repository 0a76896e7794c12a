"""Tenants of one driver: what one of them takes of it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.faults import Fault, FaultsDriver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.drivers.tenant import TenantDriver


def memory() -> MemoryDriver:
    driver = MemoryDriver()
    for name in ("slow", "fast"):
        driver.make_dirs(f"/{name}")
    return driver


async def test_a_tenant_that_hangs_takes_its_share_of_the_driver_and_no_more() -> None:
    faults = FaultsDriver(memory(), [Fault("*", path="/slow", delay=3600)], depth=10)
    async with (
        FileSystem(faults) as shared,
        shared.sharing(TenantDriver(faults, depth=3)) as slow,
        shared.sharing(TenantDriver(faults, depth=3)) as fast,
        trio.open_nursery() as nursery,
    ):
        for _ in range(50):
            nursery.start_soon(slow.stat, "/slow")
        await trio.testing.wait_all_tasks_blocked()
        assert (slow.stats()["driver_in_flight"], slow.stats()["driver_queue"]) == (3, 47)
        for _ in range(50):
            assert (await fast.stat("/fast")).st_mode
        nursery.cancel_scope.cancel()


async def test_what_waits_and_is_cancelled_never_runs() -> None:
    driver = memory()
    faults = FaultsDriver(driver, [Fault("stat", path="/slow", delay=0.2)])
    async with FileSystem(faults) as shared:
        async with shared.sharing(TenantDriver(faults, depth=1)) as fs, trio.open_nursery() as nursery:
            nursery.start_soon(fs.stat, "/slow")
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0):
                await fs.mkdir("/fast/new")
        with pytest.raises(FileNotFoundError):
            await shared.stat("/fast/new")


async def test_cache_and_limits_are_shared_counters_are_not() -> None:
    driver = memory()
    async with FileSystem(driver, readahead=4096) as shared:
        async with shared.sharing(TenantDriver(driver)) as fs:
            assert fs.cache is shared.cache
            assert fs.limits == shared.limits
            await fs.stat("/fast")
            assert (fs.stats()["driver_jobs"], fs.stats()["locks"]) == (1, 0)
        await shared.stat("/fast")
