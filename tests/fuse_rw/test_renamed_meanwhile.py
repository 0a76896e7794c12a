"""Files that are closed while their mailbox is being renamed."""

from __future__ import annotations

import os
import threading
import time

from tests.fuse_rw.rw import Writable, both, resynced

SECONDS = 2.0


@both
@resynced
def test_a_file_that_is_closed_while_its_mailbox_is_renamed_is_there_under_its_name_or_reports_an_error(
    rw: Writable,
) -> None:
    names = ("Here", "There")
    (rw.mnt / "Here").mkdir()
    saved, refused = dict[str, bytes](), list[str]()
    end = time.monotonic() + SECONDS

    def write() -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            name = f"file{number}"
            text = f"Subject: {name}\n\n".encode()
            try:
                (rw.mnt / names[number % 2] / name).write_bytes(text)
            except OSError:
                refused.append(name)
            else:
                saved[name] = text

    writer = threading.Thread(target=write)
    writer.start()
    renames = 0
    while time.monotonic() < end:
        os.rename(rw.mnt / names[renames % 2], rw.mnt / names[(renames + 1) % 2])
        renames += 1
        time.sleep(0.02)
    writer.join()
    there = rw.mnt / names[renames % 2]
    assert {path.name: path.read_bytes() for path in there.iterdir()} == saved
    assert renames > 3
    assert saved
