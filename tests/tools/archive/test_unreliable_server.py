"""An archive on a server that fails: whole, or one error says that it is not and the next run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from dboxfs.cli.main import main
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.object_access import Access
from dboxfs.fsapi.drivers.object_client import connect
from dboxfs.store import open_store
from dboxfs.tools.archive import ArchiveOptions, ArchiveView
from tests.fsapi.s3_server import FAULTS, FaultyServer
from tests.tools.archive.archives import archive, make_store, of_archive, of_store, shown

URL = "s3://bucket/mail"
SMALL = ArchiveOptions(sealed=2000)
"""Several message files."""


async def test_an_archive_through_faults_of_every_kind_is_the_store(
    tmp_path: Path, server: FaultyServer
) -> None:
    location = await make_store(tmp_path / "store")
    server.fault = lambda number, method, path: FAULTS[number // 5 % len(FAULTS)] if number % 5 == 1 else None
    objects = connect(URL, Access(timeout=0.15, retries=6))
    done = await archive(location, objects, SMALL)
    assert (done.new, done.failed, done.told) == (True, [], [])
    assert await of_archive(objects) == await of_store(location)
    assert len(server.asked) > 5 * len(FAULTS), "each of them has happened"


async def test_a_mount_outlives_its_server(tmp_path: Path, server: FaultyServer) -> None:
    """Messages that can't be read are an error each, in bounded time; they are there when the server is."""
    location = await make_store(tmp_path / "store")
    await archive(location, connect(URL))
    whole = await of_store(location)
    view = ArchiveView(URL, None, Access(timeout=0.15, retries=1))
    async with (
        FileSystem(view.driver(2)) as fs,
        open_store(fs, view.location(), follow=False, cache_dir=view.cache_dir) as store,
    ):
        for fault in ("503", "stall", "cut"):
            server.asked.clear()
            server.fault = lambda number, method, path, fault=fault: fault  # type: ignore[misc]
            with pytest.raises(OSError, match=r"answers 503|no answer in time|middle of the answer"):
                await shown(store)
            assert 2 <= len(server.asked) <= 8
        server.fault = lambda number, method, path: None
        assert await shown(store) == whole


@pytest.mark.parametrize("fault", ["503", "lost"])
def test_a_run_that_its_server_ends_says_so_in_one_line_and_the_next_one_goes_on(
    tmp_path: Path, server: FaultyServer, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    location = trio.run(make_store, tmp_path / "store")
    words = ["archive", location.root, URL, "--request-retries", "0", "--request-timeout", "5"]
    server.fault = lambda number, method, path: fault if method == "PUT" and "/data/" in path else None
    status = main(words)
    told = capsys.readouterr().err
    if fault == "503":
        assert status == 1
        assert told.count("\n") == 1
        assert "the server answers 503 (SlowDown)" in told
        assert not any("/generations/" in key for key in server.bucket)
    else:  # a create that has happened is found
        assert (status, told) == (0, "")
    server.fault = lambda number, method, path: None
    assert main(words) == 0
    assert main(["check", URL]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
