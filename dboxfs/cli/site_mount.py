"""The parts of ``mount`` for ``--users``: the check of options, and the stores that are mounted."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dboxfs.cli.mount_options import ParsedOptions, parse_options
from dboxfs.cli.paths import overlap
from dboxfs.cli.site import SameUsers
from dboxfs.cli.status import UsageError
from dboxfs.dovecot.user import FoundUser
from dboxfs.dovecot.users import DovecotUsers
from dboxfs.errors import NoSuchStore
from dboxfs.fsapi import FileSystem
from dboxfs.store import Location
from dboxfs.vfs.options import View
from dboxfs.vfs.serving import Mountable, OneStore
from dboxfs.vfs.site.source import UserSource

if TYPE_CHECKING:
    from dboxfs.vfs.joined import MountedNamespace


def check_site_options(arguments: argparse.Namespace) -> None:
    """
    :raises UsageError: options of a mount that don't go together.
    """
    options = parse_options(arguments.options)
    if arguments.users is None:
        if options.site:
            raise UsageError(f"-o {next(iter(options.site))}: is about many users; it needs --users SOURCE")
        return
    if arguments.user is not None or arguments.settings:
        raise UsageError("--users: names all stores; leave out --user and --set")
    if arguments.io == "uring" and os.geteuid() == 0:
        raise UsageError("--io uring: can't act as each store's owner; leave it out with --users")
    if options.mount.write is not None and options.mount.view.view is not View.EML:
        view = options.mount.view.view.value
        raise UsageError(f"-o view={view}: with --users it can only be read; leave out rw")


def site_defaults(source: UserSource) -> FoundUser | None:
    """Settings of all users (separator, compression, encryption), if Dovecot names the users; else None."""
    return source.defaults() if isinstance(source, DovecotUsers) else None


class Located(SameUsers, frozen=True):
    """A source whose locations go through *change*, which gives another one, or refuses it."""

    change: Callable[[Location], Location]

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        return self.change(self.source.locate(name, damaged=damaged))


def apart_from(mountpoint: str, source: UserSource) -> UserSource:
    """*source*, which refuses stores in the mount itself: the daemon would wait for them for ever."""

    def check(found: Location) -> Location:
        part = overlap(found, mountpoint)
        if part is not None:
            raise NoSuchStore(f"{part}: {mountpoint} lies inside of this store, or the store in it")
        return found

    return Located(source, check)


def mountable(
    fs: FileSystem,
    what: Location | UserSource,
    others: Sequence[MountedNamespace],
    parsed: ParsedOptions,
    warn: Callable[[str], None],
) -> Mountable:
    """The stores to mount: one store, with or without its user's other namespaces, or those of all users.

    Only the modules for these are imported.
    """
    if isinstance(what, Location) and others:
        from dboxfs.vfs.joined import JoinedStores

        return JoinedStores(fs, what, others, parsed.mount, warn)
    if isinstance(what, Location):
        return OneStore(fs, what, parsed.mount, warn)
    from dboxfs.vfs.site.many import ManyStores
    from dboxfs.vfs.site.stores import SiteLimits

    if os.geteuid() == 0:
        os.setgroups([])  # an operation with the rights of a store's owner must not have root's groups
    site = parsed.site
    limits = replace(SiteLimits(), **{key: site[key] for key in ("stores", "idle") if key in site})
    return ManyStores(fs, what, parsed.mount, limits, by_domain=site.get("domains", False))
