"""Staged files that nobody has open, a few hundred bytes each.

A backup that is put back has tens of thousands of files that wait for the commit of their mailbox.  As a
:class:`~dboxfs.vfs.draft.Draft` each takes some 2 KiB, packed a row of bytes::

    row    group (4 bytes) | name, date, attributes, extents (marshal)

What many rows have in common is a *group*: mailbox, its guid, the inode of the directory, the staging file,
and whether the files have been given attributes.  The bytes of a file that are in memory are beside its row.

A row and a draft of the same file are never there at once: :meth:`PackedDrafts.take` removes the row, and
:class:`~dboxfs.vfs.drafts.Drafts` packs a draft when nothing else refers to it.

Concurrency: nothing here awaits.
"""

from __future__ import annotations

import marshal
from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from dboxfs.store import Folder
from dboxfs.vfs.brought import NAMES, Brought
from dboxfs.vfs.content import PackedContent
from dboxfs.vfs.draft import PackedDraft
from dboxfs.vfs.draft_stages import Stage, Standing
from dboxfs.vfs.staging_file import StagingFile

_attributes = attrgetter(*NAMES)
_NOTHING_BROUGHT = Brought()


class _Group(NamedTuple):
    folder: Folder
    guid: bytes | None
    parent: int
    file: StagingFile | None
    has_attributes: bool


class InMemory(NamedTuple):
    """A row, and the bytes of its file."""

    inode: int
    row: bytes
    memory: bytes


class PackedDrafts:
    """The rows, by inode and by name; and the bytes in memory, by group and inode."""

    def __init__(self) -> None:
        self._rows: dict[int, bytes] = {}
        self._names: dict[int, dict[bytes, int]] = {}
        self._groups: dict[_Group, bytes] = {}
        self._by_number: list[_Group] = []
        self._in_memory: dict[bytes, dict[int, bytes]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    # -- in and out ----------------------------------------------------------------------------

    def put(self, inode: int, packed: PackedDraft, parent: int) -> None:
        """Keep a draft, whose name is one of the directory *parent*."""
        standing, content, brought = packed.standing, packed.content, packed.brought
        group = _Group(standing.folder, standing.guid, parent, content.file, brought != _NOTHING_BROUGHT)
        number = self._groups.get(group)
        if number is None:
            number = self._groups[group] = len(self._by_number).to_bytes(4, "little")
            self._by_number.append(group)
        self._rows[inode] = number + marshal.dumps(
            (
                standing.name, standing.exclusive, standing.takes_place, packed.created, packed.creator,
                _attributes(brought), content._replace(memory=b"")[1:],
            )
        )  # fmt: skip
        self._names.setdefault(parent, {})[standing.name] = inode
        if content.memory:
            self._in_memory.setdefault(number, {})[inode] = content.memory

    def take(self, inode: int) -> tuple[PackedDraft, tuple[int, bytes]] | None:
        """Keep a draft no longer; gives it, with the directory and the name; None: it is none of these."""
        row = self._rows.pop(inode, None)
        if row is None:
            return None
        packed, parent = self._unpacked(inode, row)
        self._not_in_memory(inode, row)
        names = self._names[parent]
        del names[packed.standing.name]
        if not names:
            del self._names[parent]
        if not self._rows:
            self.clear()
        return packed, (parent, packed.standing.name)

    def mailbox_is(self, before: Folder, now: Folder) -> None:
        """A mailbox was renamed."""
        for number, group in enumerate(self._by_number):
            if group.folder is before:
                self._regroup(number, group._replace(folder=now))

    def mailbox_got(self, folder: Folder, before: bytes | None, guid: bytes | None) -> None:
        """The mailbox of *folder* was given another guid."""
        for number, group in enumerate(self._by_number):
            if group.folder is folder and group.guid == before:
                self._regroup(number, group._replace(guid=guid))

    def _regroup(self, number: int, group: _Group) -> None:
        self._groups.pop(self._by_number[number], None)
        self._by_number[number] = group
        self._groups[group] = number.to_bytes(4, "little")

    def clear(self) -> None:
        """Forget all."""
        for some in (self._rows, self._names, self._groups, self._by_number, self._in_memory):
            some.clear()

    # -- bytes in memory -----------------------------------------------------------------------

    def in_memory(self, most: int) -> tuple[Folder, list[InMemory]] | None:
        """Files of one mailbox with bytes in memory, those first that came first, and *most* bytes together
        or one file; None: there are none.
        """
        for number, inodes in self._in_memory.items():
            found, size = list[InMemory](), 0
            for inode, memory in inodes.items():
                size += len(memory)
                if found and size > most:
                    break
                found.append(InMemory(inode, self._rows[inode], memory))
            return self._by_number[int.from_bytes(number, "little")].folder, found
        return None

    def went_to_disk(self, rows: list[InMemory], file: StagingFile, at: int) -> int:
        """The bytes of *rows*, one after the other, are in *file* from *at* on; gives how many of them are
        not in memory any more: a file that was taken or changed meanwhile keeps its own.
        """
        freed = 0
        for inode, row, memory in rows:
            size = len(memory)
            if self._rows.get(inode) is row:
                self._not_in_memory(inode, row)
                packed, parent = self._unpacked(inode, row)
                places = size, 0, size, at
                content = packed.content._replace(file=file, places=places, synced=False)
                self.put(inode, packed._replace(content=content), parent)
                freed += size
            at += size
        return freed

    def _not_in_memory(self, inode: int, row: bytes) -> None:
        inodes = self._in_memory.get(row[:4])
        if inodes is not None:
            inodes.pop(inode, None)
            if not inodes:
                del self._in_memory[row[:4]]

    # -- finding -------------------------------------------------------------------------------

    def inode(self, parent: int, name: bytes) -> int | None:
        """The inode of the file with this name; None: it is none of these."""
        names = self._names.get(parent)
        return names.get(name) if names is not None else None

    def inodes(self, folder: Folder) -> list[int]:
        """Those of the files in *folder*."""
        numbers = {
            at.to_bytes(4, "little") for at, group in enumerate(self._by_number) if group.folder is folder
        }
        return [inode for inode, row in self._rows.items() if row[:4] in numbers] if numbers else []

    def at(self, inode: int) -> PackedDraft | None:
        """The file with this inode, which stays here; None: it is none of these."""
        row = self._rows.get(inode)
        return None if row is None else self._unpacked(inode, row)[0]

    def look(self, folder: Folder) -> Iterator[tuple[int, PackedDraft]]:
        """Those in *folder* with their inodes, one at a time; they stay here."""
        for inode in self.inodes(folder):
            packed = self.at(inode)
            if packed is not None:
                yield inode, packed

    def folders(self) -> Counter[Folder]:
        """How many there are, by mailbox."""
        found: Counter[Folder] = Counter()
        for number, count in self._numbers().items():
            found[self._by_number[int.from_bytes(number, "little")].folder] += count
        return found

    def have_attributes(self, folder: Folder) -> bool:
        """Whether each file of *folder* has been given something beside its bytes."""
        groups = (self._by_number[int.from_bytes(number, "little")] for number in self._numbers())
        return all(group.has_attributes for group in groups if group.folder is folder)

    def _numbers(self) -> Counter[bytes]:
        return Counter(row[:4] for row in self._rows.values())

    def _unpacked(self, inode: int, row: bytes) -> tuple[PackedDraft, int]:
        group = self._by_number[int.from_bytes(row[:4], "little")]
        name, exclusive, takes_place, created, creator, brought, content = marshal.loads(row[4:])
        standing = Standing(Stage.STAGED, group.folder, name, group.guid, None, exclusive, takes_place)
        kept = PackedContent(group.file, *content)
        memory = self._in_memory.get(row[:4], {}).get(inode)
        if memory is not None:
            kept = kept._replace(memory=memory)
        return PackedDraft(standing, created, creator, Brought(*brought), kept), group.parent
