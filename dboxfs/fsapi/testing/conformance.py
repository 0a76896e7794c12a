"""The conformance suite of drivers: all promises of a driver, checked by one function.

``await check_driver(factory)`` runs every check with a new driver and an empty directory, using only the
public API, and raises :class:`AssertionError` (with the name of the check) for the first promise that is not
kept.  It never sleeps, and takes well under a second with a driver that is not slow.

A factory gives a driver that was never started and the path of an empty directory that exists in it::

    async def test_my_driver(tmp_path):
        await check_driver(lambda: (MyDriver(), make_empty_directory(tmp_path)))

A feature that the driver doesn't have (``capabilities``) must fail with EOPNOTSUPP, or is not checked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.filesystem import FileSystem
from dboxfs.fsapi.testing import names as conformance_names
from dboxfs.fsapi.testing import reading as conformance_reading
from dboxfs.fsapi.testing import writing as conformance_writing

Factory = Callable[[], tuple[Driver, str]]
Check = Callable[[FileSystem, str], Awaitable[None]]

CHECKS: tuple[Check, ...] = (
    *conformance_reading.CHECKS,
    *conformance_writing.CHECKS,
    *conformance_names.CHECKS,
)
"""Every check; each gets a running file system and the path of an empty directory in it."""


async def check_driver(factory: Factory) -> None:
    """Test a driver against its contract.  A checkpoint; cancelled: the running check is given up.

    :raises AssertionError: a promise is not kept; the message begins with the name of the check.
    """
    for check in CHECKS:
        await run_check(check, factory)


async def run_check(check: Check, factory: Factory) -> None:
    """Run one check with a new driver, and assert that it left no handle, file or operation behind."""
    driver, root = factory()
    name = check.__name__
    async with FileSystem(driver, write_buffer=32 << 10) as fs:
        try:
            await check(fs, root)
            left = [entry.name for entry in await fs.listdir(root) if entry.name.startswith(".temp.")]
        except (AssertionError, OSError) as error:
            raise AssertionError(f"{name}: {error!r}") from error
        open_handles = fs.stats()["open_handles"]
    assert not open_handles, f"{name}: {open_handles} handles were left open"
    assert not left, f"{name}: temporary files were left over: {left}"
    stats = fs.stats()
    for gauge in ("in_flight", "open_handles", "dirty_bytes", "locks", "driver_in_flight"):
        assert not stats.get(gauge), f"{name}: {gauge} is {stats[gauge]} after the end"
