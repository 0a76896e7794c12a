"""``mount``: its arguments, the checks before it, and the daemon that serves it."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import importlib
import logging
import os
import resource
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.cli.daemon import in_background
from dboxfs.cli.help_texts import STATUS_HELP, STORE_HELP
from dboxfs.cli.logs import SYSLOG, default_log_file, is_stderr, log_to, one_line, tell
from dboxfs.cli.mount_options import OPTIONS_HELP, ParsedOptions, parse_options
from dboxfs.cli.object_store import NO_ARCHIVE
from dboxfs.cli.of_dovecot import OfDovecot
from dboxfs.cli.paths import around, default_cache_dir, overlap
from dboxfs.cli.reread import Reread
from dboxfs.cli.site import USERS_HELP, choose_users
from dboxfs.cli.site_mount import apart_from, check_site_options, mountable, site_defaults
from dboxfs.cli.status import UsageError
from dboxfs.cli.stores import Chosen, add_store, choose_store
from dboxfs.cli.umount import clear_dead
from dboxfs.cli.user_keys import GivenKeys, encrypting, of_all_users
from dboxfs.errors import MountError
from dboxfs.fsapi import Driver, FileSystem, Ksm, choose_driver
from dboxfs.fsapi.drivers.choice import CHOICES
from dboxfs.fsapi.drivers.object_access import Access
from dboxfs.fsapi.drivers.object_client import is_url
from dboxfs.fuse.companion import Companion
from dboxfs.store import Kind, Location
from dboxfs.util.importing import importing
from dboxfs.util.systemd import notify, watchdog_seconds
from dboxfs.vfs.options import ShownGeneration, wants_companion
from dboxfs.vfs.serving import Serving
from dboxfs.vfs.site.source import UserSource

if TYPE_CHECKING:
    from dboxfs.tools.archive.view import ArchiveView
    from dboxfs.vfs.joined import MountedNamespace

log = logging.getLogger("dboxfs")

SITE_WORKERS = 32
"""Workers of a mount of many users, at least: some users' stores may hang, each with a few operations."""

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs mount``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Mount STORE, or all users of a site, on the empty directory MOUNTPOINT.\n\n" + STORE_HELP
    )
    parser.epilog = USERS_HELP + "\n" + OPTIONS_HELP + "\n" + STATUS_HELP
    parser.set_defaults(run=mount)
    add_store(parser, by_option=by_option, users=True)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="stay in the foreground, log to stderr"
    )
    parser.add_argument(
        "-o", dest="options", metavar="OPT[,OPT...]", action="append", default=[], help="see below"
    )
    parser.add_argument(
        "--replace", action="store_true", help="take a dead mount away that is there still, then mount"
    )
    parser.add_argument(
        "--log-file", metavar="FILE", help="log to FILE (default: stderr with -f, else syslog)"
    )
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info", help="what is logged (default info)")
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


def _fuse() -> ModuleType:
    """:mod:`dboxfs.fuse.mount`.  Only this command needs it; the others work on a machine without FUSE.

    :raises MountError: pyfuse3 or libfuse is missing.
    """
    try:
        return importlib.import_module("dboxfs.fuse.mount")
    except ImportError as exc:
        raise MountError(f"can't mount here: {exc}; install pyfuse3 and libfuse 3") from None


def mount(arguments: argparse.Namespace) -> int:
    """``dboxfs mount STORE MOUNTPOINT``, or ``dboxfs mount --users SOURCE MOUNTPOINT``."""
    reread = Reread(arguments)
    with importing():
        check_mountpoint = _fuse().check_mountpoint
    gc.freeze()  # modules are no garbage: no collection looks at them again
    check_site_options(arguments)  # a wrong option is reported before anything else
    options, what, others = _chosen(arguments)
    clear_dead(os.path.abspath(arguments.mountpoint), replace=arguments.replace or options.replace)
    mountpoint = check_mountpoint(arguments.mountpoint)
    location = what if isinstance(what, Location) else None
    archive = None if location is None else _archive(location, options)
    here = [] if location is None or archive is not None else [location]
    places = [*here, *(one.location for one in others)]
    for place in places:
        _check_apart(place, mountpoint)
    if not isinstance(what, Location):
        what = apart_from(mountpoint, what)
    options = replace(
        options,
        mount=replace(
            options.mount,
            cache_dir=archive.cache_dir if archive else _cache_dir(arguments.cache_dir, places, mountpoint),
            table_size=arguments.table_size,
            force=arguments.force,
        ),
    )
    if arguments.log_file is None and not arguments.foreground:
        arguments.log_file = _log_without_syslog()
    if arguments.log_file is not None:
        arguments.log_file = os.path.abspath(arguments.log_file)
        inside = os.path.realpath(mountpoint)
        if os.path.commonpath((inside, os.path.realpath(arguments.log_file))) == inside:
            raise MountError(f"--log-file {arguments.log_file}: lies in the mount; give a file elsewhere")
        with open(arguments.log_file, "ab"):  # an error goes to the caller, which still waits
            pass
    _raise_file_limit()
    _give_memory_back()
    serve = partial(_serve, arguments, what, archive, others, mountpoint, options, reread)
    start_log = partial(log_to, arguments.log_file, arguments.log_level, foreground=arguments.foreground)
    if not arguments.foreground:
        return in_background(serve, start_log)
    start_log()
    name = location.root if location is not None else arguments.users
    status = one_line(f"STATUS={name} on {mountpoint}")

    def ready() -> None:
        notify("READY=1", status)

    try:
        return serve(ready)
    finally:
        notify("STOPPING=1")


def _chosen(
    arguments: argparse.Namespace,
) -> tuple[ParsedOptions, Location | UserSource, Sequence[MountedNamespace]]:
    """The options, the one store or all users that are to be mounted, and the one user's other namespaces."""
    if arguments.users is not None:
        source = choose_users(arguments.users, arguments.config)
        dovecot = OfDovecot(site_defaults(source))
        options = _apart(parse_options(arguments.options, dovecot.separator, dovecot.compress), dovecot)
        options, keyed = of_all_users(source, options, dovecot)
        return options, keyed, []
    chosen = choose_store(arguments, archives=True)
    dovecot = chosen.of_dovecot
    options = parse_options(arguments.options, dovecot.separator, dovecot.compress, dovecot.prefix)
    _check_archive(chosen.location, options)
    options = _apart(encrypting(options, dovecot), dovecot)
    given: dict[str, Any] = {}
    if options.attachments is not None:
        given["attachments"] = options.attachments
    if options.keys:
        from dboxfs.cli.crypt_keys import read_keys

        given["keys"] = read_keys(options.keys, options.password_fd)
    if chosen.found is not None:
        own = GivenKeys(given.get("keys"), encrypt="").of(chosen.location, chosen.found.user, chosen.found)
        given["keys"] = own.keys
    others: list[MountedNamespace] = []
    if options.namespaces:
        others = [
            replace(one, location=dataclasses.replace(one.location, **given)) for one in _namespaces(chosen)
        ]
    return options, dataclasses.replace(chosen.location, **given), others


def _apart(options: ParsedOptions, dovecot: OfDovecot) -> ParsedOptions:
    """*options* with what Dovecot stores apart from a new message."""
    if options.mount.write is None:
        return options
    write = replace(options.mount.write, apart=dovecot.cutting)
    return replace(options, mount=replace(options.mount, write=write))


def _archive(location: Location, options: ParsedOptions) -> ArchiveView | None:
    """The archive at *location*; None: it is a store of this machine."""
    if not is_url(location.root):
        return None
    from dboxfs.tools.archive.view import ArchiveView

    return ArchiveView(location.root, options.at, Access(**options.access))


def _check_archive(location: Location, options: ParsedOptions) -> None:
    """
    :raises UsageError: options that an archive can't have, or a store on this machine.
    """
    if not is_url(location.root):
        if options.at is not None:
            raise UsageError("-o at: says which generation of an archive; STORE is none")
        if options.access:
            raise UsageError(f"-o ca_file, request_timeout, request_retries: {NO_ARCHIVE}")
    elif options.mount.write is not None:
        raise UsageError("-o rw: an archive can only be read; dboxfs import or convert bring it back")


def _namespaces(chosen: Chosen) -> list[MountedNamespace]:
    """The user's other namespaces; those that can't be shown are reported.

    :raises UsageError: the store was not given by ``--user``.
    """
    from dboxfs.dovecot.namespaces import other_namespaces
    from dboxfs.vfs.joined import MountedNamespace

    if chosen.found is None:
        raise UsageError("-o namespaces: only with --user, whose Dovecot tells which there are")
    found = other_namespaces(chosen.found, chosen.location, tell)
    return [MountedNamespace(n.location, n.path, n.prefix, n.separator, n.private) for n in found]


def _log_without_syslog() -> str | None:
    """The log file on a machine without syslog, which is printed; None: there is a syslog, or no place."""
    if os.path.exists(SYSLOG):
        return None
    path = default_log_file()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "ab"):
            pass
    except OSError as exc:
        print(one_line(f"no log is kept: no syslog here, and {path}: {exc.strerror}; give --log-file FILE"))
        return None
    print(one_line(f"the log goes to {path}, since there is no syslog"))
    return path


def _check_apart(location: Location, mountpoint: str) -> None:
    """Refuse a mount inside of its own store: the daemon would wait for itself.

    :raises MountError: the mountpoint lies in the store, or the store in it.
    """
    store = overlap(location, mountpoint)
    if store is not None:
        raise MountError(f"{mountpoint}: lies inside of the store {store}, or the store in it")


def _cache_dir(given: str | None, places: Sequence[Location], mountpoint: str) -> str | None:
    """The directory for sizes of messages; None: none.  Never in a store, which only mail programs may write.

    :raises MountError: DIR of --cache-dir can't be used.
    """
    if given == "none":
        return None
    path = os.path.realpath(given if given is not None else default_cache_dir())
    found = (around(location, path) for location in places)
    outer = next((one for one in found if one is not None), None)
    place = os.path.realpath(mountpoint)
    if outer is None and os.path.commonpath((path, place)) == place:
        outer = place
    if outer is None:
        return path
    if given is None:
        return None
    raise MountError(f"--cache-dir {given}: lies inside of {outer}; give a directory of its own")


def _raise_file_limit() -> None:
    """Raise the limit of open files to the hard limit: each open message is an open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _give_memory_back() -> None:
    """Have glibc give freed columns of large mailboxes back to the system, and not keep them for reuse.

    glibc stops doing so by itself once it has seen a large block freed; a mailbox of a million messages then
    costs twice its size for good.  On another C library this has no effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2 << 20)  # above the buffers of reads, which should be reused
        mallopt(_M_TRIM_THRESHOLD, 2 << 20)
        mallopt(_M_ARENA_MAX, 2)


def _serve(
    arguments: argparse.Namespace,
    what: Location | UserSource,
    archive: ArchiveView | None,
    others: Sequence[MountedNamespace],
    mountpoint: str,
    parsed: ParsedOptions,
    reread: Reread,
    ready: Callable[[], None],
) -> int:
    options, has_terminal = parsed.mount, arguments.foreground and os.isatty(2)
    kind = None if others else Kind.MDBOX if archive is not None else what.kind
    companion = Companion.start() if wants_companion(options, kind) else None

    async def main() -> None:
        driver: Driver
        if archive is not None:
            driver = archive.driver(max(arguments.workers, SITE_WORKERS))
        else:
            least = 1 if isinstance(what, Location) else SITE_WORKERS
            driver = choose_driver(arguments.io, max(arguments.workers, least))
        async with FileSystem(
            driver,
            readahead=arguments.readahead,
            cache_size=arguments.cache_size,
            ksm=Ksm() if arguments.ksm else None,
            sync=options.write is None or options.write.durable,
        ) as fs:
            if archive is not None:
                shown = replace(options, generations=tuple(ShownGeneration(*one) for one in archive.names()))
                mounted = mountable(fs, archive.location(), others, replace(parsed, mount=shown), _warn)
            else:
                mounted = mountable(fs, what, others, parsed, _warn)

            def commander(serving: Serving) -> object:
                return _fuse().Commander(
                    lambda: list(reread.read(_Running(fs, serving))),
                    lambda: has_terminal and not os.isatty(2),
                )

            await _fuse().run(fs, mounted, mountpoint, options, ready, companion, commander)

    try:
        trio.run(main if watchdog_seconds() is None else partial(_watched, main))
    finally:
        if companion is not None:
            companion.stop()
    return 0


class _Running(Struct, frozen=True):
    """The parts of a mount that can be changed while it is served."""

    fs: FileSystem
    serving: Serving

    def resize_cache(self, size: int) -> None:
        self.fs.cache.resize(size)

    def resize_table(self, messages: int) -> None:
        self.serving.resize_table(messages)


async def _watched(main: Callable[[], Awaitable[None]]) -> None:
    """Run the mount, and tell the service manager regularly that its event loop still runs."""

    async def beat(seconds: float) -> None:
        while notify("WATCHDOG=1"):
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat, watchdog_seconds() or 1)
        await main()
        nursery.cancel_scope.cancel()


def _warn(text: str) -> None:
    """Log a warning, and print it to the caller, which waits until the mount is usable."""
    log.warning("%s", text)
    if not is_stderr():
        tell(text)
