"""``mount``: its options, and how it runs."""

from __future__ import annotations

import argparse
import ctypes
import enum
import importlib
import logging
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import trio

from dboxfs.cli.daemon import in_background
from dboxfs.cli.logs import is_stderr, log_to, one_line
from dboxfs.cli.status import UsageError
from dboxfs.cli.stores import add_store, choose_store
from dboxfs.errors import MountError
from dboxfs.fsapi import FileSystem, Ksm, choose_driver
from dboxfs.fsapi.drivers.choice import CHOICES
from dboxfs.fuse.companion import Companion
from dboxfs.store import Location
from dboxfs.store.write import Eol, Fsync, LockMethod, Neighbour, WriteOptions
from dboxfs.vfs.options import Entries, MountOptions, ViewOptions, wants_companion

log = logging.getLogger("dboxfs")

_MAX_ID = (1 << 32) - 2

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

OPTIONS_HELP = """\
options for -o:
  ro                   read-only (the default)
  rw                   writable; with it:
    fsync=commit|never   when a change is acknowledged: on disk (default), or at once (bulk loads)
    eol=keep|lf          line ends: as written (default), or LF as Dovecot saves them
    lock_method=fcntl|flock|dotlock
                         Dovecot's lock_method (default fcntl)
    dbox_version=2|3     of new messages (default: what the store was made with); Dovecot reads 2 only
    alone                no Dovecot uses the store meanwhile: expunge for good, rewrite indexes
  allow_other          other users may look into the mount, as its modes allow
  uid=N, gid=N         who the files seem to belong to (default: the store's owner)
  umask=OCTAL          permission bits to take away from 0400 (files) and 0500 (directories);
                       with rw: from 0600 and 0700
  separator=C          between the parts of user.dbox.mailbox (default /)
  entries=auto|epoch|companion|timeout
                       how the kernel hears that a name means something else (default auto)
  loop=fast|plain      answer requests with pyfuse3's loop made cheap (default), or as it is
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


def add_arguments(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The arguments of ``dboxfs mount``."""
    add_store(parser, by_option=by_option)
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
    parser.add_argument(
        "--io", choices=CHOICES, default="auto", help="how to reach the disk (default auto, which is threads)"
    )
    parser.add_argument(
        "--ksm", action="store_true", help="have the kernel keep equal pages of the cache's memory once"
    )
    parser.add_argument("--readahead", type=_bytes, default=1 << 20, metavar="BYTES", help="default 1M")
    parser.add_argument(
        "--table-size",
        type=_positive,
        default=10_000,
        metavar="N",
        help="messages whose metadata are kept in memory (default 10000)",
    )
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="where to keep sizes of messages for the next mount, or none (default ~/.cache/dboxfs, "
        "as root /var/cache/dboxfs)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write dbox version 3 though a Dovecot has used the store, or a store that seems to hide mail "
        "(no INBOX, messages without an index)",
    )
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


def parse_options(texts: list[str], separator: str = "/") -> _Parsed:
    """Understand the values of ``-o``.

    :param separator: where ``-o separator`` says no other.
    :raises UsageError: one of them is wrong, or this version doesn't do it.
    """
    mount, view, attachments = MountOptions(), ViewOptions(separator=separator), None
    write: WriteOptions | None = None
    version: int | None = None
    changes: dict[str, Any] = {}
    kernel: list[str] = []
    for option in [part for text in texts for part in text.split(",") if part]:
        key, equals, value = option.partition("=")
        if key == "rw" and not equals:
            write = write or WriteOptions()
        elif key == "ro" and not equals:
            write = None
        elif (changed := _write_option(key, value)) is not None:
            changes |= changed
        elif key == "dbox_version" and value in ("2", "3"):
            version = int(value)
        elif option == "allow_other":
            mount = replace(mount, allow_other=True)
        elif key in ("uid", "gid") and value.isascii() and value.isdigit() and int(value) <= _MAX_ID:
            view = replace(view, uid=int(value)) if key == "uid" else replace(view, gid=int(value))
        elif key == "umask" and value and set(value) <= set("01234567"):
            view = replace(view, umask=int(value, 8) & 0o777)
        elif key == "separator" and len(value) == 1 and value.isprintable():
            view = replace(view, separator=value)
        elif key == "loop" and value in ("fast", "plain"):
            mount = replace(mount, fast_loop=value == "fast")
        elif key == "entries" and value in [means.value for means in Entries]:
            mount = replace(mount, entries=Entries(value))
        elif key == "attachments" and value:
            attachments = os.path.abspath(value)
        elif key in _KERNEL and not equals:
            kernel.append(key)
        elif key not in _IGNORED and not key.startswith(("x-", "comment")):
            raise UsageError(f"-o {option}: unknown option or bad value; dboxfs mount --help lists them")
    if write is not None:
        write = replace(write, **changes)
    elif changes or version is not None:
        raise UsageError(
            "-o fsync, eol, lock_method, dbox_version and alone say how to write; "
            "they need -o rw (in fstab: writable)"
        )
    mount = replace(mount, view=view, fuse=tuple(kernel), write=write, dbox_version=version)
    return _Parsed(mount, attachments)


def _write_option(key: str, value: str) -> dict[str, Any] | None:
    """What an option changes in WriteOptions; None: it is another option, or has a bad value."""
    kinds: dict[str, type[enum.Enum]] = {"fsync": Fsync, "eol": Eol, "lock_method": LockMethod}
    if key == "alone" and not value:
        return {"neighbour": Neighbour.ALONE}
    if key in kinds and value in [kind.value for kind in kinds[key]]:
        return {key: kinds[key](value)}
    return None


def _fuse() -> ModuleType:
    """:mod:`dboxfs.fuse.mount`, which only this command needs: the others work on a machine without FUSE.

    :raises MountError: pyfuse3 or libfuse is missing.
    """
    try:
        return importlib.import_module("dboxfs.fuse.mount")
    except ImportError as exc:
        raise MountError(f"can't mount here: {exc}; install pyfuse3 and libfuse 3") from None


def mount(arguments: argparse.Namespace) -> int:
    """``dboxfs mount STORE MOUNTPOINT``."""
    check_mountpoint = _fuse().check_mountpoint
    parse_options(arguments.options)  # a wrong option is told before anything else
    chosen = choose_store(arguments)
    location = chosen.location
    options = parse_options(arguments.options, chosen.separator)
    if options.attachments is not None:
        location = replace(location, attachments=options.attachments)
    mountpoint = check_mountpoint(arguments.mountpoint)
    _check_apart(location, mountpoint)
    options = replace(
        options,
        mount=replace(
            options.mount,
            cache_dir=_cache_dir(arguments.cache_dir, location, mountpoint),
            table_size=arguments.table_size,
            force=arguments.force,
        ),
    )
    if arguments.log_file is not None:
        arguments.log_file = os.path.abspath(arguments.log_file)
        place = os.path.realpath(mountpoint)
        if os.path.commonpath((place, os.path.realpath(arguments.log_file))) == place:
            raise MountError(f"--log-file {arguments.log_file}: lies in the mount; give a file elsewhere")
        with open(arguments.log_file, "ab"):  # said here, to the caller, if it can't be written
            pass
    _raise_file_limit()
    _give_memory_back()
    serve = partial(_serve, arguments, location, mountpoint, options.mount)
    start_log = partial(log_to, arguments.log_file, arguments.log_level, foreground=arguments.foreground)
    if not arguments.foreground:
        return in_background(serve, start_log)
    start_log()
    return serve(lambda: log.info("%s is mounted on %s", location.root, mountpoint))


def _check_apart(location: Location, mountpoint: str) -> None:
    """A mount inside of its own store would make the daemon wait for itself."""
    place = os.path.realpath(mountpoint)
    for path in (location.root, location.index, location.control, location.alt, location.inbox):
        store = None if path is None else os.path.realpath(path)
        if store is not None and os.path.commonpath((place, store)) in (place, store):
            raise MountError(f"{mountpoint}: lies inside of the store {store}, or the store in it")


def _cache_dir(given: str | None, location: Location, mountpoint: str) -> str | None:
    """Where sizes are kept; None: nowhere.  Never in the store, which only mail programs may write to.

    :raises MountError: DIR of --cache-dir can't be used.
    """
    if given == "none":
        return None
    path = os.path.realpath(given if given is not None else _default_cache_dir())
    for outer in (*_store_paths(location), os.path.realpath(mountpoint)):
        if os.path.commonpath((path, outer)) == outer:
            if given is None:
                return None
            raise MountError(f"--cache-dir {given}: lies inside of {outer}; give a directory of its own")
    return path


def _default_cache_dir() -> str:
    """What the XDG base directory specification says, and a system-wide one for root."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = "/var/cache" if os.geteuid() == 0 else os.path.expanduser("~/.cache")
    return os.path.join(base, "dboxfs")


def _store_paths(location: Location) -> list[str]:
    index = (location.index, location.index_cache, location.control)
    mail = (location.root, location.alt, location.inbox, location.attachments)
    return [os.path.realpath(path) for path in (*mail, *index) if path is not None]


def _raise_file_limit() -> None:
    """Each open message is an open file: take as many as the system allows without asking."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _give_memory_back() -> None:
    """Columns of large mailboxes are freed to the system, not kept for reuse by the C library.

    glibc stops doing that by itself once it has seen a large block freed; a mailbox of a million messages
    then costs twice its size for good.  Another C library does as it likes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2 << 20)  # above the buffers of reads, which are better reused
        mallopt(_M_TRIM_THRESHOLD, 2 << 20)
        mallopt(_M_ARENA_MAX, 2)


def _serve(
    arguments: argparse.Namespace,
    location: Location,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
) -> int:
    companion = Companion.start() if wants_companion(options.entries) else None

    async def main() -> None:
        driver = choose_driver(arguments.io, arguments.workers)
        async with FileSystem(
            driver,
            readahead=arguments.readahead,
            cache_size=arguments.cache_size,
            ksm=Ksm() if arguments.ksm else None,
            sync=options.write is None or options.write.durable,
        ) as fs:
            await _fuse().run(fs, location, mountpoint, options, ready, _warn, companion)

    try:
        trio.run(main)
    finally:
        if companion is not None:
            companion.stop()
    return 0


def _warn(text: str) -> None:
    """For the caller, who waits until the mount is usable, and for the log."""
    log.warning("%s", text)
    if not is_stderr():
        print(f"dboxfs: {one_line(text)}", file=sys.stderr, flush=True)
