"""``dovecot.list.index`` in a store with LAYOUT=index: the only place of mailbox names.

It has the format of an index.  Each record is a node of the tree of names; its uid is the number of the node,
and the extension ``list`` has the rest::

    header data   u8 refresh flag, then from byte 1 on, unaligned: u32 name_id, name NUL ..., u32 0
    record        u32 name_id, u32 uid of the parent (0: none), 16 bytes guid of the mailbox, u32 uid_validity

A name is one part in IMAP's form without escapes: modified UTF-7 (UTF-8 if the location says so), with any
byte but NUL.  ``..``, ``~x`` and, if the separator is not ``/``, ``a/b`` are ordinary names.  No name is ever
part of a path.  A node without a guid, or with flag NOSELECT or NONEXISTENT, is only a parent.

A node that contradicts the others is damaged: it has no name, its parent is missing or below it, or its name
exists twice.  Such a node and those below it are left out and reported; all others are read.

If the list index is missing or can't be read, Dovecot makes a new one from the names in the mailboxes' own
indexes (extension ``box-name``: parts with NUL between them).  A mailbox without a name gets the name
``recovered-lost-folder-<guid>``.  This reader shows the same names.

Source: mailbox-layout section 4 and 5; Dovecot 2.3.19 and 2.4.1 (2.3 writes ``box-name`` with escapes).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping

from msgspec import Struct

from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import FileSystem
from dboxfs.index.state import IndexState
from dboxfs.store.evidence import GUID
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.location import Location
from dboxfs.store.mailbox_names import NameCoding

NONEXISTENT = 0x04
"""Flag of a node that is only a parent: it never was a mailbox."""

NOSELECT = 0x10
"""Flag of a node whose mailbox was deleted, and that has children."""

LISTED = 0x02
"""Flag of a node whose mailbox existed at the last scan."""

EXTENSION = "list"
BOX_NAME = "box-name"
RECORD = struct.Struct("<II16sI")
_ID = struct.Struct("<I")
_NO_GUID = bytes(16)
_DEEPEST = 1000


class ListedNode(Struct, frozen=True):
    """One record.  ``part``: its name without escapes.  ``guid``: 16 bytes; None: the node is no mailbox."""

    uid: int
    flags: int
    name_id: int
    part: bytes
    parent: int
    guid: bytes | None
    uid_validity: int


class ListedTree(Struct, frozen=True):
    """The tree of names.

    :ivar nodes: by storage name.
    :ivar damage: the faults of nodes that are left out.
    """

    nodes: Mapping[str, ListedNode]
    damage: tuple[str, ...] = ()

    @property
    def directories(self) -> dict[str, str]:
        """The directory of each mailbox, by storage name."""
        return {name: node.guid.hex() for name, node in self.nodes.items() if node.guid is not None}


def names_of(state: IndexState) -> dict[int, bytes]:
    """The names by their ids.

    :raises FormatError: the header data end within a name.
    """
    data, found, at = state.header_data(EXTENSION) or b"", dict[int, bytes](), 1
    while at + _ID.size <= len(data):
        (name_id,) = _ID.unpack_from(data, at)
        if name_id == 0:
            break
        end = data.find(b"\0", at + _ID.size)
        if end < 0:
            raise FormatError(at, "a mailbox name of the list index has no end")
        found[name_id] = data[at + _ID.size : end]
        at = end + 1
    return found


def parse_list(state: IndexState, coding: NameCoding) -> ListedTree:
    """The tree of names in a list index.

    :raises FormatError: there is no tree, or its names can't be read.
    """
    column = state.column(EXTENSION)
    if column is None or column.shape[1] != RECORD.size:
        raise FormatError(0, "the list index has no records of mailboxes")
    names, nodes, damage = names_of(state), dict[int, ListedNode](), list[str]()
    for uid, flags, record in zip(state.uids.tolist(), state.flags.tolist(), column, strict=True):
        name_id, parent, guid, uid_validity = RECORD.unpack(record.tobytes())
        part = names.get(name_id)
        if not part:
            damage.append(f"node {uid}: it has no name")
            continue
        is_mailbox = guid != _NO_GUID and not flags & (NONEXISTENT | NOSELECT)
        mine = guid if is_mailbox else None
        nodes[uid] = ListedNode(uid, flags, name_id, part, parent, mine, uid_validity)
    found: dict[str, ListedNode] = {}
    guids: set[bytes] = set()
    for node in nodes.values():
        name = _full_name(nodes, node, coding)
        if name is None:
            damage.append(f"node {node.uid}: its parents lead nowhere")
        elif name in found:
            damage.append(f"node {node.uid}: its name {coding.display(name)} is that of another one")
        elif node.guid in guids:
            damage.append(f"node {node.uid}: {coding.display(name)} has the guid of another mailbox")
        else:
            found[name] = node
            guids |= {node.guid} if node.guid is not None else set()
    return ListedTree(found, tuple(damage))


def _full_name(nodes: Mapping[int, ListedNode], node: ListedNode, coding: NameCoding) -> str | None:
    """The storage name of a node; None: a parent is missing, or is below the node."""
    parts: list[bytes] = []
    uid = node.uid
    while uid:
        above = nodes.get(uid)
        if above is None or len(parts) > _DEEPEST:
            return None
        parts.append(coding.escaped(above.part))
        uid = above.parent
    return "/".join(os.fsdecode(part) for part in reversed(parts))


class ListReader:
    """Reads the list index of a store with LAYOUT=index, and updates :attr:`Location.directories`."""

    def __init__(self, fs: FileSystem, location: Location) -> None:
        self._fs = fs
        self._location = location
        self._files = IndexFiles(fs, location.list_index_dir, location.list_index_name)
        self._mark: object = None

    async def read(self) -> ListedTree:
        """The tree as it is now.

        :raises OSError: neither the list index nor the directory of the mailboxes can be read.
        """
        try:
            await self._files.refresh()
            state = self._files.state
            if state is None or not len(state):
                found = await _recovered(self._fs, self._location, ())
            else:
                found = parse_list(state, self._location.names)
        except (CorruptFile, FormatError) as exc:
            damage = f"{exc.reason}; mailboxes are known by their own names"
            found = await _recovered(self._fs, self._location, (damage,))
        self._mark = self._files.mark
        self._location.directories.take(found.directories)
        return found

    async def look(self) -> None:
        """Read the list index, if it has changed since the last time.

        :raises OSError: as :meth:`read`.
        """
        try:
            await self._files.refresh()
        except CorruptFile:
            return  # the names stay: Dovecot will make a new list index of these mailboxes
        if self._mark is None or self._files.mark != self._mark:
            await self.read()


async def read_list(fs: FileSystem, location: Location) -> ListedTree:
    """Read the mailboxes of a store with LAYOUT=index; this also updates :attr:`Location.directories`.

    :raises OSError: neither the list index nor the directory of the mailboxes can be read.
    """
    return await ListReader(fs, location).read()


async def _recovered(fs: FileSystem, location: Location, damage: tuple[str, ...]) -> ListedTree:
    """The mailboxes that have a directory, under the names in their own indexes."""
    found: dict[str, ListedNode] = {}
    root = os.path.join(location.list_index_dir, location.mailbox_dir)
    for entry in sorted(await fs.listdir(root), key=lambda entry: entry.name):
        if not entry.is_dir or GUID.fullmatch(entry.name) is None:
            continue
        name = await _own_name(fs, os.path.join(root, entry.name), location.names)
        lost = f"recovered-lost-folder-{entry.name}"
        if name is None or name in found:
            name = lost if name is None else f"{name}-{lost}"
        part = os.fsencode(name.rpartition("/")[2])
        found[name] = ListedNode(0, LISTED, 0, part, 0, bytes.fromhex(entry.name), 0)
    return ListedTree(_with_parents(found), damage)


async def _own_name(fs: FileSystem, directory: str, coding: NameCoding) -> str | None:
    index = IndexFiles(fs, directory)
    try:
        await index.refresh()
    except (CorruptFile, OSError):
        return None
    raw = index.state.header_data(BOX_NAME) if index.state is not None else None
    return storage_name_of(raw, coding) if raw else None


def storage_name_of(box_name: bytes, coding: NameCoding) -> str | None:
    """The storage name in the data of extension ``box-name``, with or without escapes; None: invalid."""
    parts = box_name.split(b"\0")
    if not all(parts):
        return None
    stored = [part if coding.plain(part) not in (None, part) else coding.escaped(part) for part in parts]
    return "/".join(os.fsdecode(part) for part in stored)


def box_name_of(name: str, coding: NameCoding) -> bytes:
    """The data of the extension ``box-name`` for a storage name, as 2.4 writes it."""
    parts = [os.fsencode(part) for part in name.split("/")]
    return b"\0".join(coding.plain(part) or part for part in parts)


def _with_parents(found: Mapping[str, ListedNode]) -> dict[str, ListedNode]:
    """*found* and a node for each parent that has none."""
    whole: dict[str, ListedNode] = {}
    for name, node in found.items():
        for above in _parents(name):
            part = os.fsencode(above.rpartition("/")[2])
            whole.setdefault(above, ListedNode(0, NONEXISTENT, 0, part, 0, None, 0))
        whole[name] = node
    return whole


def _parents(name: str) -> Iterable[str]:
    parts = name.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))
