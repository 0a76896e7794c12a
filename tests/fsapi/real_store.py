"""``scripts/test-objects URL``: the conformance suite of drivers on a real object store."""

from __future__ import annotations

import sys
from functools import partial
from uuid import uuid4

import trio

from dboxfs.fsapi import Driver, ObjectsDriver
from dboxfs.fsapi.drivers.object_client import connect
from dboxfs.fsapi.testing.conformance import CHECKS, run_check


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
    store = connect(base)
    for info in list(store.list_all("")):
        store.delete(info.key)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(trio.run(main, sys.argv[1]))
