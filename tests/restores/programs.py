"""What people make backups with: how each backs up a mount, and puts that back into another."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

Run = Callable[..., None]


def keep_tar(run: Run, mnt: Path, kept: Path) -> None:
    run("tar", "--xattrs", "-cf", kept / "tar", "-C", mnt, ".")


def back_tar(run: Run, mnt: Path, kept: Path) -> None:
    run("tar", "--xattrs", "--xattrs-include=user.*", "-xf", kept / "tar", "-C", mnt)


def keep_rsync(run: Run, mnt: Path, kept: Path) -> None:
    run("rsync", "-aX", f"{mnt}/", kept / "tree")


def back_rsync(run: Run, mnt: Path, kept: Path) -> None:
    run("rsync", "-aX", f"{kept}/tree/", f"{mnt}/")


def keep_cp(run: Run, mnt: Path, kept: Path) -> None:
    run("cp", "-a", f"{mnt}/.", kept / "tree")


def back_cp(run: Run, mnt: Path, kept: Path) -> None:
    run("cp", "-a", f"{kept}/tree/.", mnt)


def keep_restic(run: Run, mnt: Path, kept: Path) -> None:
    run("restic", "-q", "-r", kept / "repository", "init")
    run("restic", "-q", "-r", kept / "repository", "backup", ".", cwd=mnt)


def back_restic(run: Run, mnt: Path, kept: Path) -> None:
    run("restic", "-q", "-r", kept / "repository", "restore", "latest", "--target", mnt)


def keep_borg(run: Run, mnt: Path, kept: Path) -> None:
    run("borg", "init", "-e", "none", kept / "repository")
    run("borg", "create", f"{kept}/repository::mail", ".", cwd=mnt)


def back_borg(run: Run, mnt: Path, kept: Path) -> None:
    run("borg", "extract", f"{kept}/repository::mail", cwd=mnt)


def keep_rclone(run: Run, mnt: Path, kept: Path) -> None:
    run("rclone", "-q", "copy", "-M", "--create-empty-src-dirs", mnt, kept / "tree")


def back_rclone(run: Run, mnt: Path, kept: Path) -> None:
    run("rclone", "-q", "copy", "-M", "--create-empty-src-dirs", kept / "tree", mnt)


def keep_bup(run: Run, mnt: Path, kept: Path) -> None:
    run("bup", "init")
    run("bup", "index", mnt)
    run("bup", "save", "-q", "-n", "mail", "--strip", mnt)


def back_bup(run: Run, mnt: Path, kept: Path) -> None:
    run("bup", "restore", "-q", "-C", mnt, "mail/latest/.")


def keep_plain(run: Run, mnt: Path, kept: Path) -> None:
    run("rsync", "-a", f"{mnt}/", kept / "tree")


def back_plain(run: Run, mnt: Path, kept: Path) -> None:
    run("rsync", "-a", f"{kept}/tree/", f"{mnt}/")


def part_tar(run: Run, mnt: Path, kept: Path, part: str) -> None:
    run("tar", "--xattrs", "--xattrs-include=user.*", "-xf", kept / "tar", "-C", mnt, f"./{part}")


def mailbox_rsync(run: Run, mnt: Path, kept: Path, part: str) -> None:
    run("rsync", "-aX", f"{kept}/tree/{part}/", f"{mnt}/{part}/")


def message_rsync(run: Run, mnt: Path, kept: Path, part: str) -> None:
    run("rsync", "-aX", f"{kept}/tree/{part}", f"{mnt / part}")


def part_cp(run: Run, mnt: Path, kept: Path, part: str) -> None:
    run("cp", "-a", f"{kept}/tree/{part}", f"{(mnt / part).parent}/")


def part_restic(run: Run, mnt: Path, kept: Path, part: str) -> None:
    how = ("--target", mnt, "--include", f"/{part}")
    run("restic", "-q", "-r", kept / "repository", "restore", "latest", *how)


def part_borg(run: Run, mnt: Path, kept: Path, part: str) -> None:
    run("borg", "extract", f"{kept}/repository::mail", part, cwd=mnt)


def mailbox_rclone(run: Run, mnt: Path, kept: Path, part: str) -> None:
    run("rclone", "-q", "copy", "-M", kept / "tree" / part, mnt / part)


def message_rclone(run: Run, mnt: Path, kept: Path, part: str) -> None:
    run("rclone", "-q", "copy", "-M", kept / "tree" / part, (mnt / part).parent)


def part_bup(run: Run, mnt: Path, kept: Path, part: str) -> None:
    run("bup", "restore", "-q", "-C", (mnt / part).parent, f"mail/latest/{part}")


PARTS = {
    "tar": (part_tar, part_tar),
    "rsync": (mailbox_rsync, message_rsync),
    "cp": (part_cp, part_cp),
    "restic": (part_restic, part_restic),
    "borg": (part_borg, part_borg),
    "rclone": (mailbox_rclone, message_rclone),
    "bup": (part_bup, part_bup),
}
"""How one mailbox, and one message of a mailbox that is there, are put back."""

PROGRAMS = {
    "tar": (keep_tar, back_tar),
    "rsync": (keep_rsync, back_rsync),
    "cp": (keep_cp, back_cp),
    "restic": (keep_restic, back_restic),
    "borg": (keep_borg, back_borg),
    "rclone": (keep_rclone, back_rclone),
    "bup": (keep_bup, back_bup),
}
"""Those that carry extended attributes."""

PLAIN = (keep_plain, back_plain)
"""One that doesn't."""

FILES_ONLY = frozenset({"rclone"})
"""Those that keep no attributes of directories."""


def runner(home: Path, seconds: float = 120) -> Run:
    """What runs a program, whose own files lie in *home*, and expects that it ends with status 0."""
    environment = os.environ | {
        "HOME": str(home), "RESTIC_PASSWORD": "x", "BUP_DIR": str(home / "bup"), "LC_ALL": "C.UTF-8",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }  # fmt: skip
    return partial(_run, environment, home, seconds)


def _run(
    environment: dict[str, str], home: Path, seconds: float, *args: str | Path, cwd: Path | None = None
) -> None:
    done = subprocess.run(
        args, capture_output=True, check=False, env=environment, cwd=cwd or home, timeout=seconds
    )
    assert done.returncode == 0, (args, done.stderr)
