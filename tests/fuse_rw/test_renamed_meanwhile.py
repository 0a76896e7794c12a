"""Files that are closed while their mailbox is being renamed."""

from __future__ import annotations

import os
import threading
import time

from tests.fuse_rw.rw import JULY, TWO, Writable, both, resynced

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


@both
@resynced
def test_a_program_that_holds_a_directory_and_a_file_goes_on_with_them_while_dovecot_renames_the_mailbox(
    rw: Writable,
) -> None:
    """Each of these calls comes right behind a rename, as on ext4."""
    (rw.work / "note").write_bytes(TWO)
    directory, names = os.open(rw.work, os.O_RDONLY | os.O_DIRECTORY), ["Work"]
    file = os.open("note", os.O_RDONLY, dir_fd=directory)

    def rename() -> None:
        names.append(f"Job{len(names)}")
        rw.account.doveadm("mailbox rename", *names[-2:])

    rename()
    os.setxattr(file, "user.dbox.flags", b"\\Seen")
    rename()
    os.chmod(file, 0o600)
    assert os.pread(file, 1 << 20, 0) == TWO
    rename()
    assert os.getxattr(file, "user.dbox.flags") == b"\\Seen"
    rename()
    os.utime("note", (JULY, JULY), dir_fd=directory)
    rename()
    os.rename("note", "renamed", src_dir_fd=directory, dst_dir_fd=directory)
    rename()
    os.link("renamed", "linked", src_dir_fd=directory, dst_dir_fd=directory)
    rename()
    os.unlink("renamed", dir_fd=directory)
    os.close(file)
    os.close(directory)
    (message,) = rw.account.fetch(names[-1])
    assert (message.text, message.received, message.flags) == (TWO, JULY, "\\Seen")
    assert rw.names(names[-1]) == ["linked"]
