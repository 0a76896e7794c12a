"""``doctor``: reports problems of this machine, or a store, for mounts; and the remedy of each."""

from __future__ import annotations

import argparse
import importlib
import os
import pwd
from collections.abc import Iterator
from shlex import quote

import trio

from dboxfs.cli.help_texts import STORE_HELP
from dboxfs.cli.liveness import Answer, ask
from dboxfs.cli.logs import log_to_stderr, one_line
from dboxfs.cli.owned import store_to_read
from dboxfs.cli.stores import add_store, choose_store
from dboxfs.cli.top import read_stats
from dboxfs.dovecot.ask import Block, installed
from dboxfs.errors import DboxfsError, NoDovecot
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Location, Store
from dboxfs.store.hidden import hidden_in, summary
from dboxfs.util import machine as look
from dboxfs.util import mounts
from dboxfs.util.machine import ERROR, NOTE, WARNING, Machine, Remark

DESCRIPTION = """\
Look for what is wrong with this machine, or with STORE, for mounts of dboxfs. Nothing is changed. Each line
says how bad it is (error, warning, note), what is so, and what to do.

"""

STATUS = "exit status: 0 notes at most, 1 something is wrong, 2 wrong usage, 3 store missing or unreadable"

_MOST_OWNERS = 3
_SECONDS = 1.0
"""Seconds that a mount may take to answer."""
_MOST_FILES = 20_000
"""Files whose owner is checked, at most."""


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs doctor``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION + STORE_HELP
    parser.epilog = STATUS
    parser.set_defaults(run=doctor)
    add_store(parser, by_option=by_option, optional=True)


def doctor(arguments: argparse.Namespace) -> int:
    """``dboxfs doctor [STORE]``."""
    log_to_stderr()
    machine = Machine(uid=os.geteuid())
    remarks = list(_machine(machine)) + list(_dovecot(arguments.config))
    if arguments.store is not None or arguments.user is not None or arguments.settings:
        remarks += _store(choose_store(arguments).location, machine)
    for remark in sorted(remarks, key=lambda remark: (ERROR, WARNING, NOTE).index(remark.level)):
        print(one_line(f"{remark.level}: {remark.what}; {remark.remedy}"))
    bad = sum(remark.level != NOTE for remark in remarks)
    print("nothing is in the way" if not bad else f"{bad} problems: each line above ends with what to do")
    return 1 if bad else 0


def _machine(machine: Machine) -> Iterator[Remark]:
    yield from look.fuse_device(machine)
    yield from look.fusermount(machine)
    yield from look.user_allow_other(machine)
    yield from look.updatedb(machine)
    yield from look.backups(machine)
    yield from _mounts()
    try:
        importlib.import_module("dboxfs.fuse.mount")
    except ImportError as exc:
        yield Remark(ERROR, f"pyfuse3 can't be used: {exc}", "install pyfuse3 and libfuse 3")


def _mounts() -> Iterator[Remark]:
    """Remarks on the living mounts that this user may look into."""
    for mount in mounts.table():
        if mount.kind != mounts.TYPE or ask(mount, _SECONDS) is not Answer.GIVEN:
            continue
        try:
            mode = read_stats(mount.point).get("mountpoint_mode")
        except (OSError, ValueError):
            continue
        if mode is not None:
            yield from look.mirrors(mount.point, mode)


# -- Dovecot ---------------------------------------------------------------------------------------------


def _dovecot(config: str | None) -> Iterator[Remark]:
    """Remarks on the installed Dovecot that matter to writers beside it."""
    try:
        found = installed(config)
        yield from of_configuration(found.version, found.configuration())
    except NoDovecot as exc:
        remedy = "mount writable with -o alone only if no Dovecot on another machine uses the store"
        yield Remark(NOTE, f"Dovecot's settings on this machine can't be read: {exc}", remedy)


def of_configuration(version: tuple[int, int], configuration: Block) -> Iterator[Remark]:
    """Remarks on settings of Dovecot that a mount has to respect.

    :param version: major and minor number.
    """
    number = f"Dovecot {version[0]}.{version[1]}"
    if version not in ((2, 3), (2, 4)):
        yield Remark(
            WARNING,
            f"{number} is installed: dboxfs was tried with 2.3 and 2.4",
            "try it on a copy of a store first",
        )
    settings = configuration.settings
    method = settings.get("lock_method", "fcntl")
    if method != "fcntl":
        what = f"{number} has lock_method = {method}"
        yield Remark(WARNING, what, f"writable mounts need the same: -o rw,lock_method={method}")
    if settings.get("mmap_disable") == "yes" or settings.get("mail_nfs_index") == "yes":
        what = f"{number} is configured for mail that several machines write (mmap_disable, mail_nfs_index)"
        yield Remark(WARNING, what, "write to a store only on the machine where the Dovecot of its user runs")


# -- a store ---------------------------------------------------------------------------------------------


def _store(location: Location, machine: Machine) -> list[Remark]:
    places = [location.root, location.index, location.control, location.alt, location.attachments]
    paths = [path for path in places if path is not None and os.path.exists(path)]
    remarks = [*look.network(paths), *_owners(location, machine), *_read_only(location)]

    async def run() -> list[Remark]:
        async with FileSystem(ThreadsDriver()) as fs, store_to_read(fs, location) as store:
            return [*await _hidden(store), *look.watches(machine, len(store.folders))]

    return remarks + trio.run(run)


async def _hidden(store: Store) -> list[Remark]:
    try:
        found = await hidden_in(store)
    except (DboxfsError, OSError) as exc:
        return [
            Remark(ERROR, f"{store.location.root}: can't be looked through: {exc}", "dboxfs check says more")
        ]
    remarks = [Remark(ERROR, summary(found), "name all parts of the store, or --user")] if found else []
    for name, why in list(store.index_errors.items())[:1]:
        more = f" (and {len(store.index_errors) - 1} more)" if len(store.index_errors) > 1 else ""
        remarks.append(Remark(ERROR, f"{name}{more}: {why}", f"dboxfs check {quote(store.location.root)}"))
    return remarks


def _owners(location: Location, machine: Machine) -> list[Remark]:
    """Remarks on files whose owner is not that of the store's root, and on a store of another user."""
    owner = os.stat(location.root).st_uid
    remarks = []
    if machine.uid not in (0, owner):
        what = f"{location.root}: belongs to {_name(owner)}, you are {_name(machine.uid)}"
        remarks.append(Remark(ERROR, what, f"run dboxfs as {_name(owner)} or as root"))
    others: dict[int, str] = {}
    for number, path in enumerate(_files(location.root)):
        if number >= _MOST_FILES:
            break
        uid = os.lstat(path).st_uid
        if uid != owner:
            others.setdefault(uid, path)
    for uid, path in list(others.items())[:_MOST_OWNERS]:
        what = f"{path}: belongs to {_name(uid)}, the store to {_name(owner)}: one of them can't write it"
        remarks.append(Remark(WARNING, what, f"chown -R --from={uid} {owner} {quote(location.root)}"))
    return remarks


def _files(root: str) -> Iterator[str]:
    for above, directories, files in os.walk(root, onerror=None):
        yield from (os.path.join(above, name) for name in [*directories, *files])


def _read_only(location: Location) -> list[Remark]:
    if os.statvfs(location.root).f_flag & os.ST_RDONLY:
        return [Remark(NOTE, f"{location.root}: lies on a read-only file system", "mount it without -o rw")]
    return []


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
