"""``scripts/test-objects URL``: the conformance suite of drivers, and archives, on a real object store.

One of the archives is made and read through a proxy that fails every fifth request, where the endpoint is one
of plain HTTP (AWS_ENDPOINT_URL).
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from uuid import uuid4

import trio

from dboxfs.fsapi import Driver, ObjectsDriver
from dboxfs.fsapi.drivers.object_access import Access
from dboxfs.fsapi.drivers.object_client import connect
from dboxfs.fsapi.testing.conformance import CHECKS, run_check
from dboxfs.tools.archive import ArchiveOptions, Repository
from dboxfs.tools.archive.prune import prune
from tests.fsapi.s3_server import FAULTS, PassedOn, endpoint, served
from tests.tools.archive.archives import add, archive, change, make_store, of_archive, of_store


def fails(number: int, method: str, path: str) -> str | None:
    """Every fifth request fails, in one way after the other."""
    return FAULTS[number // 5 % len(FAULTS)] if number % 5 == 1 else None


async def unreliable(url: str) -> bool:
    """:func:`archives`, through a proxy that fails."""
    given = os.environ.get("AWS_ENDPOINT_URL", "")
    if not given.startswith("http://"):
        print("no proxy before this server: nothing fails")
        return True
    with served(PassedOn(given)) as proxy:
        proxy.fault = fails
        os.environ["AWS_ENDPOINT_URL"] = endpoint(proxy)
        try:
            return await archives(url, Access(timeout=1, retries=6))
        finally:
            os.environ["AWS_ENDPOINT_URL"] = given
            print(f"{len(proxy.asked)} requests, of which every fifth failed")


async def archives(url: str, access: Access | None = None) -> bool:
    """Whether three generations of a store, and a prune, show what the store had."""
    objects = connect(url, access)
    with tempfile.TemporaryDirectory() as directory:
        location = await make_store(Path(directory) / "store")
        for number in range(3):
            await archive(location, objects, ArchiveOptions(sealed=2000))
            if await of_archive(objects) != await of_store(location):
                return False
            await (add(location, 90) if number else change(location))
        await trio.to_thread.run_sync(prune, Repository(objects, url), 1, 0)
        newest = await of_archive(objects)
        return len(newest) > 1 and len(list(objects.list_all("generations"))) == 1


async def main(url: str) -> int:
    """Run every check; gives the exit status."""
    failed = 0
    base = f"{url.rstrip('/')}/test-{uuid4().hex}"
    for check in CHECKS:
        below = f"{base}/{check.__name__}"

        def factory(below: str = below) -> tuple[Driver, str]:
            return ObjectsDriver(partial(connect, below)), "/"

        try:
            await run_check(check, factory)
            print(f"ok      {check.__name__}")
        except AssertionError as error:
            failed += 1
            print(f"FAILED  {error}")
    if not await archives(f"{base}/archive"):
        failed += 1
        print("FAILED  an archive shows everything of its store")
    if not await unreliable(f"{base}/unreliable"):
        failed += 1
        print("FAILED  an archive through faults shows everything of its store")
    store = connect(base)
    for info in list(store.list_all("")):
        store.delete(info.key)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(trio.run(main, sys.argv[1]))
