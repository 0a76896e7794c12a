"""Changing the list index of a store with LAYOUT=index: its nodes are the mailboxes (PROTOCOL section 9).

Each change is one transaction under the lock of the list index's log, based on the nodes read there::

    EXT_INTRO list (header data as large as the names need), EXT_HDR_UPDATE all names that nodes have
    EXPUNGE, APPEND, FLAG_UPDATE of nodes
    EXT_REC_UPDATE list: name, parent, guid and uid_validity of new and changed nodes

All records are external, and the tail moves behind them: no record waits to be executed.  The caller holds
``mailboxes.lock``.

Source: logs of Dovecot 2.3.19 and 2.4.1.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.errors import CorruptFile, FormatError
from dboxfs.index import payload
from dboxfs.index.log import LogHeader, RecordType, encode_record
from dboxfs.index.state import IndexState
from dboxfs.store.evidence import GUID
from dboxfs.store.indexes.create import refuse_lost_log
from dboxfs.store.indexes.log import IndexLog, new_log
from dboxfs.store.list_index import (
    BOX_NAME,
    EXTENSION,
    LISTED,
    NONEXISTENT,
    NOSELECT,
    RECORD,
    ListedNode,
    ListedTree,
    box_name_of,
    parse_list,
)
from dboxfs.store.write import log_records
from dboxfs.store.write.session import Work
from dboxfs.store.write_errors import IndexMissing

_ALIGN = 4
_HEADER_STEP = 128


class _Plan(Struct, frozen=True):
    """A change of the nodes: ``removed`` by number; ``changed`` and ``added`` as they are after it."""

    added: Sequence[ListedNode] = ()
    changed: Sequence[ListedNode] = ()
    removed: Sequence[int] = ()


class ListedMailboxes:
    """The nodes of the list index, under its lock.  ``tree``: the current nodes."""

    def __init__(self, work: Work, index: IndexLog, tree: ListedTree) -> None:
        self._work = work
        self._index = index
        self.tree = tree

    def has_children(self, name: str) -> bool:
        """Whether a node is below *name*."""
        return any(other.startswith(name + "/") for other in self.tree.nodes)

    async def add(self, name: str, guid: bytes, uid_validity: int) -> None:
        """List mailbox *name* and its parents.

        :raises OSError: it is not listed: if only the sync failed, further records take the node back.
        """
        old = self.tree.nodes.get(name)
        *added, node = self._missing(name) if old is None else [old]
        node = replace(node, flags=LISTED, guid=guid, uid_validity=uid_validity)
        if old is not None:
            plan, back = _Plan(changed=[node]), _Plan(changed=[old])
        else:
            plan = _Plan(added=[*added, node])
            back = _Plan(removed=[one.uid for one in plan.added])
        try:
            await self._carry_out(plan)
        except OSError:
            if self._index.state.row_of(node.uid) >= 0:
                await self._work.disk.attempt(self._carry_out(back))
            raise

    async def remove(self, name: str) -> None:
        """Remove mailbox *name* from the list; a node with others below it stays as their parent."""
        node = self.tree.nodes[name]
        if self.has_children(name):
            await self._carry_out(_Plan(changed=[replace(node, flags=NOSELECT, guid=None, uid_validity=0)]))
        else:
            await self._carry_out(_Plan(removed=[node.uid]))

    async def rename(self, old: str, new: str) -> None:
        """Rename *old* and all nodes below it to *new*; parents of *old* that are empty then are removed."""
        node = self.tree.nodes[old]
        *added, place = self._missing(new)
        taken = self.tree.nodes.get(new)
        moved = replace(node, name_id=place.name_id, part=place.part, parent=place.parent)
        gone = [] if taken is None else [taken.uid]
        await self._carry_out(_Plan(added=added, changed=[moved], removed=gone + self._left_empty(old, new)))

    def _left_empty(self, old: str, new: str) -> list[int]:
        """The parents of *old* that are no mailboxes and have no other nodes below them."""
        found: list[int] = []
        inner, above = old, old.rpartition("/")[0]
        while above and self.tree.nodes[above].guid is None and not new.startswith(above + "/"):
            others = (name for name in self.tree.nodes if name.startswith(above + "/"))
            if not all(name == inner or name.startswith(inner + "/") for name in others):
                break
            found.append(self.tree.nodes[above].uid)
            inner, above = above, above.rpartition("/")[0]
        return found

    def _missing(self, name: str) -> list[ListedNode]:
        """New nodes for *name* and its missing parents; the last one is for *name* itself."""
        coding, state = self._work.location.names, self._index.state
        uid, name_id = state.next_uid, max((node.name_id for node in self.tree.nodes.values()), default=0) + 1
        parts, parent, found = name.split("/"), 0, list[ListedNode]()
        for count in range(1, len(parts) + 1):
            known = self.tree.nodes.get("/".join(parts[:count]))
            if known is not None and count < len(parts):
                parent = known.uid
                continue
            stored = os.fsencode(parts[count - 1])
            part = coding.plain(stored) or stored
            found.append(ListedNode(uid, NONEXISTENT, name_id, part, parent, None, 0))
            parent, uid, name_id = uid, uid + 1, name_id + 1
        return found

    async def _carry_out(self, plan: _Plan) -> None:
        state = self._index.state
        gone = set(plan.removed)
        nodes = {node.uid: node for node in self.tree.nodes.values() if node.uid not in gone}
        nodes |= {node.uid: node for node in (*plan.changed, *plan.added)}
        records = [*_names(state, {node.name_id: node.part for node in nodes.values()})]
        if gone:
            records += log_records.expunge(state, sorted(gone), external=True)
        if plan.added:
            body = payload.append((node.uid, node.flags) for node in plan.added)
            records.append(encode_record(RecordType.APPEND, body, external=True))
        for node in plan.changed:
            body = payload.flag_update([(node.uid, node.uid)], node.flags, ~node.flags & 0x1F)
            records.append(encode_record(RecordType.FLAG_UPDATE, body, external=True))
        rows = [(node.uid, _record(node)) for node in (*plan.changed, *plan.added)]
        if rows:
            body = payload.ext_rec_update(rows)
            records.append(encode_record(RecordType.EXT_REC_UPDATE, body, external=True))
        await self._index.append(records, tail=True, durable=True)
        self.tree = _tree(self._work, self._index)


def _record(node: ListedNode) -> bytes:
    return RECORD.pack(node.name_id, node.parent, node.guid or bytes(16), node.uid_validity)


def _names(state: IndexState, names: Mapping[int, bytes]) -> Iterable[bytes]:
    """Records that select the extension, with room for all names, and write the names."""
    data = b"\0" + b"".join(struct.pack("<I", number) + names[number] + b"\0" for number in sorted(names))
    data += bytes(4)
    found = next((ext for ext in state.extensions if ext.name == EXTENSION), None)
    room = len(found.hdr) if found is not None else _HEADER_STEP
    while room < len(data):
        room *= 2
    reset_id = found.reset_id if found is not None else 0
    intro = payload.ext_intro(
        EXTENSION, reset_id=reset_id, hdr_size=room, record_size=RECORD.size, record_align=_ALIGN
    )
    yield encode_record(RecordType.EXT_INTRO, intro, external=True)
    large = len(data) > 0xFFFF
    update = payload.ext_hdr_update32(0, data) if large else payload.ext_hdr_update(0, data)
    kind = RecordType.EXT_HDR_UPDATE32 if large else RecordType.EXT_HDR_UPDATE
    yield encode_record(kind, update, external=True)


def _tree(work: Work, index: IndexLog) -> ListedTree:
    """The current nodes; the location's directories are updated to them.

    :raises CorruptFile: the nodes contradict each other; nothing is changed then.
    """
    if index.state.column(EXTENSION) is None:
        tree = ListedTree({})
    else:
        try:
            tree = parse_list(index.state, work.location.names)
        except FormatError as exc:
            raise CorruptFile(index.log_path, exc.offset, exc.reason) from exc
    if tree.damage:
        raise CorruptFile(index.log_path, 0, f"{tree.damage[0]}; it is not written")
    work.location.directories.take(tree.directories)
    return tree


@asynccontextmanager
async def listed(work: Work) -> AsyncIterator[ListedMailboxes]:
    """Hold the list index; it is made if there is none.

    :raises CorruptFile: it can't be read, or contradicts itself.
    :raises StoreBusy: another program holds its lock.
    """
    index = work.list_index()
    if not await work.disk.exists(index.log_path):
        await make_list_index(work, contended=True)
    async with index.locked(deleted_ok=True):
        yield ListedMailboxes(work, index, _tree(work, index))


async def make_list_index(work: Work, *, contended: bool) -> None:
    """Make an empty list index.

    :param contended: other processes may make it at the same time.
    :raises IndexMissing: there are mailboxes: the list index is lost, or is elsewhere.
    """
    index = work.list_index()
    await _refuse_lost_list(work, index)
    await work.disk.make_dirs(index.directory)
    now = int(time.time())
    validity = payload.header_update(24, struct.pack("<I", now))
    first = encode_record(RecordType.HEADER_UPDATE, validity, external=True)
    header = LogHeader(indexid=now, file_seq=2, create_stamp=now)
    await new_log(work.disk, index, header, first, contended=contended)


async def _refuse_lost_list(work: Work, index: IndexLog) -> None:
    """Refuse to make a list index where mailboxes exist: it would hide them.

    :raises IndexMissing: there are mailboxes.
    """
    await refuse_lost_log(work.disk, index)
    location = work.location
    for root in {location.list_index_dir, location.root}:
        entries = await work.disk.listdir(os.path.join(root, location.mailbox_dir))
        if any(GUID.fullmatch(entry.name) for entry in entries):
            raise IndexMissing(
                f"{index.log_path} is missing and there are mailboxes, not written; restore it, or let a "
                "Dovecot open the store, which finds them by their own names"
            )


def own_name(state: IndexState | None, name: bytes) -> list[bytes]:
    """Records with the mailbox's name, for its own index.

    :param state: of that index; None: it is to be made.
    """
    extensions = state.extensions if state is not None else ()
    found = next((ext for ext in extensions if ext.name == BOX_NAME), None)
    reset_id = found.reset_id if found is not None else 0
    intro = payload.ext_intro(BOX_NAME, reset_id=reset_id, hdr_size=len(name), no_shrink=False)
    return [
        encode_record(RecordType.EXT_INTRO, intro, external=True),
        encode_record(RecordType.EXT_HDR_UPDATE, payload.ext_hdr_update(0, name), external=True),
    ]


def own_name_of(work: Work, name: str) -> bytes:
    """The name that the index of mailbox *name* has to have."""
    return box_name_of(name, work.location.names)
