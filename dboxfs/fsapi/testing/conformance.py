"""The conformance suite of drivers: what any driver must do, as one function.

``await check_driver(factory)`` runs every check with a new driver and an empty directory, using nothing but
the public API, and raises :class:`AssertionError` (with the name of the check) for the first promise that
is not kept.  It sleeps nowhere and takes well under a second with a driver that is not slow.

A factory gives a driver that was never started and the path of an empty directory that exists in it::

    async def test_my_driver(tmp_path):
        await check_driver(lambda: (MyDriver(), make_empty_directory(tmp_path)))

What the driver says it can't do (``capabilities``) is checked to fail with EOPNOTSUPP or is left out.
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
"""Every check; each gets a running file system and an empty directory of it."""


async def check_driver(factory: Factory) -> None:
    """Hold a driver to its contract.  A checkpoint; cancelled: the check that runs is given up.

    :raises AssertionError: a promise is not kept; the message begins with the name of the check.
    """
    for check in CHECKS:
        await run_check(check, factory)


async def run_check(check: Check, factory: Factory) -> None:
    """Run one check with a new driver, and look for what it left over."""
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
