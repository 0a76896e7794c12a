"""The open stores of a site: each is opened by the first request for it, and closed when it is not needed.

A bounded number is open at a time.  All of them share one driver with its workers, one page cache, one
inotify and one way to the kernel.  Each store has a :class:`~dboxfs.fsapi.FileSystem` of its own above a
:class:`~dboxfs.fsapi.drivers.tenant.TenantDriver`, which bounds its operations in flight and, if the daemon
runs as root, carries them out with the rights of the store's owner.  Each has a task tree of its own: an
error in it ends this store alone.

When a store is closed, the kernel may still have names, attributes and listings of it, and no task updates
these any more.  So the kernel is told that the user's name has changed: from then on it looks up every path
through it again, and that opens the store.  If the index of a mailbox has another log at the next open than
it had at the close, its files may have been repaired meanwhile: the kernel drops their pages.

Concurrency: :meth:`Stores.open` runs under the user's own lock.  To open a store waits for no other store,
except for a place: an idle store is closed for it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.tenant import TenantDriver
from dboxfs.store import Location, Store, open_store
from dboxfs.store.owner_rights import check_owner
from dboxfs.store.watch import Inotify
from dboxfs.util.mounts import Mount
from dboxfs.vfs.attrs import SHORT
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.host import Host, Pages, spawner
from dboxfs.vfs.options import MountOptions
from dboxfs.vfs.serving import Served, look_for_hidden_mail, serve
from dboxfs.vfs.site.source import UserSource
from dboxfs.vfs.site.told import UserKernel, UserPages
from dboxfs.vfs.site.user import CROWD, OpenStore, SiteUser
from dboxfs.vfs.unopened import Unopened

log = logging.getLogger(__name__)

PLACE_SECONDS = 10.0
"""Seconds that a request waits for a place among the open stores, at most; then it is refused (ENFILE)."""

LOOK_EVERY = 5.0
"""Seconds between two looks for idle stores, at most."""


class SiteLimits(Struct, frozen=True):
    """Limits of all stores of a site together.

    :ivar stores: open stores, at most.  :ivar idle: seconds after which an idle store is closed.
    """

    stores: int = 200
    idle: float = 60.0

    @property
    def spare(self) -> int:
        """Places that are kept free for the next users."""
        return self.stores // 20


class Stores:
    """Opens and closes the stores of a site.

    :param fs: the file API whose driver and cache all stores share.
    :param nursery: the stores' tasks run in it.
    :ivar after: gives the user behind another one in the listing; None: it is the last.
    :ivar pages: the kernel's page cache in a mount without OPEN; None: the mount has OPEN.
    :ivar mount: the mount as the kernel lists it.
    """

    def __init__(
        self,
        fs: FileSystem,
        source: UserSource,
        options: MountOptions,
        host: Host,
        nursery: trio.Nursery,
        limits: SiteLimits,
    ) -> None:
        self.after: Callable[[SiteUser], SiteUser | None] = lambda _: None
        self.pages: Pages | None = None
        self.mount: Mount | None = None
        self.inotify = Inotify()
        self.opened = self.closed = self.failed = 0
        self._fs = fs
        self._source = source
        self._options = replace(options, table_size=table_share(options.table_size))
        self._host = host
        self._nursery = nursery
        self._limits = limits
        self._open: dict[SiteUser, OpenStore] = {}
        self._taken = 0
        self._freed = trio.Event()
        self._tidying = False
        self._last: SiteUser | None = None

    @property
    def users(self) -> list[SiteUser]:
        """The users whose store is open."""
        return list(self._open)

    async def run(self) -> None:
        """Deliver the events of inotify, and close idle stores, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.inotify.run)
            while True:
                await trio.sleep(min(LOOK_EVERY, self._limits.idle))
                since = trio.current_time() - self._limits.idle
                for user in [user for user in self._open if user.used < since]:
                    await self.close(user)

    async def drop_caches(self) -> None:
        """Read every open store again; an error of one is logged.

        Of a closed store nothing is kept here, and the kernel was told when it was closed.
        """
        self._fs.cache.clear()
        for user in self.users:
            async with user.turn:
                try:
                    if user.store is not None:
                        await user.store.served.reading.drop_caches()
                except (DboxfsError, OSError) as exc:
                    log.error("user %s: the store can't be read again: %s", user.name, exc)

    def resize_tables(self, messages: int) -> None:
        """Let all stores together keep the metadata of about *messages* messages in memory."""
        self._options = replace(self._options, table_size=table_share(messages))
        for user in self.users:
            if user.store is not None:
                user.store.served.reading.store.records.resize(self._options.table_size)

    # -- opening -------------------------------------------------------------------------------

    async def open(self, user: SiteUser) -> None:
        """Open a store.  The caller holds its user's lock.

        :raises Refused: it can't be opened, and the log has the reason; ENFILE: too many stores are in use.
        """
        await self._open_now(user)
        self._open_ahead(user)

    async def _open_now(self, user: SiteUser) -> None:
        await self._take_place()
        try:
            await self._nursery.start(self._live, user)
        except BaseException as exc:
            self._give_place()
            error = _inner(exc)
            if not isinstance(error, Exception):
                raise
            self.failed += 1
            raise user.failed(*_why(error)) from exc

    def _open_ahead(self, user: SiteUser) -> None:
        """Open the next user's store, too, if users are entered in the order of the listing (a backup)."""
        before, self._last = self._last, user
        following = self.after(user)
        if before is None or self.after(before) is not user or following is None:
            return
        if following.store is None and not following.turn.locked() and self._taken < self._limits.stores:
            self._nursery.start_soon(self._ahead, following)

    async def _ahead(self, user: SiteUser) -> None:
        with suppress(Refused):  # the first request for the store gets the error
            async with user.turn:
                if user.store is None and self._taken < self._limits.stores:
                    await self._open_now(user)
                    user.first_entered = self._open_ahead

    async def _make_room(self) -> None:
        """Close the least recently used stores until enough places are free."""
        while self._taken > self._limits.stores - self._limits.spare and await self._close_one():
            pass
        self._tidying = False

    async def _close_one(self) -> bool:
        """Close the least recently used store; False: all are in use."""
        idle = [user for user in self._open if user.is_idle and not user.turn.locked()]
        if idle:
            await self.close(min(idle, key=lambda user: user.used))
        return bool(idle)

    async def _take_place(self) -> None:
        with trio.move_on_after(PLACE_SECONDS):
            while self._taken >= self._limits.stores:
                if not await self._close_one():
                    self._freed = trio.Event()
                    with trio.move_on_after(0.05):
                        await self._freed.wait()
            self._taken += 1
            if not self._tidying and self._taken > self._limits.stores - self._limits.spare:
                self._tidying = True
                self._nursery.start_soon(self._make_room)
            return
        raise Refused(errno.ENFILE)

    def _give_place(self) -> None:
        self._taken -= 1
        self._freed.set()

    async def _live(
        self, user: SiteUser, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """The life of an open store."""
        started = False
        try:
            async with self._serving(user) as found:
                user.store = found
                user.used, user.opened = trio.current_time(), user.opened + 1
                self._open[user] = found
                self.opened += 1
                user.works()
                started = True
                task_status.started()
                await found.closing.wait()
        except Exception as exc:
            if not started:
                raise
            log.error("user %s: the store was closed by an error: %r", user.name, _inner(exc), exc_info=exc)
        finally:
            if started:
                user.store = None
                self._open.pop(user, None)
                self.closed += 1
                self._give_place()
                found.gone.set()

    @asynccontextmanager
    async def _serving(self, user: SiteUser) -> AsyncIterator[OpenStore]:
        location = await self.locate(user)
        owner = await self.look(user, location.root)
        driver = TenantDriver(self._fs.driver, owner)
        async with (
            self._fs.sharing(driver) as fs,
            open_store(
                fs,
                location,
                cache_dir=self._options.cache_dir,
                table_size=self._options.table_size,
                cache_fs=self._fs,
                inotify=self.inotify,
            ) as store,
            trio.open_nursery() as nursery,
        ):
            check_owner(store, owner)
            await look_for_hidden_mail(store, self._options, partial(_warn, user))
            user.numbers.begin()
            try:
                host = replace(
                    self._host,
                    spawn=spawner(nursery, f"user {user.name}: "),
                    kernel=UserKernel(self._host.kernel, user.numbers),
                    requests=user.requests,
                    stats=dict,
                    outside=user.numbers.out,
                )
                served = await serve(store, self._options_of(location), host)
                unopened = self._unopened(served, user)
                self._doubt(user, store, served)
                served.begin(host.spawn, self.mount)
                yield OpenStore(served, unopened)
                await served.finish()
                self._forgotten(user, store, served)
                if unopened is not None:
                    unopened.close()
            finally:
                user.store = None
                user.numbers.end()
            nursery.cancel_scope.cancel()

    def _options_of(self, location: Location) -> MountOptions:
        """The options of one store: users may have keys of their own."""
        write = self._options.write
        if write is None or location.encrypt is None:
            return self._options
        return replace(self._options, write=replace(write, encrypt=location.encrypt))

    def _unopened(self, served: Served, user: SiteUser) -> Unopened | None:
        if self.pages is None:
            return None
        return served.unopen(UserPages(self.pages, user.numbers))

    async def locate(self, user: SiteUser) -> Location:
        """The location of the user's store, found on a thread, which is abandoned if it hangs."""
        limiter = trio.CapacityLimiter(1)
        return await trio.to_thread.run_sync(
            self._source.locate, user.name, limiter=limiter, abandon_on_cancel=True
        )

    @property
    def names_expire(self) -> bool:
        """Whether names can't be invalidated in the kernel."""
        return self._host.kernel.names_expire

    async def owner(self, user: SiteUser) -> tuple[int, int]:
        """Uid and gid of the user's store, read again if the store is not open.

        :raises Refused: they can't be found out, and the log has the reason; EBUSY: too many requests wait.
        """
        if user.owner is not None and (user.store is not None or trio.current_time() - user.seen_at < SHORT):
            return user.owner
        if user.waiting >= CROWD:
            raise Refused(errno.EBUSY)
        user.waiting += 1
        try:
            return await self.look(user, (await self.locate(user)).root)
        except (DboxfsError, OSError) as exc:
            raise user.failed(*_why(exc)) from exc
        finally:
            user.waiting -= 1

    async def look(self, user: SiteUser, root: str) -> tuple[int, int]:
        """Uid and gid of the root of a store."""
        found = await self._fs.stat(root)
        user.owner, user.seen_at = (found.st_uid, found.st_gid), trio.current_time()
        return user.owner

    # -- closing -------------------------------------------------------------------------------

    async def close(self, user: SiteUser) -> None:
        """Close the store of *user*, unless it is in use by now; returns when it is closed."""
        async with user.turn:
            if user.is_idle:
                await self._end(user)

    async def _end(self, user: SiteUser) -> None:
        found = self._open[user]
        user.store = None  # a request from now on waits for the lock, and opens it again
        found.closing.set()
        await found.gone.wait()

    async def close_all(self) -> None:
        """The mount ends: close all stores, which finishes the work of answered requests."""
        async with trio.open_nursery() as nursery:
            for user in self.users:
                nursery.start_soon(self._end, user)

    def _forgotten(self, user: SiteUser, store: Store, served: Served) -> None:
        """Have the kernel ask again for all entries of a store, and remember the log of each mailbox."""
        kernel, inodes = UserKernel(self._host.kernel, user.numbers), served.reading.inodes
        self._host.kernel.entry(user.above, user.shown)
        user.logs.clear()
        for folder in store.folders.values():
            inode = inodes.of(folder)
            kernel.attributes(inode)
            kernel.listing(inode)
            box = folder.mailbox
            if box is not None and box.state is not None:
                user.logs[inode] = box.state.log_file_seq

    @staticmethod
    def _doubt(user: SiteUser, store: Store, served: Served) -> None:
        for folder in store.folders.values():
            inode, box = served.reading.inodes.of(folder), folder.mailbox
            known = user.logs.get(inode)
            if box is not None and box.state is not None and known not in (None, box.state.log_file_seq):
                served.reading.doubt(inode)


def table_share(messages: int) -> int:
    """How many messages' metadata one store of a site may keep, if *messages* is the limit of them all."""
    return max(256, messages // 32)


def _warn(user: SiteUser, text: str) -> None:
    log.warning("user %s: %s", user.name, text)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _inner(error: BaseException) -> BaseException:
    """The error inside of the groups of nurseries; one that is no Exception goes first."""
    found = list(_leaves(error))
    return next((one for one in found if not isinstance(one, Exception)), found[0])


def _why(error: Exception) -> tuple[int, str]:
    """The errno for a store that can't be opened, and the line for the log."""
    number = error.errno if isinstance(error, DboxfsError | OSError) and error.errno else errno.EIO
    number = number if number in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENFILE) else errno.EIO
    text = (
        f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    )
    return number, text if isinstance(error, DboxfsError | OSError) else repr(error)
