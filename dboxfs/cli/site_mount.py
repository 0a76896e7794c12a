"""What ``mount --users`` adds to ``mount``: which options go together, and what is made of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dboxfs.cli.mount_options import ParsedOptions, parse_options
from dboxfs.cli.paths import overlap
from dboxfs.cli.status import UsageError
from dboxfs.dbox.encoders import Method, parse_method
from dboxfs.dovecot.users import DovecotUsers
from dboxfs.errors import NoSuchStore
from dboxfs.fsapi import FileSystem
from dboxfs.store import Kind, Location
from dboxfs.vfs.joined import JoinedStores, MountedNamespace
from dboxfs.vfs.options import View
from dboxfs.vfs.serving import Mountable, OneStore
from dboxfs.vfs.site.many import ManyStores
from dboxfs.vfs.site.source import UserSource
from dboxfs.vfs.site.stores import SiteLimits


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


def site_defaults(source: UserSource) -> tuple[str, Method | None]:
    """Separator and compression that all users have, where Dovecot is asked for them."""
    if not isinstance(source, DovecotUsers):
        return "/", None
    found = source.defaults()
    try:
        return found.separator, parse_method(found.compression or "none")
    except ValueError:
        return found.separator, None


@dataclass(frozen=True, slots=True)
class GivenToAll:
    """A source whose locations have some fields of all users alike."""

    fields: Mapping[str, Any]
    source: UserSource

    @property
    def described(self) -> str:
        return self.source.described

    @property
    def place(self) -> str:
        return self.source.place

    @property
    def kind(self) -> Kind | None:
        return self.source.kind

    def names(self) -> Sequence[str]:
        return self.source.names()

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        return replace(self.source.locate(name, damaged=damaged), **self.fields)


@dataclass(frozen=True, slots=True)
class ApartFrom:
    """A source whose stores are not in the mount itself, for which the daemon would wait for ever."""

    mountpoint: str
    source: UserSource

    @property
    def described(self) -> str:
        return self.source.described

    @property
    def place(self) -> str:
        return self.source.place

    @property
    def kind(self) -> Kind | None:
        return self.source.kind

    def names(self) -> Sequence[str]:
        return self.source.names()

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        found = self.source.locate(name, damaged=damaged)
        part = overlap(found, self.mountpoint)
        if part is not None:
            raise NoSuchStore(f"{part}: {self.mountpoint} lies inside of this store, or the store in it")
        return found


def mountable(
    fs: FileSystem,
    what: Location | UserSource,
    others: Sequence[MountedNamespace],
    parsed: ParsedOptions,
    warn: Callable[[str], None],
) -> Mountable:
    """What is mounted: one store, with other namespaces of its user or without, or those of all users."""
    if isinstance(what, Location) and others:
        return JoinedStores(fs, what, others, parsed.mount, warn)
    if isinstance(what, Location):
        return OneStore(fs, what, parsed.mount, warn)
    if os.geteuid() == 0:
        os.setgroups([])  # who acts as a store's owner has no groups of root's
    site = parsed.site
    limits = replace(SiteLimits(), **{key: site[key] for key in ("stores", "idle") if key in site})
    return ManyStores(fs, what, parsed.mount, limits, by_domain=site.get("domains", False))
