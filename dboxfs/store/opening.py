"""A store is opened: here is asked, once, whether it is sdbox or mdbox."""

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
"""Seconds that the end of the mount waits until the sizes that were read are kept."""


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

    :param cache_dir: where sizes are kept for the next time, outside of the store; None: nowhere.
    :param table_size: of how many messages parsed records are kept in memory.
    :param cache_fs: what *cache_dir* is reached by; None: *fs*.
    :param inotify: that other stores use too, and that its maker runs; None: one of its own.
    :raises NoSuchStore: it can't be read.
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
                nursery.start_soon(store.follow)
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
            raise inner from None  # what went wrong inside, without the nursery's wrapping
        raise
    finally:
        store.close()
