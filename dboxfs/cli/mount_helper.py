"""``mount.dboxfs``: the program that mount(8) calls, also for fstab, with the options of ``dboxfs mount -o``.

::

    mount.dboxfs STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

mount(8) adds ``rw`` unless the options have ``ro``, even if the user didn't ask for it; dboxfs mounts
read-only by default.  So this helper ignores ``rw``, and ``writable`` asks for a writable mount.
``mount -o ro MOUNTPOINT`` adds ``ro`` to the options of fstab's line: this drops the options that say how to
write.

If the same store is mounted there already, that is no error, so that ``mount -a`` can be run again.
``remount,ro`` has the kernel refuse all writing; ``remount,rw`` has it pass writing to the daemon again, if
the daemon was mounted writable.

Exit statuses are those of mount(8): 1 wrong invocation, 2 system error, 32 mount failure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence

from msgspec import Struct

from dboxfs.cli.logs import one_line
from dboxfs.cli.status import EXIT_MOUNT, EXIT_STORE, EXIT_USAGE
from dboxfs.util import mounts
from dboxfs.util.mounts import Mount

NAME = "mount.dboxfs"
USAGE, SYSTEM, FAILED = 1, 2, 32

_STATUSES = {0: 0, EXIT_USAGE: USAGE, EXIT_STORE: FAILED, EXIT_MOUNT: FAILED}


class MountCall(Struct, frozen=True):
    """The request in the options of mount(8).

    :ivar options: for ``dboxfs mount -o``.
    :ivar remount: whether the kernel refuses writing from now on; None: it is no remount.
    """

    options: str
    remount: bool | None


def understand(options: str) -> MountCall:
    """Translate the options of mount(8) and fstab."""
    from dboxfs.cli.mount_options import says_how_to_write

    words = [word for word in options.split(",") if word]
    read_only = "ro" in words
    rest = [word for word in words if word not in ("rw", "ro", "writable", "remount")]
    if "remount" in words:
        return MountCall("", "rw" not in words[words.index("ro") :] if read_only else False)
    if read_only:
        rest = [word for word in rest if not says_how_to_write(word.partition("=")[0])]
    writable = "writable" in words and not read_only
    return MountCall(",".join(["rw" if writable else "ro", *rest]), None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run with the arguments of mount(8); returns the exit status that mount(8) expects."""
    from dboxfs.cli.main import main as dboxfs

    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    if arguments is None:
        return USAGE
    if arguments.fake:
        return 0
    wanted = understand(",".join(arguments.options))
    mount = mounts.mounted_on(os.path.realpath(arguments.mountpoint))
    if wanted.remount is not None:
        return _remount(mount, arguments.mountpoint, read_only=wanted.remount)
    if mount is not None and _is_of(mount, arguments.store):
        return 0
    command = ["mount", "-o", wanted.options, "--", arguments.store, arguments.mountpoint]
    return _STATUSES.get(dboxfs(command), SYSTEM)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise ValueError: the exit status for it is that of mount(8), not argparse's."""
        raise ValueError(message)


def _arguments(argv: Sequence[str]) -> argparse.Namespace | None:
    parser = _Parser(NAME, add_help=False, allow_abbrev=False)
    parser.add_argument("store")
    parser.add_argument("mountpoint")
    parser.add_argument("-f", dest="fake", action="store_true")
    parser.add_argument("-o", dest="options", action="append", default=[])
    for ignored in ("-s", "-n", "-v"):
        parser.add_argument(ignored, action="store_true")
    for ignored in ("-N", "-t"):
        parser.add_argument(ignored)
    try:
        return parser.parse_args(argv)
    except ValueError as exc:
        _say(f"{exc}; usage: {NAME} STORE MOUNTPOINT [-sfnv] [-o OPTIONS]")
        return None


def _is_of(mount: Mount, store: str) -> bool:
    """Whether a mount shows *store*, and its daemon lives."""
    from dboxfs.cli.liveness import Answer, ask
    from dboxfs.errors import DboxfsError
    from dboxfs.store.mail_location import parse_location

    try:
        location = parse_location(store)
    except DboxfsError:
        return False  # the mount gives the error
    return mount.source == f"{location.kind.value}:{location.root}" and ask(mount) is Answer.GIVEN


def _remount(
    mount: Mount | None, point: str, *, read_only: bool, change: Callable[..., None] = mounts.remount
) -> int:
    if mount is None:
        _say(f"{point}: no dboxfs mount; mount it first")
        return FAILED
    if not read_only and not _can_write(mount):
        _say(f"{point}: its daemon was mounted read-only; unmount it, and mount it with -o writable")
        return FAILED
    try:
        change(mount, read_only=read_only)
    except OSError as exc:
        _say(f"{point}: remount: {exc.strerror}")
        return FAILED
    return 0


def _can_write(mount: Mount) -> bool:
    """Whether the daemon was mounted writable; True if it can't be asked: it then refuses writes itself."""
    try:
        with open(os.path.join(mount.point, ".dboxfs/stats.json"), encoding="utf-8") as file:
            return bool(json.load(file).get("written", False))
    except (OSError, ValueError):
        return True


def _say(text: str) -> None:
    print(f"{NAME}: {one_line(text)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
