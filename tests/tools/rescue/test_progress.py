"""A rescue tells how far it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.write import NewMessage
from dboxfs.tools.rescue import Progress, RescueOptions, rescue_store
from tests.tools.check.stores import DRIVERS
from tests.tools.rescue.direct import make


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_rescue_tells_what_it_has_found_and_then_how_many_of_it_are_saved(
    tmp_path: Path, driver: str
) -> None:
    await make(tmp_path / "old", driver, [NewMessage(b"Subject: %d\n\n" % number) for number in range(6)])
    location = parse_location(str(tmp_path / "old"), damaged=True)
    told: list[Progress] = []
    async with FileSystem(ThreadsDriver()) as fs:
        options = RescueOptions(location.kind)
        await rescue_store(fs, location, str(tmp_path / "new"), options, lambda event: None, told.append)
    found = [one for one in told if one.reading]
    saved = [one for one in told if not one.reading]
    assert (found[-1].messages, found[-1].of) == (6, 0)
    assert (saved[-1].messages, saved[-1].of) == (6, 6)
    assert [one.messages for one in saved] == sorted(one.messages for one in saved)
