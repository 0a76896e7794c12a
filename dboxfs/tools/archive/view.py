"""An archive seen as a store: a driver that shows one generation, and the location to open with it.

Nothing is asked of the object store before the driver is started, by the process that reads: what obstore
has begun doesn't live through a fork.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from msgspec.structs import replace

from dboxfs.errors import CorruptFile, NoSuchStore
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.object_access import Access
from dboxfs.fsapi.drivers.object_client import Cost, Objects, connect, refuse_nowhere
from dboxfs.fsapi.drivers.slices import Slice, SlicesDriver, SliceTree
from dboxfs.store.location import Kind, Location
from dboxfs.tools.archive.data_file import file_id_of
from dboxfs.tools.archive.generation import DATA, GENERATIONS, SIZES, Generation, made_at, stamp
from dboxfs.tools.archive.mailbox_object import PLACE
from dboxfs.tools.archive.repository import Repository
from dboxfs.util.dates import moment, rfc3339

log = logging.getLogger(__name__)


def parse_at(text: str) -> str:
    """A day or a time (:func:`~dboxfs.util.dates.moment`) in UTC, as keys of generations begin: the newest
    generation *before* it is meant.

    :raises ValueError: it is neither.
    """
    return stamp(moment(text))


class ArchiveView:
    """One generation of the archive at *url*.

    :param at: the newest one before that (:func:`parse_at`); None: the newest one.
    :param access: how the server is asked.
    :param damaged: for a rescue: where there is no generation, or none that can be read, the message files
        are shown.
    :param make: makes the store; in tests one with faults.
    :ivar generation: what is shown, once the driver is started; None: message files alone.
    :ivar keys: of all generations.
    :ivar cost: what was asked of the store so far.
    :ivar complaint: why it is message files alone; empty: it is not.
    """

    def __init__(
        self,
        url: str,
        at: str | None = None,
        access: Access | None = None,
        *,
        damaged: bool = False,
        make: Callable[[str, Access | None], Objects] = connect,
    ) -> None:
        self.url = url.rstrip("/")
        self.generation: Generation | None = None
        self.keys: list[str] = []
        self.complaint = ""
        self.cost = Cost()
        self._at = at
        self._access = access
        self._damaged = damaged
        self._make = make

    def driver(self, workers: int = 32) -> SlicesDriver:
        """Shows the generation below the path that the URL is."""
        return SlicesDriver(self._connect, self.url, workers)

    @property
    def cache_dir(self) -> str:
        """Where the tables of sizes are."""
        return f"{self.url}/{SIZES}"

    def location(self, given: Location | None = None) -> Location:
        """Of the store that is shown, once the driver is started.  ``given``: with options that were
        given."""
        location = given if given is not None else Location(Kind.MDBOX, self.url)
        if self.generation is None:
            return dataclasses.replace(location, root=f"{self.url}/{PLACE.storage}", loose=True)
        return dataclasses.replace(location, utf8=self.generation.utf8, escape=self.generation.escape)

    def _connect(self) -> tuple[Objects, SliceTree]:
        refuse_nowhere(self.url)
        objects = self._make(self.url, self._access)
        self.cost = objects.cost
        repository = Repository(objects, self.url)
        try:
            self.keys = repository.generations()
            self.generation = repository.opened(self._at)
            tree = self.generation.tree()
        except (CorruptFile, NoSuchStore, FileNotFoundError) as error:
            if not self._damaged or (self._at is not None and isinstance(error, NoSuchStore)):
                raise
            self.complaint = str(error)
            return objects, _message_files(objects)
        if self._damaged:
            tree = _what_is_left(tree, objects)
        return objects, tree

    def names(self) -> list[tuple[str, str, bool]]:
        """The generations, the oldest first: name, what selects it with ``at``, whether it is shown."""
        found = []
        for key in self.keys:
            name = key.removeprefix(GENERATIONS + "/")
            shown = self.generation is not None and self.generation.key == key
            found.append((name, rfc3339(made_at(key) + 1), shown))
        return found


def _message_files(objects: Objects) -> SliceTree:
    """All message files; where several have one number, the later ones get others."""
    files: dict[str, Slice] = {}
    number = 0
    for info in sorted(objects.list_all(DATA), key=lambda one: (file_id_of(one.key), one.key)):
        number = max(number + 1, file_id_of(info.key))
        files[f"{PLACE.storage}/m.{number}"] = Slice(info.key, 0, info.size)
    return SliceTree(files, {}, (PLACE.storage,))


def _what_is_left(tree: SliceTree, objects: Objects) -> SliceTree:
    """*tree* without files whose objects are gone, and with message files as long as they are now."""
    there = {info.key: info.size for info in objects.list_all("")}
    files = {}
    for path, one in tree.files.items():
        if one.key in tree.packed and one.key in there:
            files[path] = one
        elif one.key in there:
            files[path] = replace(one, size=min(one.size, there[one.key]))
    return SliceTree(files, tree.packed, tree.directories, tree.modified_ns)


@asynccontextmanager
async def store_files(
    local: FileSystem,
    location: Location,
    at: str | None = None,
    access: Access | None = None,
    *,
    damaged: bool = False,
) -> AsyncIterator[tuple[FileSystem, Location]]:
    """What a store is reached by, and where it is: *local*, or the archive whose URL is the root of
    *location*.

    :raises NoSuchStore, CorruptFile, OSError: it is an archive, and can't be opened.
    """
    from dboxfs.fsapi.drivers.object_client import is_url

    if not is_url(location.root):
        yield local, location
        return
    view = ArchiveView(location.root, at, access, damaged=damaged)
    async with FileSystem(view.driver()) as fs:
        if view.complaint:
            log.warning("%s; the messages are read without it", view.complaint)
        yield fs, view.location(location)
