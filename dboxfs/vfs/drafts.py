"""All drafts of one mount, and the processes that have them open.

A draft is found by its inode, by its name, and by the processes that have it open.  Before the commit only
the processes that write it can look its name up (:meth:`Drafts.may_see`).  A draft that replaces a message
has the message's inode and no entry of its own: other processes go on reading the message.  Once the message
is gone, or another file has its name, a request for that inode gets the draft (:meth:`Drafts.orphan`).

A ghost (:class:`~dboxfs.vfs.draft_stages.Stage`) exists only for the process that made it, which may look it
up, open, link, rename and remove it for a minute (:mod:`dboxfs.vfs.close_policy`).  The reason: programs that
save with care make the name first, with O_EXCL, and write later.

A temporary that was linked to a plain name is the message from then on; its own name stands for that message
until a process removes it (:meth:`Drafts.linked`).

Concurrency: no method awaits, so each is atomic.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from msgspec import Struct

from dboxfs.store import Body, Folder
from dboxfs.util.mounts import Membership
from dboxfs.vfs.content import Budget, Temporary
from dboxfs.vfs.draft import Draft, Writing
from dboxfs.vfs.draft_stages import Stage, Standing
from dboxfs.vfs.emptied import Emptied
from dboxfs.vfs.holders import process_of
from dboxfs.vfs.node import DRAFTS, Inodes
from dboxfs.vfs.open_files import OpenFiles
from dboxfs.vfs.packed_drafts import PackedDrafts

GHOSTS = 64
"""Ghosts that are kept at most."""

AWAKE = 64
"""So many staged files that nobody has open are kept as they are; the others are packed."""

LINKED = 1000
"""Names of linked temporaries that are remembered at most."""


class Before(Struct, frozen=True):
    """A draft as it was before a rename.  ``key``: inode of its directory, and name; None: it had no name."""

    standing: Standing
    key: tuple[int, bytes] | None


class Drafts:
    """All drafts, by inode and by name.

    :param spool: makes the temporary file of a draft in a folder.
    :param outside: gives the number that an inode has in the mount.
    :param packed: gets staged files that nobody has open.
    :param budget: counts the bytes in memory.
    :ivar membership: which descriptors of a process belong to this mount.
    :ivar emptied: messages that were truncated to 0 bytes by name.
    """

    def __init__(
        self,
        inodes: Inodes,
        open_files: OpenFiles,
        spool: Callable[[Folder], Temporary],
        outside: Callable[[int], int],
        packed: PackedDrafts,
        budget: Budget,
    ) -> None:
        self._inodes = inodes
        self._open_files = open_files
        self._spool = spool
        self._budget = budget
        self.membership = Membership(None, outside)
        self._numbers = itertools.count(1)
        self._opens: dict[Writing, None] = {}
        self._by_inode: dict[int, Draft] = {}
        self._packed = packed
        self._resting: OrderedDict[int, None] = OrderedDict()
        self._hold: tuple[Folder, Callable[[Draft], None]] | None = None
        self._by_name: dict[tuple[int, bytes], Draft] = {}
        self._keys: dict[Draft, tuple[int, bytes]] = {}
        self._displaced: dict[tuple[int, bytes], Draft] = {}
        self._ghosts: OrderedDict[int, Draft] = OrderedDict()
        self._linked: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self.emptied = Emptied()

    @property
    def would_be_lost(self) -> bool:
        """Whether there are drafts that are neither messages nor staged: their bytes end with the mount."""
        return any(not draft.is_staged for draft in self._by_inode.values())  # packed ones are staged

    # -- making --------------------------------------------------------------------------------

    def new(
        self,
        folder: Folder,
        name: bytes,
        *,
        uid: int | None = None,
        base: Body | None = None,
        exclusive: bool = False,
        appends: bool = False,
    ) -> Draft:
        """A new file with an inode of its own.

        :param uid: the message that it replaces.
        :param base: that message, if its bytes stay.
        :param exclusive: made with O_EXCL.
        :param appends: it is only appended to.
        """
        key = self._inodes.of(folder), name
        self._linked.pop(key, None)
        standing = Standing.of(folder, name, uid, exclusive=exclusive)
        inode, based = DRAFTS | next(self._numbers), 0 if appends else None
        draft = Draft(inode, standing, self._spool, self._budget, base, based)
        self._by_inode[draft.inode] = draft
        self._name(draft, key)
        return draft

    def replacement(self, inode: int, folder: Folder, name: bytes, uid: int, base: Body | None) -> Draft:
        """A draft that is to replace message *uid*, which the kernel knows as *inode*."""
        return Draft(inode, Standing.of(folder, name, uid), self._spool, self._budget, base)

    # -- opening and closing -------------------------------------------------------------------

    def opened(self, draft: Draft, pid: int) -> Writing:
        """The process of thread *pid* has opened a draft."""
        process = process_of(pid)
        draft.opened(process)
        self._ghosts.pop(draft.inode, None)
        writing = Writing(draft, process, self.membership)
        self._opens[writing] = None
        self._open_files.begin_writing(draft.inode)
        return writing

    def released(self, writing: Writing) -> None:
        """The last descriptor of an open is gone."""
        del self._opens[writing]
        self._open_files.end_writing(writing.inode)

    def opens(self, inode: int, pid: int) -> int:
        """How many opens for writing process *pid* has of the file *inode*, RELEASE not yet received."""
        return sum(w.pid == pid and w.draft.inode == inode for w in self._opens)

    # -- finding -------------------------------------------------------------------------------

    def unpacked(self) -> list[Draft]:
        """Every file that is being written, except staged ones that are packed."""
        return list({*self._by_inode.values(), *(w.draft for w in self._opens)})

    def by_inode(self, inode: int) -> Draft | None:
        """The draft that has this inode of its own."""
        found = self._by_inode.get(inode)
        return found if found is not None or not self._packed else self._unpack(inode)

    def by_name(self, parent: int, name: bytes) -> Draft | None:
        """The draft with this name."""
        found = self._by_name.get((parent, name))
        inode = self._packed.inode(parent, name) if found is None and self._packed else None
        return found if inode is None else self._unpack(inode)

    def is_open(self, draft: Draft, pid: int) -> bool:
        """Whether the process of thread *pid* has made it or has opened it."""
        process = process_of(pid)
        return draft.creator == process or any(w.draft is draft and w.pid == process for w in self._opens)

    def lay(self, parent: int, name: bytes, pid: int) -> Draft | None:
        """The draft with this name, for a process that wants to make a file; drops a ghost of another one."""
        found = self.by_name(parent, name)
        if found is not None and found.stage is Stage.GHOST and found.creator != process_of(pid):
            self.drop(found)
            return None
        return found

    def seen(self, parent: int, name: bytes, pid: int) -> Draft | None:
        """The draft that *name* is for the process of thread *pid*; None for another process's new file."""
        found = self.lay(parent, name, pid)
        return found if found is not None and self.may_see(found, pid) else None

    def may_see(self, draft: Draft, pid: int) -> bool:
        """Whether the process of thread *pid* sees a file that is no message yet."""
        return draft.is_temporary or draft.is_staged or (draft.uid is None and self.is_open(draft, pid))

    def replacing(self, inode: int, pid: int) -> Draft | None:
        """The draft of the process of thread *pid* that will replace the message *inode*."""
        process = process_of(pid)
        return next((draft for draft, writer in self._of_inode(inode) if writer == process), None)

    def beside(self, writing: Writing) -> list[Draft]:
        """The other drafts of the same process that will replace the same message."""
        own = writing.draft
        same = [w.draft for w in self._opens if w.pid == writing.pid and w.draft is not own]
        return [draft for draft in same if draft.uid == own.uid and draft.folder is own.folder]

    def orphan(self, inode: int) -> Draft | None:
        """The draft that was opened on the message *inode*, which is gone or has lost its name since."""
        return next((draft for draft, _ in self._of_inode(inode) if draft.uid is None), None)

    def _of_inode(self, inode: int) -> Iterator[tuple[Draft, int]]:
        return ((w.draft, w.pid) for w in self._opens if w.inode == inode)

    def of_message(self, folder: Folder, uid: int) -> list[Draft]:
        """The drafts that are the message, or will replace it."""
        return [draft for draft in self.unpacked() if draft.uid == uid and draft.folder is folder]

    def of_folder(self, folder: Folder) -> list[Draft]:
        """The drafts with an inode of their own in *folder*."""
        awake = [self._unpack(inode) for inode in self._packed.inodes(folder)]  # what nobody has is packed
        found = self.awake(folder)
        awake.clear()
        return found

    def awake(self, folder: Folder) -> list[Draft]:
        """Those of them that are not packed."""
        return [draft for draft in self._by_inode.values() if draft.folder is folder]

    def folders(self) -> set[Folder]:
        """The mailboxes that drafts are in."""
        return {draft.folder for draft in self.unpacked()} | set(self._packed.folders())

    # -- staged files --------------------------------------------------------------------------

    def staged(self, folder: Folder) -> Iterator[Draft]:
        """The staged files of a mailbox, to look at; one that is to be changed is asked for by its inode."""
        yield from [d for d in self._by_inode.values() if d.is_staged and d.folder is folder]
        for inode, packed in self._packed.look(folder):
            yield Draft.unpack(inode, packed, self._spool, self._budget)

    def look(self, inode: int) -> Draft | None:
        """The staged file with this inode; one that is packed stays so, and this is a copy to look at."""
        found, packed = self._by_inode.get(inode), self._packed.at(inode)
        if packed is not None:
            return Draft.unpack(inode, packed, self._spool, self._budget)
        return found if found is not None and found.is_staged else None

    def hold(self, folder: Folder, lock: Callable[[Draft], None]) -> None:
        """Call *lock* with each packed file of *folder* before a request gets it, until :meth:`let_go`."""
        self._hold = folder, lock

    def let_go(self) -> None:
        """Ends :meth:`hold`."""
        self._hold = None

    def packed(self, folder: Folder) -> list[int]:
        """The inodes of those that are packed."""
        return self._packed.inodes(folder)

    def staged_folders(self) -> dict[Folder, int]:
        """How many staged files there are, by mailbox."""
        return Counter(d.folder for d in self._by_inode.values() if d.is_staged) + self._packed.folders()

    def have_attributes(self, folder: Folder) -> bool:
        """Whether each staged file of a mailbox has been given something beside its bytes."""
        staged = (d for d in self._by_inode.values() if d.is_staged and d.folder is folder)
        return all(draft.brought.names for draft in staged) and self._packed.have_attributes(folder)

    def rest(self, draft: Draft) -> None:
        """A staged file was changed: it is packed as soon as so many others were and nobody has it."""
        if draft.inode in self._by_inode:
            self._resting[draft.inode] = None
            self._resting.move_to_end(draft.inode)
        self._pack_oldest(2)

    def rest_all(self) -> None:
        """Pack what can be: a commit has unpacked a mailbox, and failed."""
        self._pack_oldest(len(self._resting))

    def _pack_oldest(self, most: int) -> None:
        for _ in range(min(most, len(self._resting) - AWAKE)):
            self._pack(self._resting.popitem(last=False)[0])

    def _pack(self, inode: int) -> None:
        """Pack a draft, unless a task has it: then it rests on.

        A draft has no cycles, so it ends with the last reference to it.
        """
        draft = self._by_inode.get(inode)
        if draft is None or not draft.is_staged:
            return
        key = self._keys.get(draft)
        packed = draft.pack() if key is not None and key[1] == draft.name else None
        if packed is None or key is None or key in self._displaced or self._by_name.get(key) is not draft:
            self._resting[inode] = None
            return
        there = weakref.ref(draft)
        del self._by_inode[inode], self._by_name[key], self._keys[draft], draft
        draft = there()
        if draft is None:
            self._packed.put(inode, packed, key[0])
        else:
            self._put(draft, key)
            self._resting[inode] = None

    def _unpack(self, inode: int) -> Draft | None:
        found = self._packed.take(inode)
        if found is None:
            return None
        packed, key = found
        draft = Draft.unpack(inode, packed, self._spool, self._budget)
        self._put(draft, key)
        if self._hold is not None and self._hold[0] is draft.folder:
            self._hold[1](draft)
        self._resting[inode] = None
        self._pack_oldest(2)
        return draft

    def _put(self, draft: Draft, key: tuple[int, bytes]) -> None:
        self._by_inode[draft.inode], self._by_name[key], self._keys[draft] = draft, draft, key

    # -- names ---------------------------------------------------------------------------------

    def mailbox_is(self, before: Folder, now: Folder) -> None:
        """A mailbox was renamed."""
        self._packed.mailbox_is(before, now)
        if self._hold is not None and self._hold[0] is before:
            self._hold = now, self._hold[1]
        opened = [w.draft for w in self._opens if w.draft.folder is before]
        for draft in {*self.awake(before), *opened}:
            draft.mailbox_is(now)

    def mailbox_got(self, folder: Folder, before: bytes | None, guid: bytes | None) -> None:
        """The mailbox of *folder* was given another guid."""
        self._packed.mailbox_got(folder, before, guid)
        for draft in self.awake(folder):
            if draft.standing.guid == before:
                draft.mailbox_got(guid)

    def rename(self, draft: Draft, folder: Folder, name: bytes, over: int | None, *, takes: bool) -> Before:
        """Give a draft another name; gives what :meth:`not_renamed` needs.

        :param over: the message that has the name.
        :param takes: the draft replaces the message that has the name when it is committed.
        """
        before = Before(draft.standing, self._keys.get(draft))
        draft.renamed(folder, name, over, takes_place=takes)
        self._find_by_name(draft)
        if draft.is_removed:  # an empty file was renamed over a message: the message stays
            self.drop(draft)
        return before

    def not_renamed(self, draft: Draft, before: Before) -> None:
        """The rename has failed and changed nothing: the drafts get back the names that they had.

        That doesn't depend on what the store shows of their directories now.
        """
        key = self._keys.get(draft, (0, b""))
        displaced = self._displaced.pop(key, None)
        draft.not_renamed(before.standing)
        self._unname(draft)
        if before.key is not None and draft.inode in self._by_inode:
            self._name(draft, before.key)
        if displaced is not None and displaced.inode in self._by_inode:
            self._name(displaced, key)

    def follow(self, draft: Draft, folder: Folder, name: bytes, uid: int) -> None:
        """The message of a draft was renamed, or moved: it is *uid* of *folder* now."""
        guid = folder.mailbox.guid if folder.mailbox is not None else None
        draft.moved(folder, name, uid, guid)
        self._find_by_name(draft)

    def _find_by_name(self, draft: Draft) -> None:
        self._unname(draft)
        if draft.inode in self._by_inode and draft.folder in self._inodes:
            self._name(draft, (self._inodes.of(draft.folder), draft.name))

    def _name(self, draft: Draft, key: tuple[int, bytes]) -> None:
        before = self.by_name(*key)
        if before is not None and before is not draft:
            self._displaced[key] = before
        self._by_name[key] = draft
        self._keys[draft] = key

    def _unname(self, draft: Draft) -> None:
        """No process can look it up by name any more."""
        key = self._keys.pop(draft, None)
        if key is not None and self._by_name.get(key) is draft:
            del self._by_name[key]

    def give_name(self, folder: Folder, name: bytes, over: int | None, heir: Draft | None = None) -> bool:
        """Another file gets this name and replaces message *over*: drafts with that name lose it.

        :param heir: the draft that gets it.
        :return: whether there were drafts that would have replaced message *over*.
        """
        losers = set(self.of_message(folder, over) if over is not None else ()) - {heir}
        key = (self._inodes.of(folder), name) if folder in self._inodes else (0, name)
        has_name, had_name = self.by_name(*key), self._displaced.pop(key, None)
        known = {has_name, had_name, *(w.draft for w in self._opens)} - {heir, None}
        named = {d for d in known if d and d.folder is folder and d.name == name and d.uid is None}
        for draft in losers | named:
            draft.name_taken()
            self._unname(draft)
            if draft.is_removed:
                self.drop(draft)
        return bool(losers)

    # -- temporaries that were linked ----------------------------------------------------------

    def link(self, draft: Draft, inode: int) -> None:
        """A temporary has become the message with this inode; its name stands for that message now."""
        if draft.folder in self._inodes:
            self._linked[self._inodes.of(draft.folder), draft.name] = inode
            if len(self._linked) > LINKED:
                self._linked.popitem(last=False)
        if not draft.handles:
            self.discard(draft)

    def linked(self, parent: int, name: bytes) -> int | None:
        """The inode of the message that a temporary of this name has become."""
        return self._linked.get((parent, name)) if self._linked else None

    def unlink(self, parent: int, name: bytes) -> bool:
        """Remove the name of a temporary that has become a message; False: there is no such name."""
        return self._linked.pop((parent, name), None) is not None

    # -- the end -------------------------------------------------------------------------------

    def haunt(self, draft: Draft) -> None:
        """A new file was closed without a byte: it is a ghost."""
        draft.closed_empty()
        self._ghosts[draft.inode] = draft
        if len(self._ghosts) > GHOSTS:
            self.drop(next(iter(self._ghosts.values())))

    def discard(self, draft: Draft) -> None:
        """Nothing of this draft will be committed; processes that have it open can go on reading it."""
        draft.removed()
        self._unname(draft)
        self.drop(draft)

    def drop(self, draft: Draft) -> None:
        """End a draft; does nothing if an OPEN was answered with it since the caller looked."""
        if draft.handles:
            return
        self._by_inode.pop(draft.inode, None)
        self._resting.pop(draft.inode, None)
        self._ghosts.pop(draft.inode, None)
        self._unname(draft)
        draft.close()

    def forget_staged(self) -> None:
        """The mount ends: nothing of what is packed will be committed."""
        self._packed.clear()
