"""``scripts/test-objects URL``: the conformance suite of drivers, and an archive, on a real object store."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from uuid import uuid4

import trio

from dboxfs.fsapi import Driver, ObjectsDriver
from dboxfs.fsapi.drivers.object_client import connect
from dboxfs.fsapi.testing.conformance import CHECKS, run_check
from dboxfs.tools.archive import ArchiveOptions, Repository
from dboxfs.tools.archive.prune import prune
from tests.tools.archive.archives import add, archive, change, make_store, of_archive, of_store


async def archives(url: str) -> bool:
    """Whether three generations of a store, and a prune, show what the store had."""
    objects = connect(url)
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
    store = connect(base)
    for info in list(store.list_all("")):
        store.delete(info.key)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(trio.run(main, sys.argv[1]))
