"""The kernel's requests, answered from the store.

A thin adapter: what a request means is decided here, what is in the store is asked there.  Every handler
runs through
:func:`handler`, which counts it and maps errors to errno values in one place.

The mount is read-only: the kernel refuses writing itself (mount option ``ro``); a handler that is reached
all the same answers EROFS.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import pyfuse3
import trio
from pyfuse3 import FUSEError

from dboxfs.errors import CorruptFile, NoSuchMessage
from dboxfs.fuse.error_map import ErrorMap
from dboxfs.fuse.loop import LoopLowlevel
from dboxfs.fuse.notify import Notifier
from dboxfs.store import KNOWN, UNKNOWN, Body, Delta, Facts, Folder, Kind, Listener, Mailbox, Store
from dboxfs.store.names.follow import NameFollower
from dboxfs.store.names.read import NameReader
from dboxfs.store.names.table import WrittenNames, decode, encode, number_of
from dboxfs.util.mounts import Mount
from dboxfs.vfs import control as control_files
from dboxfs.vfs import xattrs
from dboxfs.vfs.attrs import SHORT, Attributes, fill
from dboxfs.vfs.kernel_pages import Doubts, Pushed
from dboxfs.vfs.listing import Listing
from dboxfs.vfs.node import CONTROL, ROOT, UID_MASK, Inodes
from dboxfs.vfs.options import Entries, ViewOptions

SCAN_PATIENCE = 2.0
"""Seconds that a listing waits in all for sizes; the kernel asks for the others when it needs them."""

SCAN_AT_ONCE = 100_000
"""A listing doesn't begin to read the sizes of more messages than this: ``find`` needs none."""

MANY_ASKED = 256
"""When the sizes of so many messages were asked for one by one, the rest is read too."""

PUSH_MOST = 2 << 20
"""Messages up to this many bytes are put into the kernel's cache when they are opened."""

_READDIR_AHEAD = 64

_TIMES = 3
"""A request about a message whose mailbox was renamed meanwhile is answered at the third time at the
latest.
"""

_LOOKS = 8
"""A mailbox that isn't where it was is looked for so often, ..."""

_LOOK_AGAIN = 0.01
"""... after so many seconds more each time."""

_MISSED = 64
"""So many folder numbers are remembered that were looked for in vain, ..."""

_MISSED_FOR = 1.0
"""... for so many seconds."""

_BY_INODE = frozenset({"getattr", "setattr", "open", "getxattr", "setxattr", "listxattr", "removexattr"})
"""Requests about an inode that the kernel remembers of a name, which may stand for another one by now."""

P = ParamSpec("P")
R = TypeVar("R")
O = TypeVar("O", bound="Operations")  # noqa: E741 - as P and R


def handler(
    method: Callable[Concatenate[O, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[O, P], Coroutine[Any, Any, R]]:
    """Count the request, and let nothing out but FUSEError."""
    name = method.__name__
    by_inode, by_parent = name in _BY_INODE, name == "lookup"

    async def answered(self: O, *args: P.args, **kwargs: P.kwargs) -> R:
        self.requests[name] += 1
        for _ in range(_TIMES):
            error: Exception
            before = self.folder_of(cast(int, args[0])) if by_parent else None
            try:
                return await method(self, *args, **kwargs)
            except FUSEError as exc:
                number, error = exc.errno, exc
            except Exception as exc:  # noqa: BLE001 - every one becomes an errno
                number, error = self._errors.errno_of(exc, name), exc
            if number != errno.ENOENT or not (by_inode or by_parent):
                break
            inode = cast(int, args[0])
            if not await (self.is_another(inode, before) if by_parent else self.is_back(inode)):
                break
        raise FUSEError(stale(cast(int, args[0]), number) if by_inode else number) from error

    return wraps(method)(answered)  # type: ignore[return-value]


def stale(inode: int, number: int) -> int:
    """ESTALE where a message is gone (ENOENT): the kernel then looks up the name again, once, which tells."""
    is_message = inode >> 32 and inode & UID_MASK
    return errno.ESTALE if is_message and number == errno.ENOENT else number


class _OpenFile:
    """An open message: its bytes, and the attributes that fstat goes on giving after an expunge."""

    __slots__ = ("body", "facts", "inode")

    def __init__(self, inode: int, body: Body, facts: Facts) -> None:
        self.inode = inode
        self.body = body
        self.facts = facts


class Operations(pyfuse3.Operations):
    """One mounted store.

    :param spawn: starts a background task that lives as long as the mount.
    :ivar greeted: the kernel has begun to talk to us: the mount answers.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self,
        store: Store,
        options: ViewOptions,
        spawn: Callable[[Callable[[], Awaitable[object]]], None],
        reader: NameReader | None = None,
    ) -> None:
        super().__init__()
        self.requests = dict.fromkeys(
            ("lookup", "getattr", "open", "read", "release", "opendir", "readdir", "releasedir", "getxattr",
             "listxattr", "statfs", "flush", "setattr"), 0,
        )  # fmt: skip
        self.notifier = Notifier()
        self.greeted = trio.Event()
        self.loop: LoopLowlevel | None = None
        self._store = store
        self._options = options
        self._spawn = spawn
        self._reader = reader
        self._names = reader.names if reader is not None else WrittenNames()
        self.follower = NameFollower(reader) if reader is not None else None
        if reader is not None:
            reader.changed = self._names_changed
        self._inodes = Inodes()
        self._control = control_files.Control(store, lambda: self.requests, self._kernel_stats)
        self._attributes = Attributes(store, options, self._control.mounted_at)
        self._files: dict[int, _OpenFile | bytes] = {}
        self._listings: dict[int, Listing | None] = {}
        self._open_inodes: dict[int, list[_OpenFile]] = {}
        self._next_handle = 1
        self._pushed = Pushed()
        self._doubts = Doubts()
        self._pushes = 0
        self._pushed_bytes = 0
        self._scans: set[Mailbox] = set()
        self._asked: WeakKeyDictionary[Mailbox, int] = WeakKeyDictionary()
        self._errors = ErrorMap()
        self._missed: OrderedDict[int, float] = OrderedDict()
        for folder in sorted(store.folders.values(), key=lambda folder: folder.name):
            self._inodes.add(folder)
        store.listen(Listener(self._messages_changed, self._folder_gone, self._folder_new))

    def init(self) -> None:
        """The first request of the kernel; the answer is sent before another task runs."""
        self.greeted.set()

    def mounted(self, mount: Mount | None) -> None:
        """The mount was made; None: the kernel doesn't tell which it is."""

    def _kernel_stats(self) -> dict[str, object]:
        loop = self.loop
        return {
            "pushed_to_kernel": {"messages": self._pushes, "bytes": self._pushed_bytes},
            "invalidations": self.notifier.sent,
            "skipped_lines_of_names": self._reader.skipped if self._reader is not None else 0,
            "entries": {"by": self.notifier.means.value, "epochs": self.notifier.epochs},
            "loop": {"polled": loop.polled, "spun": loop.spun, "slept": loop.slept} if loop else None,
        }

    # -- what the store tells ------------------------------------------------------------------

    def _messages_changed(self, folder: Folder, delta: Delta) -> None:
        inode = self._inodes.of(folder)
        self._follow_names(folder, delta)
        changed = delta.updated if self._store.location.kind is Kind.SDBOX else delta.appended[:0]
        for uid in changed.tolist():
            self.notifier.attributes(inode | uid)
        if delta.reloaded and folder.mailbox is not None:  # files may have been repaired
            self._doubts.raise_about(inode, folder.mailbox.uids)
            for uid in folder.mailbox.uids.tolist():
                self._pushed.forget(inode | uid)
                self.notifier.attributes(inode | uid)
        self.notifier.attributes(inode)

    def _follow_names(self, folder: Folder, delta: Delta) -> None:
        """Messages came and went: so do names, and others of the names may be read only now."""
        inode, forgotten = self._inodes.of(folder), self._forgotten(folder)
        went, came = delta.expunged.tolist(), delta.appended.tolist()
        gone = {uid: self._names.name(folder, uid) for uid in went}
        lost = [name for uid, name in gone.items() if uid not in forgotten and number_of(name) != uid]
        changed = self._names.update(folder, went, came)
        for uid, name in gone.items():
            if uid not in forgotten:
                # Who opens a name that is replaced shall not find it deleted in the middle of that.
                is_there = self._names.resolve(folder, name) is not None
                self.notifier.entry(inode, name, 0 if is_there else inode | uid)
        for name in changed.difference(gone.values()):
            self.notifier.entry(inode, name)
        box = folder.mailbox
        if self._reader is not None and box is not None and not self._names.explain(folder, lost, came):
            self._reader.is_behind(box)

    async def _know_names(self, folder: Folder) -> None:
        """Read the names of messages that other mounts have brought."""
        if self._reader is not None:
            await self._reader.catch_up(folder)

    def _names_changed(self, folder: Folder, names: set[bytes]) -> None:
        if folder in self._inodes:
            for name in names:
                self.notifier.entry(self._inodes.of(folder), name)

    def _forgotten(self, folder: Folder) -> Container[int]:
        """Messages of which the kernel knows that they go: it has told us."""
        return ()

    def _folder_gone(self, folder: Folder) -> None:
        self._doubts.forget(self._inodes.remove(folder))
        if folder.parent is not None:
            parent = self._inodes.of(folder.parent) if folder.parent in self._inodes else 0
            if parent:
                if not self._is_taken_away(folder):
                    self.notifier.entry(parent, encode(folder.shown))
                self._name_is_free(folder.parent, encode(folder.shown))
                self.notifier.attributes(parent)

    def _folder_new(self, folder: Folder) -> None:
        """A name that was missing is nothing that the kernel remembers.

        To tell it of a directory that it has just made would take away the working directory of whoever has
        gone there meanwhile.
        """
        self._inodes.add(folder)
        if folder.parent is not None:
            parent, name = self._inodes.of(folder.parent), encode(folder.shown)
            if self._holder(folder.parent, name) is not None:  # it was a message's
                self.notifier.entry(parent, name)
            self.notifier.attributes(parent)

    def _holder(self, folder: Folder, name: bytes) -> int | None:
        """The message that is called *name* if no directory is."""
        uid = self._names.holder(folder, name) or number_of(name)
        return uid if uid is not None and folder.mailbox is not None and uid in folder.mailbox else None

    def _name_is_free(self, folder: Folder, name: bytes) -> None:
        """A directory is gone that had the name of a message, which was called otherwise meanwhile."""
        uid = self._holder(folder, name)
        if uid is not None:
            for other in (b"%d.eml" % uid, b"uid-%d.eml" % uid):
                self.notifier.entry(self._inodes.of(folder), other)

    def _is_taken_away(self, folder: Folder) -> bool:
        """Whether the kernel knows that the directory goes, or moves: it has told us."""
        return False

    # -- names ---------------------------------------------------------------------------------

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        if parent_inode == CONTROL:
            inode = self._control.files.get(name)
            if inode is None:
                raise FUSEError(errno.ENOENT)
            return self._attributes.control_file(inode)
        if parent_inode == ROOT and name == control_files.NAME:
            return self._attributes.control_dir(CONTROL)
        folder = await self._checked(parent_inode)
        found = await self._find_message(folder, name)
        if found is not None:
            uid, facts = found
            entry = self._limited(folder, self._attributes.message(parent_inode | uid, facts))
            if entry.entry_timeout > SHORT:  # the kernel doesn't know it (any more), nor its bytes
                self._pushed.forget(entry.st_ino)
            return entry
        child = folder.children.get(decode(name))
        if child is None or child not in self._inodes:
            raise FUSEError(errno.ENOENT)
        return self._limited(folder, self._attributes.folder(child, self._inodes.of(child)))

    async def _find_message(self, folder: Folder, name: bytes) -> tuple[int, Facts] | None:
        """The message called *name*, and its facts; None: there is none.

        A message that goes while its facts are read may have given its name to another one.
        """
        before = 0
        while True:
            await self._know_names(folder)
            uid, box = self._resolve(folder, name), folder.mailbox
            if uid is None or box is None:
                return None
            try:
                return uid, await box.facts_of(uid)
            except NoSuchMessage:
                if uid == before:
                    raise
                before = uid

    def _resolve(self, folder: Folder, name: bytes) -> int | None:
        """The uid of the message called *name*; None: there is none."""
        return self._names.resolve(folder, name)

    def _shown(self, folder: Folder) -> Mapping[int, bytes]:
        """The names in a listing that differ from ``<uid>.eml``; an empty one: not listed."""
        return self._names.unusual(folder)

    def _written(self) -> Collection[int]:
        """The inodes whose size the kernel changes on its own, because they are open for writing."""
        return ()

    def _limited(self, folder: Folder, entry: pyfuse3.EntryAttributes) -> pyfuse3.EntryAttributes:
        if not self._store.is_watched(folder):
            entry.entry_timeout = SHORT
            if entry.st_mode & stat.S_IFDIR:
                entry.attr_timeout = SHORT
        elif self.notifier.means is Entries.TIMEOUT:
            entry.entry_timeout = SHORT
        return entry

    async def _checked(self, inode: int) -> Folder:
        """The folder of *inode*, looked at on disk where nobody tells of changes; ENOENT when it is gone."""
        await self.seek(inode)
        try:
            await self._store.check(self._folder(inode))
        except FileNotFoundError:  # renamed between two looks
            await self._store.refresh_tree()
            await self._store.check(self._folder(inode))
        return self._folder(inode)

    async def seek(self, inode: int) -> None:
        """Look for the folder of *inode*, if it isn't known just now.

        A mailbox that is renamed keeps its number, but for a moment it may be neither where it was nor
        where it will be; whoever has its directory open, or a message in it, shall not hear of that.
        """
        number = inode >> 32
        if not number or number >> 31 or self._inodes.folder(inode) is not None:
            return
        if trio.current_time() - self._missed.get(number, -_MISSED_FOR) < _MISSED_FOR:
            return
        for turn in range(_LOOKS):
            await trio.sleep(_LOOK_AGAIN * turn)
            await self._store.refresh_tree()
            if self._inodes.folder(inode) is not None:
                return
        self._missed[number] = trio.current_time()
        self._missed.move_to_end(number)
        if len(self._missed) > _MISSED:
            self._missed.popitem(last=False)

    def folder_of(self, inode: int) -> Folder | None:
        """The folder that *inode* is, or is in, as far as is known just now."""
        return self._inodes.folder(inode)

    async def is_back(self, inode: int) -> bool:
        """Whether a message that seemed to be gone is there all the same, since its mailbox was renamed."""
        if inode >> 63 or not inode >> 32:
            return False
        await self.seek(inode)
        folder = self._inodes.folder(inode)
        return folder is not None and folder.mailbox is not None and inode & UID_MASK in folder.mailbox

    async def is_another(self, inode: int, folder: Folder | None) -> bool:
        """Whether the directory *inode* was *folder*, and is another one since its mailbox was renamed."""
        await self.seek(inode)
        return self._inodes.folder(inode) not in (None, folder)

    def _folder(self, inode: int) -> Folder:
        folder = self._store.root if inode == ROOT else self._inodes.folder(inode)
        if folder is None:
            raise FUSEError(errno.ENOENT)
        return folder

    @handler
    async def getattr(self, inode: int, ctx: object) -> pyfuse3.EntryAttributes:
        if inode == CONTROL:
            return self._attributes.control_dir(inode)
        if inode >> 32 == 0 and inode != ROOT:
            return self._attributes.control_file(inode)
        uid = inode & UID_MASK
        if inode == ROOT or not uid:
            folder = await self._checked(inode)
            return self._limited(folder, self._attributes.folder(folder, inode))
        facts = await self._with_message(inode, lambda now: self._facts(now, now & UID_MASK))
        return self._attributes.message(inode, facts)

    def _heir(self, inode: int) -> int:
        """The inode of what has replaced a message that is gone, by whatever mount; else *inode*.

        Nobody has it open: so the kernel asks for what has the name, and what was renamed over it is that.
        """
        folder = self._inodes.folder(inode)
        box = folder.mailbox if folder is not None else None
        if folder is None or box is None or not inode & UID_MASK or inode & UID_MASK in box:
            return inode
        is_open = inode in self._open_inodes or inode in self._written()
        heir = self._names.heir(folder, inode & UID_MASK, renamed=not is_open)
        return inode if heir is None else self._inodes.of(folder) | heir

    async def _with_message(self, inode: int, use: Callable[[int], Awaitable[R]]) -> R:
        """Use a message, given its inode; or what has replaced it, also if that happens meanwhile.

        :raises NoSuchMessage: it is gone.
        """
        now = inode if inode in self._open_inodes else self._heir(inode)
        while True:
            try:
                return await use(now)
            except NoSuchMessage:
                await self._know_names(self._folder(now))
                before, now = now, self._heir(now)
                if now == before:
                    raise

    async def _facts(self, inode: int, uid: int) -> Facts:
        held = self._open_inodes.get(inode)
        if held:
            return held[-1].facts
        await self.seek(inode)
        box = self._folder(inode).mailbox
        if box is None:
            raise FUSEError(errno.ENOENT)
        facts = box.facts.get(uid)
        if facts is None or not facts.known:
            self._asked[box] = asked = self._asked.get(box, 0) + 1
            if asked == MANY_ASKED:
                self._begin_scan(box)
        return await box.facts_of(uid)

    # -- directories ---------------------------------------------------------------------------

    @handler
    async def opendir(self, inode: int, ctx: object) -> int:
        handle = self._next_handle
        self._next_handle += 1
        if inode == CONTROL:
            self._listings[handle] = None
            return handle
        folder = await self._checked(inode)
        self._listings[handle] = Listing(folder, inode)
        box = folder.mailbox
        if box is not None and 0 < box.facts.unknown <= SCAN_AT_ONCE:
            self._begin_scan(box)
        return handle

    def _begin_scan(self, box: Mailbox) -> None:
        if box not in self._scans:
            self._scans.add(box)
            self._spawn(partial(self._scan, box))

    async def _scan(self, box: Mailbox) -> None:
        try:
            await box.scan()
        finally:
            self._scans.discard(box)

    @handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        if listing is None:
            self._list_control(start_id, token)
            return
        if listing.folder not in self._inodes:
            await self.seek(listing.inode)
            listing.follow(self._folder(listing.inode))
        if start_id == 0:
            await self._store.check(listing.folder)
            await self._know_names(listing.folder)
            listing.take()
            listing.deadline = trio.current_time() + SCAN_PATIENCE
        above = self._entries_above(listing)
        for position in range(start_id, len(above)):
            name, folder = above[position]
            if folder in self._inodes:
                entry = self._limited(
                    listing.folder, self._attributes.folder(folder, self._inodes.of(folder))
                )
                if not pyfuse3.readdir_reply(token, name, entry, position + 1):
                    return
        first = max(start_id - len(above), 0)
        await self._wait_for_sizes(listing, first)
        self._list_messages(listing, first, token)

    @staticmethod
    def _entries_above(listing: Listing) -> list[tuple[pyfuse3.FileNameT, Folder]]:
        """The entries that come before the messages."""
        folder = listing.folder
        dots = [(b".", folder), (b"..", folder.parent or folder)]
        children = [(encode(shown), child) for shown, child in listing.children]
        return [(pyfuse3.FileNameT(name), entry) for name, entry in dots + children]

    def _list_messages(self, listing: Listing, first: int, token: pyfuse3.ReaddirToken) -> None:
        if first >= len(listing.uids) or listing.folder not in self._inodes:
            return
        base, after = self._inodes.of(listing.folder), len(listing.children) + 3
        entry = self._limited(listing.folder, self._attributes.template())
        long = entry.attr_timeout
        reply, shown, written = pyfuse3.readdir_reply, self._shown(listing.folder), self._written()
        for position, uid, state, size, received, saved in listing.rows(first):
            fill(entry, base | uid, size, received, saved)
            entry.attr_timeout = long if state & KNOWN else 0.0 if state == UNKNOWN else SHORT
            if written and base | uid in written:
                entry.attr_timeout = 0.0
            name = shown.get(uid, b"%d.eml" % uid) if shown else b"%d.eml" % uid
            if name and not reply(token, name, entry, position + after):
                return

    async def _wait_for_sizes(self, listing: Listing, first: int) -> None:
        box = listing.mailbox
        if box is None or not box.facts.unknown:
            return
        with trio.move_on_at(listing.deadline):
            while box in self._scans and listing.unknown(first, _READDIR_AHEAD):
                await trio.lowlevel.checkpoint()  # it may not even have begun
                await box.wait_scan()

    def _list_control(self, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for position, (name, inode) in enumerate(self._control.files.items()):
            if position >= start_id:
                entry = self._attributes.control_file(inode)
                if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), entry, position + 1):
                    return

    @handler
    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    # -- files ---------------------------------------------------------------------------------

    @handler
    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND):
            raise FUSEError(errno.EROFS)
        handle = self._next_handle
        self._next_handle += 1
        if inode >> 32 == 0:
            content = self._control.content(inode)
            if content is None:
                raise FUSEError(errno.ENOENT)
            self._files[handle] = content
            return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), direct_io=True, keep_cache=False)
        now, body, facts = await self._with_message(self._heir(inode), self._open_body)
        try:
            pushed = now == inode and body.size <= PUSH_MOST and await self._push(inode, body)
            doubtful = self._doubts.settle(inode & ~UID_MASK, inode & UID_MASK)
        except BaseException:
            body.close()
            raise
        resized = now != inode or facts.size != body.size
        if resized:  # it was damaged when its size was looked at, and is repaired; or it was replaced
            facts = replace(facts, size=body.size)
            self.notifier.at_once(inode)
        self._files[handle] = opened = _OpenFile(inode, body, facts)
        self._open_inodes.setdefault(inode, []).append(opened)
        # direct_io: read past the size that the kernel still believes
        keep = not resized and (pushed or not doubtful)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(handle), keep_cache=keep, direct_io=resized)

    async def _open_body(self, inode: int) -> tuple[int, Body, Facts]:
        box = self._folder(inode).mailbox
        if box is None:
            raise FUSEError(errno.ENOENT)
        uid = inode & UID_MASK
        body = box.open_now(uid) or await box.open(uid)
        try:
            facts = box.facts.get(uid)
            if facts is None or not facts.known:
                facts = await box.facts_of(uid)
        except BaseException:
            body.close()
            raise
        return inode, body, facts

    def _is_open(self, inode: int) -> bool:
        """Whether a READ of *inode* may be on its way."""
        return inode in self._open_inodes or inode in self._written()

    async def _push(self, inode: int, body: Body) -> bool:
        """Put a whole small message into the kernel's cache, so that it needn't ask for it; whether that
        was done.

        Only while nobody has the inode open: the kernel would wait for a READ in flight, which only we can
        answer.  What was pushed before is most likely there still, and if not, the kernel asks.
        """
        if not body.size or self._is_open(inode) or not self._pushed.first(inode):
            return False
        try:
            data = body.pread(body.size, 0)
        except BlockingIOError:
            data = await self._read(body, body.size, 0)
            if self._is_open(inode):  # meanwhile
                return False
        try:
            pyfuse3.notify_store(pyfuse3.InodeT(inode), 0, data)
            self._pushes += 1
            self._pushed_bytes += len(data)
            body.handed()
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return False
        return True

    @handler
    async def read(self, fh: int, offset: int, size: int) -> bytes:
        opened = self._files[fh]
        if isinstance(opened, bytes):
            return opened[offset : offset + size]
        body = opened.body
        self._pushed.forget(opened.inode)
        try:
            return body.pread(size, offset)
        except BlockingIOError:
            pass
        return await self._read(body, size, offset)

    async def _read(self, body: Body, size: int, offset: int) -> bytes:
        try:
            return await body.read(size, offset)
        except CorruptFile as exc:
            self._store.report_damage(exc)
            raise

    @handler
    async def release(self, fh: int) -> None:
        opened = self._files.pop(fh)
        if isinstance(opened, _OpenFile):
            opened.body.close()
            held = self._open_inodes[opened.inode]
            held.remove(opened)
            if not held:
                del self._open_inodes[opened.inode]

    @handler
    async def flush(self, fh: int) -> None:
        raise FUSEError(errno.ENOSYS)  # nothing is ever written: the kernel needn't ask again

    @handler
    async def setattr(
        self, inode: int, attr: object, fields: object, fh: int | None, ctx: object
    ) -> pyfuse3.EntryAttributes:
        raise FUSEError(errno.EROFS)

    # -- extended attributes -------------------------------------------------------------------

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: object) -> bytes:
        if not name.startswith(b"user."):
            raise FUSEError(errno.EOPNOTSUPP)
        value: str | None = None
        if name.startswith(xattrs.PREFIX):
            value = await self._xattr(inode, decode(name[len(xattrs.PREFIX) :]))
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return xattrs.encoded(value)

    async def _xattr(self, inode: int, name: str) -> str | None:
        if inode >> 32 == 0:
            return None
        folder = await self._checked(inode)
        uid = inode & UID_MASK
        if not uid:
            return await xattrs.folder_value(self._store, folder, name, self._options.separator)
        box = folder.mailbox
        if box is None:
            raise FUSEError(errno.ENOENT)
        return await self._with_message(inode, lambda now: xattrs.message_value(box, now & UID_MASK, name))

    @handler
    async def listxattr(self, inode: int, ctx: object) -> Sequence[pyfuse3.XAttrNameT]:
        if inode >> 32 == 0:
            return []
        folder = await self._checked(inode)
        uid = inode & UID_MASK
        if not uid:
            names = xattrs.folder_names(folder)
        elif folder.mailbox is None:
            raise FUSEError(errno.ENOENT)
        else:
            box = folder.mailbox
            names = await self._with_message(inode, lambda now: xattrs.message_names(box, now & UID_MASK))
        return [pyfuse3.XAttrNameT(xattrs.PREFIX + name.encode()) for name in names]

    # -- the file system -----------------------------------------------------------------------

    @handler
    async def statfs(self, ctx: object) -> pyfuse3.StatvfsData:
        found = await self._store.statvfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize, data.f_frsize = found.f_bsize, found.f_frsize
        data.f_blocks, data.f_bfree, data.f_bavail = found.f_blocks, found.f_bfree, found.f_bavail
        data.f_files, data.f_ffree, data.f_favail = found.f_files, found.f_ffree, found.f_favail
        data.f_namemax = 255
        return data
