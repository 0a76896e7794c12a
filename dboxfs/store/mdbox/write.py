"""Writing multi-dbox: records in ``m.N`` files, the map, the mailboxes (PROTOCOL sections 4, 5, 6, 8).

Every change holds the map's lock and has the same shape: change the map with internal records, change the
mailboxes, then move the map's tail, which marks the change as complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from dboxfs.errors import NoSuchMessage
from dboxfs.index.mailbox import guids, map_uids
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.mdbox.expunged import Expunged
from dboxfs.store.mdbox.references import References, check_limit, lost_references
from dboxfs.store.mdbox.saves import MdboxSaves
from dboxfs.store.mdbox.undelete import undelete
from dboxfs.store.write import log_records
from dboxfs.store.write.expunges import finish_expunge, heritage
from dboxfs.store.write.message import CopyAs, NewMessage
from dboxfs.store.write.naming import Wanted
from dboxfs.store.write.notes import Note
from dboxfs.store.write.results import Copied, Saved, now_seconds
from dboxfs.store.write.session import Work, present, visible


class MdboxWriter:
    """The write paths of a multi-dbox store."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._disk = work.disk
        self._references = References(work)
        self._saves = MdboxSaves(work, self._references)

    @property
    def groups(self) -> int:
        """The number of groups of saves so far."""
        return self._saves.queue.groups

    async def add(self, name: str, messages: Sequence[NewMessage]) -> Saved:
        """Bring messages into a mailbox, in one transaction."""
        return await self._saves.add(name, messages)

    # -- copy and move -----------------------------------------------------------------------------------

    async def copy(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        like: Mapping[int, CopyAs] | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """Copy messages: each gets one more reference.  Parameters and errors: :meth:`move`.

        :param like: by uid in the source: uid, flags and keywords of the copy.
        """
        return await self._transfer(source, uids, target, move=False, like=like, named=named)

    async def move(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        replaces: int | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """Move messages: the number of references stays the same.

        :param replaces: the message in the target whose place the first one takes.
        :param named: the name that the first one shall have.
        :raises NoSuchMessage: one of them is gone; nothing was changed.
        :raises Superseded: another message has the name; nothing was changed.
        :raises Unsupported: one of them has too many copies already.
        """
        return await self._transfer(source, uids, target, move=True, replaces=replaces, named=named)

    async def _transfer(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        move: bool,
        like: Mapping[int, CopyAs] | None = None,
        replaces: int | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """Copy (or move) messages: one more reference each (or none).

        :param like: by uid in the source: uid, flags and keywords of the copy.
        :param replaces: the message in the target whose place the first one takes.
        :param named: the name that the first one shall have.
        :raises NoSuchMessage: one of them is gone; nothing was changed.
        :raises Superseded: another message has the name; nothing was changed.
        :raises Unsupported: one of them has too many copies already.
        :raises OtherKey: they are encrypted for the key of their mailbox.
        """
        self._work.check_key(source, target)
        async with (
            self._work.locked_map() as mapping,
            self._work.mailboxes([source, target]) as indexes,
        ):
            here, there = indexes[source], indexes[target]
            wanted = visible(here.state, uids)
            if len(wanted) != len(set(uids)):
                raise NoSuchMessage(f"{self._work.shown(source)}: some of the messages to be copied are gone")
            rows = self._copies(here, there, wanted, mapping, like or {})
            check_limit(mapping, rows)
            if named is not None:
                named.uid = rows[0].uid
                await self._work.name_one(target, there, named)
            replaced = self._take_place(there, rows, replaces)
            notes: list[str] = []
            if move:
                notes.append(await self._note_move((source, here), (target, there), rows, wanted))
            try:
                await self._write_logs(here, there, rows, wanted if move else [], replaced)
            finally:
                await self._work.notes.drop(notes)
            self._work.count("moved" if move else "copied", len(rows))
            return Copied(there.state.uid_validity, tuple(wanted), tuple(row.uid for row in rows))

    async def _note_move(
        self,
        source: tuple[str, IndexLog],
        target: tuple[str, IndexLog],
        rows: Sequence[log_records.AppendedRow],
        uids: Sequence[int],
    ) -> str:
        (there, index), (here, old) = target, source
        moved = tuple((uid, row.map_uid) for uid, row in zip(uids, rows, strict=True))
        note = Note(
            there, self._work.header(index).guid.hex(), source=here,
            source_guid=self._work.header(old).guid.hex(), moved=moved, first_uid=index.state.next_uid,
        )  # fmt: skip
        return await self._work.notes.put(note)

    async def _write_logs(
        self,
        here: IndexLog,
        there: IndexLog,
        rows: Sequence[log_records.AppendedRow],
        gone: Sequence[int],
        replaced: Sequence[tuple[int, int]],
    ) -> None:
        """Append *rows* to one mailbox and expunge *gone* from the other, map first.

        :param replaced: (uid, map uid) of messages that are expunged with the append.
        """
        more = log_records.references_of(rows, 1)
        lost = [(map_uid, -1) for _, map_uid in replaced]
        # A move changes no refcount in the end; the records say that it has begun.
        await self._references.begin(more, log_records.references_of(rows, -1) if gone else [], lost)
        arrived = False
        consistent = True
        try:
            batch = log_records.append_messages(there.state, rows, mdbox=True)
            if replaced:
                batch += log_records.expunge(there.state, [uid for uid, _ in replaced], external=True)
            await there.append(batch, durable=True)
            arrived = True
            if gone:
                await here.append(log_records.expunge(here.state, gone, external=True), durable=True)
        except OSError:
            if not arrived:
                consistent = await self._references.take_back(
                    there, rows, replaced, references=0 if gone else 1
                )
            elif present(here.state, gone):
                consistent = await self._disk.attempt(self._references.change(more))
            raise
        finally:
            if consistent:
                await self._disk.attempt(self._work.map_done())

    @staticmethod
    def _take_place(
        there: IndexLog, rows: list[log_records.AppendedRow], replaces: int | None
    ) -> list[tuple[int, int]]:
        """Give the first of *rows* the marks of the message that it replaces; gives that one's (uid, map
        uid), empty if it is gone.
        """
        state, column = there.state, map_uids(there.state)
        if replaces is None or column is None or not visible(state, [replaces]):
            return []
        flags, keywords = log_records.marks(state, replaces)
        rows[0] = replace(rows[0], flags=flags, keywords=keywords)
        return [(replaces, int(column[state.row_of(replaces)]))]

    def _copies(
        self,
        here: IndexLog,
        there: IndexLog,
        wanted: Sequence[int],
        mapping: MapIndex,
        like: Mapping[int, CopyAs],
    ) -> list[log_records.AppendedRow]:
        state = here.state
        names, places = guids(state), map_uids(state)
        if places is None or names is None:
            raise NoSuchMessage(f"{here.what}: its messages are not in the map")
        now, uid = now_seconds(), there.state.next_uid
        rows = []
        for number, row in enumerate(state.rows_of(wanted).tolist()):
            map_uid = int(places[row])
            if mapping.lookup(map_uid) is None:
                raise NoSuchMessage(f"{here.what}: uid {wanted[number]} is not in the map")
            copy = like.get(wanted[number])
            if copy is None:
                copy = CopyAs(uid, int(state.flags[row]), state.keywords(row))
            saved = copy.saved if copy.saved is not None else now
            uid, guid = max(uid, copy.uid), names[row].tobytes()
            rows.append(log_records.AppendedRow(uid, copy.flags, copy.keywords, guid, map_uid, saved))
            uid += 1
        return rows

    async def undelete(
        self, name: str, messages: Sequence[Expunged], *, named: Wanted | None = None
    ) -> Copied:
        """Bring back messages that were expunged and not purged: one more reference each."""
        return await undelete(self._work, self._references, name, messages, named)

    # -- expunge -----------------------------------------------------------------------------------------

    async def expunge(
        self,
        name: str,
        uids: Sequence[int] | None,
        *,
        heir: int | None = None,
        named: Wanted | None = None,
        beside: bool = False,
    ) -> list[int]:
        """Expunge messages (None: all), and those whose expunge other processes requested; gives all their
        uids.

        :param heir: the uid that takes the place of the only message in *uids*, if that still exists.
        :param named: the name that the heir shall have.
        :param beside: what others have asked for is left to Dovecot: a crash between the map and the mailbox
            has it forget what was answered already.
        :raises NoSuchMessage: there is no heir.
        """
        async with self._work.locked_map() as mapping, self._work.mailbox(name) as index:
            wanted = index.state.uids.tolist() if uids is None else present(index.state, uids)
            await self._work.name_one(name, index, named)
            first = heritage(index, heir, wanted[0]) if heir is not None and wanted else None
            gone = wanted if beside else sorted({*wanted, *index.state.pending_expunges.tolist()})
            diffs = lost_references(index, mapping, gone)
            await self._references.begin(diffs)
            consistent = True
            try:
                await finish_expunge(index, gone, first or [])
            except OSError:
                if present(index.state, gone):
                    back = [(map_uid, -diff) for map_uid, diff in diffs]
                    consistent = await self._disk.attempt(self._references.change(back))
                raise
            finally:
                if consistent:
                    await self._disk.attempt(self._work.map_done())
        self._work.count("expunged", len(gone))
        return gone
