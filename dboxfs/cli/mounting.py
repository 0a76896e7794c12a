"""``mount`` and ``umount``: options, going into the background, logging.

In the background the caller gets its answer when the mount is usable or has failed: the daemon says so
through a pipe, and what goes wrong before is one line on the caller's stderr and its exit status.
"""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import trio

from dboxfs.cli.status import EXIT_FAILURE, EXIT_USAGE, exit_status, first_error
from dboxfs.errors import DboxfsError, MountError, Unsupported
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fuse import MountOptions, ViewOptions, check_mountpoint, run
from dboxfs.store import Location, parse_location

log = logging.getLogger("dboxfs")

OPTIONS_HELP = """\
options for -o:
  ro                   read-only (the default)
  allow_other          other users may look into the mount, as its modes allow
  uid=N, gid=N         who the files seem to belong to (default: the store's owner)
  umask=OCTAL          permission bits to take away from 0400 (files) and 0500 (directories)
  separator=C          between the parts of user.dbox.mailbox (default /)
  attachments=DIR      Dovecot's mail_attachment_dir, for messages stored with it
"""

# What mount(8) and fstab add, and what means nothing to a FUSE daemon.
_IGNORED = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
     "relatime", "norelatime", "strictatime", "nodiratime", "lazytime", "mand", "nomand", "bg", "fg"}
)  # fmt: skip
_KERNEL = frozenset(
    {
        "dev",
        "nodev",
        "suid",
        "nosuid",
        "exec",
        "noexec",
        "atime",
        "noatime",
        "sync",
        "async",
        "dirsync",
        "auto_unmount",
    }
)


@dataclass(frozen=True, slots=True)
class _Parsed:
    mount: MountOptions
    attachments: str | None


class _BadOption(Exception):
    """A wrong value of ``-o``; the text is one line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dboxfs mount``."""
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="stay in the foreground, log to stderr"
    )
    parser.add_argument(
        "-o", dest="options", metavar="OPT[,OPT...]", action="append", default=[], help="see below"
    )
    parser.add_argument(
        "--log-file", metavar="FILE", help="log to FILE (default: stderr with -f, else syslog)"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument(
        "--workers", type=_positive, default=10, metavar="N", help="worker threads (default 10)"
    )
    parser.add_argument("--readahead", type=_bytes, default=1 << 20, metavar="BYTES", help="default 1M")
    parser.add_argument("--cache-size", type=_bytes, default=64 << 20, metavar="BYTES", help="default 64M")


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _bytes(text: str) -> int:
    units = {"K": 10, "M": 20, "G": 30}
    shift = units.get(text[-1:].upper(), 0)
    digits = text[:-1] if shift else text
    if not (digits.isascii() and digits.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes (such as 65536, 512K, 64M)")
    return int(digits) << shift


def parse_options(texts: list[str]) -> _Parsed:
    """Understand the values of ``-o``.

    :raises _BadOption: one of them is wrong.
    :raises Unsupported: one that this version doesn't do.
    """
    mount, view, attachments = MountOptions(), ViewOptions(), None
    kernel: list[str] = []
    for option in [part for text in texts for part in text.split(",") if part]:
        key, equals, value = option.partition("=")
        if key == "rw":
            raise Unsupported("-o rw: this version mounts read-only; leave the option out")
        if key == "allow_other":
            mount = replace(mount, allow_other=True)
        elif key in ("uid", "gid") and value.isascii() and value.isdigit():
            view = replace(view, uid=int(value)) if key == "uid" else replace(view, gid=int(value))
        elif key == "umask" and value and set(value) <= set("01234567"):
            view = replace(view, umask=int(value, 8) & 0o777)
        elif key == "separator" and len(value) == 1:
            view = replace(view, separator=value)
        elif key == "attachments" and value:
            attachments = os.path.abspath(value)
        elif key in _KERNEL and not equals:
            kernel.append(key)
        elif key not in _IGNORED and key != "ro" and not key.startswith(("x-", "comment")):
            raise _BadOption(f"-o {option}: unknown option or bad value; dboxfs mount --help lists them")
    return _Parsed(replace(mount, view=view, fuse=tuple(kernel)), attachments)


# -- mount -------------------------------------------------------------------------------------


def mount(arguments: argparse.Namespace) -> int:
    """``dboxfs mount STORE MOUNTPOINT``."""
    try:
        options = parse_options(arguments.options)
    except _BadOption as exc:
        print(f"dboxfs: {exc}", file=sys.stderr)
        return EXIT_USAGE
    location = parse_location(arguments.store)
    if options.attachments is not None:
        location = replace(location, attachments=options.attachments)
    mountpoint = check_mountpoint(arguments.mountpoint)
    serve = partial(_serve, arguments, location, mountpoint, options.mount)
    if arguments.foreground:
        _log_to(_handler(arguments.log_file, foreground=True), arguments.log_level)
        return serve(lambda: log.info("%s is mounted on %s", location.root, mountpoint))
    return _in_background(serve, arguments)


def _serve(
    arguments: argparse.Namespace,
    location: Location,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
) -> int:
    async def main() -> None:
        driver = ThreadsDriver(workers=arguments.workers)
        async with FileSystem(driver, readahead=arguments.readahead, cache_size=arguments.cache_size) as fs:
            await run(fs, location, mountpoint, options, ready)

    trio.run(main)
    return 0


def _handler(log_file: str | None, *, foreground: bool) -> logging.Handler:
    if log_file is not None:
        handler: logging.Handler = logging.handlers.WatchedFileHandler(log_file)
    elif foreground or not os.path.exists("/dev/log"):
        handler = logging.StreamHandler()
    else:
        handler = logging.handlers.SysLogHandler("/dev/log", logging.handlers.SysLogHandler.LOG_MAIL)
        handler.setFormatter(logging.Formatter(f"dboxfs[{os.getpid()}]: %(message)s"))
        return handler
    handler.setFormatter(logging.Formatter("%(asctime)s dboxfs %(levelname)s: %(message)s"))
    return handler


def _log_to(handler: logging.Handler, level: str) -> None:
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def _in_background(serve: Callable[[Callable[[], None]], int], arguments: argparse.Namespace) -> int:
    """Fork; the parent answers when the child has mounted or failed."""
    handler_check = arguments.log_file
    if handler_check is not None:
        with open(handler_check, "ab"):
            arguments.log_file = os.path.abspath(handler_check)
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(writer)
        return _await_daemon(reader, pid)
    os.close(reader)
    os.setsid()
    os.chdir("/")
    _log_to(_handler(arguments.log_file, foreground=False), arguments.log_level)
    status = _daemon(serve, writer)
    logging.shutdown()
    os._exit(status)


def _await_daemon(reader: int, pid: int) -> int:
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode("utf-8", "replace")
    if answer == "ok":
        return 0
    status, _, message = answer.partition("\n")
    if not status.isdigit():
        _, code = os.waitpid(pid, 0)
        print(
            f"dboxfs: the daemon ended before the mount was usable (status {code}); see its log",
            file=sys.stderr,
        )
        return EXIT_FAILURE
    print(f"dboxfs: {message}", file=sys.stderr)
    return int(status)


def _daemon(serve: Callable[[Callable[[], None]], int], writer: int) -> int:
    answered = False

    def answer(text: str) -> None:
        nonlocal answered
        if not answered:
            answered = True
            os.write(writer, text.encode("utf-8", "surrogateescape"))
            os.close(writer)

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        answer("ok")

    try:
        return serve(ready)
    except (DboxfsError, OSError, BaseExceptionGroup) as exc:
        error = first_error(exc)
        log.error("%s", error, exc_info=None if isinstance(error, DboxfsError | OSError) else error)
        answer(f"{exit_status(error)}\n{error}")
        return exit_status(error)


# -- umount ------------------------------------------------------------------------------------


def umount(arguments: argparse.Namespace) -> int:
    """``dboxfs umount MOUNTPOINT``."""
    mountpoint = os.path.abspath(arguments.mountpoint)
    if not _mounted(mountpoint):
        raise MountError(f"{mountpoint}: no dboxfs mount")
    command = ["fusermount3", "-u", mountpoint] if os.geteuid() else ["umount", mountpoint]
    if arguments.lazy:
        command.insert(-1, "-z" if os.geteuid() else "-l")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["failed"]
        raise MountError(
            f"{mountpoint}: {reason[0].removeprefix('umount: ').removeprefix(mountpoint + ': ')}"
        )
    deadline = time.monotonic() + 5
    while _mounted(mountpoint) and time.monotonic() < deadline:
        time.sleep(0.01)
    return 0


def _mounted(mountpoint: str) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields, _, rest = line.partition(" - ")
            point = (
                fields.split()[4]
                .encode("utf-8", "surrogateescape")
                .decode("unicode_escape")
                .encode("latin-1")
            )
            if os.fsdecode(point) == mountpoint and rest.startswith("fuse.dboxfs "):
                return True
    return False
