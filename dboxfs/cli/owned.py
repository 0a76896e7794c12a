"""The store of a command, with the rights of its owner (:mod:`dboxfs.store.owner_rights`).

A command that reads goes on with root's rights, and says so, if the owner can't reach the store: a copy of it
lies below ``/root``.  A command that writes is refused then.  ``--root-rights`` reads with root's rights
whatever the owner could do: a store may have files of a wrong owner, which a rescue shall read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dboxfs.cli.logs import tell
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.object_access import Access
from dboxfs.store import Location, Store, open_store
from dboxfs.store.owner_rights import check_owner, open_owned_store, owned_files
from dboxfs.tools.archive.view import store_files

TO_WRITE = "open the way for its owner (chmod o+x on the directories above it), or give the store to root"
"""What to do about a store that its owner can't reach, and that shall be changed."""


def add_root_rights(parser: argparse.ArgumentParser, what: str = "STORE") -> None:
    """Declare ``--root-rights``.

    :param what: the name of the argument that it is about.
    """
    parser.add_argument(
        "--root-rights", action="store_true",
        help=f"as root: read files of {what} that its owner may not read; links in it may then lead anywhere",
    )  # fmt: skip


@asynccontextmanager
async def files_of(
    fs: FileSystem,
    location: Location,
    at: str | None = None,
    access: Access | None = None,
    *,
    damaged: bool = False,
    root_rights: bool = False,
) -> AsyncIterator[tuple[FileSystem, Location]]:
    """The file system that reaches the store, or the archive, at *location*, and its location there.

    :param at, access, damaged: as for :func:`~dboxfs.tools.archive.view.store_files`.
    :raises NoSuchStore, CorruptFile, OSError: it is an archive, and can't be opened.
    """
    async with store_files(fs, location, at, access, damaged=damaged) as (files, place):
        if root_rights:
            yield files, place
            return
        async with owned_files(files, place.root, strict=False, warn=tell) as (owned, _):
            yield owned, place


@asynccontextmanager
async def store_to_read(
    fs: FileSystem,
    location: Location,
    at: str | None = None,
    access: Access | None = None,
    *,
    cache_dir: str | None = None,
    root_rights: bool = False,
) -> AsyncIterator[Store]:
    """The store, or the archive, at *location*, opened once; ``store.fs`` reaches it.

    :raises NoSuchStore, CorruptFile, OSError: it can't be opened.
    """
    async with store_files(fs, location, at, access) as (files, place):
        if root_rights:
            async with open_store(files, place, follow=False, cache_dir=cache_dir) as store:
                yield store
            return
        async with open_owned_store(
            files, place, strict=False, warn=tell, follow=False, cache_dir=cache_dir
        ) as store:
            yield store


@asynccontextmanager
async def store_to_write(fs: FileSystem, location: Location, *, new: bool = False) -> AsyncIterator[Store]:
    """The store at *location*, opened once; ``store.fs`` writes it.

    :param new: the command has just made it: nobody could plant links in it.
    :raises NoSuchStore: it can't be opened; its owner can't reach it.
    """
    async with (
        owned_files(fs, location.root, strict=not new, warn=_nothing if new else tell, advice=TO_WRITE) as (
            files,
            owner,
        ),
        open_store(files, location, follow=False) as store,
    ):
        check_owner(store, owner)
        yield store


def more_as_root(arguments: argparse.Namespace) -> str:
    """What else can be done about files that were left out; empty: nothing."""
    if os.geteuid() != 0 or arguments.root_rights:
        return ""
    return "; of files that the owner of the store may not read, --root-rights takes those, too"


def _nothing(text: str) -> None:
    """A new store that its owner can't reach has no links."""
