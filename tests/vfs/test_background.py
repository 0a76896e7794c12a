"""Work in the background of a mount: the mount goes on without it if it fails."""

from __future__ import annotations

import errno
import logging

import pytest
import trio

from dboxfs.errors import StoreBusy
from dboxfs.fsapi.ops import os_error
from dboxfs.vfs.host import spawner


@pytest.mark.expected_log("background work failed")
async def test_what_a_disk_can_do_to_it_is_one_line_and_a_fault_of_the_program_has_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(error: Exception) -> None:
        raise error

    with caplog.at_level(logging.ERROR):
        for error in (os_error(errno.EIO, "/mail/mailboxes"), StoreBusy("/mail: locked"), KeyError("no")):
            async with trio.open_nursery() as nursery:
                spawner(nursery, "user ann: ")(lambda error=error: fails(error))  # type: ignore[misc]
    lines = [(record.getMessage(), record.exc_info is not None) for record in caplog.records]
    assert lines == [
        ("user ann: background work failed: [Errno 5] Input/output error: '/mail/mailboxes'", False),
        ("user ann: background work failed: /mail: locked", False),
        ("user ann: background work failed: KeyError('no')", True),
    ]
