"""What people put files back with does the same in a plain ``-o rw`` mount as on a local file system.

Each program restores a small backup (two messages and one of 2.5 MB, with attributes and dates) once to a
plain directory and once to a mailbox of a store without a Dovecot: same exit status, same bytes, dates, flags
and keywords, each file one message, and nothing behind it that ``dboxfs check`` would name.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.mounts import Mounts, dboxfs

pytestmark = pytest.mark.mount

JULY = 1_689_000_000
LARGE = b"Subject: large\n\n" + b"".join(b"line %d of a large message\n" % n for n in range(90_000))
TEXTS = {
    "1.eml": b"Subject: one\n\nfirst\n",
    "2.eml": b"Subject: two\n\n" + bytes(9000) + b"\n",
    "large": LARGE,
}
FLAGS = {"1.eml": b"\\Flagged \\Seen", "2.eml": b"", "large": b"\\Answered"}
KEYWORDS = {"1.eml": b"$Label other", "2.eml": b"", "large": b""}
BARE = frozenset({"rsync -a", "cp", "rclone parts", "dd"})
"""These carry no attributes."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A tree with one directory ``Box``, and what programs have kept of it below *home*."""

    home: Path

    @property
    def tree(self) -> Path:
        return self.home / "tree"

    def run(self, *args: str | Path, cwd: Path | None = None) -> int:
        """The exit status of a program."""
        environment = os.environ | {
            "HOME": str(self.home), "RESTIC_PASSWORD": "x", "BUP_DIR": str(self.home / "bup"),
            "LC_ALL": "C.UTF-8", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }  # fmt: skip
        done = subprocess.run(
            args, capture_output=True, check=False, env=environment, cwd=cwd or self.home, timeout=120
        )
        self.home.joinpath("said").write_bytes(done.stdout + done.stderr)
        return done.returncode


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """Made as a backup of a mount would be, with each of the programs that have a format of their own."""
    made = Backup(tmp_path_factory.mktemp("backup"))
    (made.tree / "Box").mkdir(parents=True)
    for number, (name, text) in enumerate(TEXTS.items(), 1):
        file = made.tree / "Box" / name
        file.write_bytes(text)
        attributes = {
            "flags": FLAGS[name],
            "keywords": KEYWORDS[name],
            "guid": b"00112233445566778899aabbccddee%02x" % number,
            "uid": b"%d" % (number * 10),
            "received": b"2023-07-10T14:40:%02dZ" % number,
            "modseq": b"7",
            "virtual_size": b"5",
        }
        for word, value in attributes.items():
            os.setxattr(file, f"user.dbox.{word}", value)
        os.utime(file, (JULY + number, JULY + number))
    commands: list[list[str | Path]] = [
        ["tar", "--xattrs", "-cf", made.home / "tar", "."],
        ["restic", "-q", "-r", made.home / "restic", "init"],
        ["restic", "-q", "-r", made.home / "restic", "backup", "."],
        ["borg", "init", "-e", "none", made.home / "borg"],
        ["borg", "create", f"{made.home}/borg::mail", "."],
    ]
    for command in commands:
        assert made.run(*command, cwd=made.tree / "Box") == 0, (command, (made.home / "said").read_bytes())
    keep_bup(made)
    return made


def keep_bup(made: Backup) -> None:
    """bup keeps the flags of ext4 (chattr), which no mount takes: so this backup is one of a mount."""
    store = new_store(made.home, "sdbox")
    with Mounts(made.home) as mounts:
        box = mounts.mount(store, "rw,alone") / "Box"
        commands: list[list[str | Path]] = [
            ["cp", "-a", made.tree / "Box", box],
            ["bup", "init"],
            ["bup", "index", box],
            ["bup", "save", "-q", "-n", "mail", "--strip", box],
        ]
        for command in commands:
            assert made.run(*command) == 0, (command, (made.home / "said").read_bytes())
        mounts.umount(box.parent)


def new_store(where: Path, driver: str) -> Path:
    made = dboxfs("init", "--format", driver, where / "store")
    assert made.returncode == 0, made.stderr
    return where / "store"


def rclone_parts(backup: Backup, box: Path) -> int:
    """rclone writes a large file with several threads, each at its own offset."""
    parts = ("--multi-thread-cutoff", "1M", "--multi-thread-streams", "4")
    return backup.run("rclone", "-q", "copy", *parts, backup.tree / "Box", box)


def dd(backup: Backup, box: Path) -> int:
    """Each file in blocks from its end to its beginning."""
    status = 0
    for name, text in TEXTS.items():
        blocks = -(-len(text) // 500_000)
        for block in reversed(range(blocks)):
            status |= backup.run(
                "dd", f"if={backup.tree}/Box/{name}", f"of={box}/{name}", "bs=500000", "count=1",
                f"skip={block}", f"seek={block}", "conv=notrunc", "status=none",
            )  # fmt: skip
        status |= backup.run("touch", "-r", f"{backup.tree}/Box/{name}", box / name)
    return status


def rsync_inplace(backup: Backup, box: Path) -> int:
    """The second run writes over what the first has made of other bytes."""
    for name, text in TEXTS.items():
        (box / name).write_bytes(text.replace(b"line", b"LINE").replace(b"first", b"other")[:-1] + b"x")
        os.utime(box / name, (JULY, JULY))
    return backup.run("rsync", "-aX", "--inplace", "--no-whole-file", f"{backup.tree}/Box/", f"{box}/")


PROGRAMS: dict[str, Callable[[Backup, Path], int]] = {
    "tar": lambda b, box: b.run("tar", "--xattrs", "--xattrs-include=user.*", "-xf", b.home / "tar", cwd=box),
    "restic": lambda b, box: b.run(
        "restic", "-q", "-r", b.home / "restic", "restore", "latest", "--target", box
    ),
    "borg": lambda b, box: b.run("borg", "extract", f"{b.home}/borg::mail", cwd=box),
    "rclone": lambda b, box: b.run("rclone", "-q", "copy", "-M", b.tree / "Box", box),
    "rclone parts": rclone_parts,
    "bup": lambda b, box: b.run("bup", "restore", "-q", "-C", box, "mail/latest/."),
    "rsync -aX": lambda b, box: b.run("rsync", "-aX", f"{b.tree}/Box/", f"{box}/"),
    "rsync -a": lambda b, box: b.run("rsync", "-a", f"{b.tree}/Box/", f"{box}/"),
    "rsync -S": lambda b, box: b.run("rsync", "-aXS", f"{b.tree}/Box/", f"{box}/"),
    "rsync --inplace": rsync_inplace,
    "cp -a": lambda b, box: b.run("cp", "-a", f"{b.tree}/Box/.", box),
    "cp": lambda b, box: b.run(
        "cp", "--sparse=always", "-r", "--preserve=timestamps", f"{b.tree}/Box/.", box
    ),
    "dd": dd,
}


@pytest.fixture(scope="module", params=["sdbox", "mdbox"])
def mounted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store for all programs, mounted with ``rw,alone``; in the end check finds nothing in it."""
    where = tmp_path_factory.mktemp("plain")
    store = new_store(where, request.param)
    with Mounts(where) as mounts:
        mnt = mounts.mount(store, "rw,alone")
        yield mnt
        mounts.umount(mnt)
        found = dboxfs("check", "--unused", store)
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_ends_as_on_a_local_file_system_and_each_file_is_one_message(
    backup: Backup, mounted: Path, tmp_path: Path, program: str
) -> None:
    box = mounted / program
    box.mkdir()
    expected = PROGRAMS[program](backup, tmp_path)
    status = PROGRAMS[program](backup, box)
    assert status == expected == 0, (backup.home / "said").read_bytes()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == TEXTS
    assert {path.name: path.read_bytes() for path in box.iterdir()} == TEXTS
    assert int(os.getxattr(box, "user.dbox.messages")) == len(TEXTS)
    for name in TEXTS:
        assert int((box / name).stat().st_mtime) == int((tmp_path / name).stat().st_mtime)
        flags, keywords = (b"", b"") if program in BARE else (FLAGS[name], KEYWORDS[name])
        assert os.getxattr(box / name, "user.dbox.flags") == flags
        assert os.getxattr(box / name, "user.dbox.keywords") == keywords


def test_copies_and_room_that_the_kernel_is_asked_for_fall_back_to_reads_and_writes(mounted: Path) -> None:
    """pyfuse3 has neither copy_file_range nor fallocate: the kernel and libc do without them."""
    box = mounted / "kernel"
    box.mkdir()
    (box / "one").write_bytes(LARGE)
    with (box / "one").open("rb") as source, (box / "two").open("wb") as target:
        while os.copy_file_range(source.fileno(), target.fileno(), 1 << 20):
            pass
    assert (box / "two").read_bytes() == LARGE
    with (box / "three").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 5000)
        os.pwrite(file.fileno(), b"Subject: three\n\n", 0)
    assert (box / "three").read_bytes() == b"Subject: three\n\n".ljust(5000, b"\0")
