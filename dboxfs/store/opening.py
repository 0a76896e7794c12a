"""Open a store: the only module that finds out whether it is sdbox or mdbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from dboxfs.fsapi import FileSystem
from dboxfs.store.details_cache import DEFAULT_LIMIT
from dboxfs.store.location import Kind, Location
from dboxfs.store.mdbox.read import MdboxBackend
from dboxfs.store.mdbox.storage import MdboxStorage
from dboxfs.store.prefetch import AheadFiles
from dboxfs.store.sdbox.read import SdboxBackend
from dboxfs.store.store import Store
from dboxfs.store.watch import Inotify

_KEEP_SECONDS = 10.0
"""Seconds that the end of the mount waits at most for the write of the size tables."""


@asynccontextmanager
async def open_store(
    fs: FileSystem,
    location: Location,
    *,
    follow: bool = True,
    cache_dir: str | None = None,
    table_size: int = DEFAULT_LIMIT,
    cache_fs: FileSystem | None = None,
    inotify: Inotify | None = None,
) -> AsyncIterator[Store]:
    """The store at *location*, loaded; with *follow* it keeps itself up to date while the context lasts.

    :param cache_dir: the directory of the size tables, outside of the store; None: sizes are not kept.
    :param table_size: number of messages whose parsed records are kept in memory.
    :param cache_fs: the file API for *cache_dir*; None: *fs*.
    :param inotify: shared with other stores, and run by its maker; None: make an own one.
    :raises NoSuchStore: the store can't be read.
    """
    ahead = AheadFiles(fs)
    storage = MdboxStorage(fs, location) if location.kind is Kind.MDBOX else None
    backend = SdboxBackend(fs, location, ahead) if storage is None else MdboxBackend(storage)
    cache = None if cache_dir is None else (cache_fs or fs, cache_dir)
    store = Store(fs, location, backend, storage, ahead, cache, table_size, inotify)
    inner: BaseException | None = None
    try:
        await store.load()
        async with trio.open_nursery() as nursery:
            if follow:
                nursery.start_soon(store.ahead.run if fs.capabilities.frozen else store.follow)
            try:
                yield store
            except BaseException as exc:
                inner = exc
                raise
            finally:
                with trio.move_on_after(_KEEP_SECONDS, shield=True):
                    await store.keep_sizes()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if inner is not None and group.exceptions == (inner,):
            raise inner from None  # the error inside, without the nursery's group
        raise
    finally:
        if store.claim is not None:
            with trio.CancelScope(shield=True):
                await store.claim.close()
        store.close()
