"""Writes the new store: mailboxes, messages, copies, guids and uids.

Messages are saved mailbox by mailbox in the order of their uids, several in one transaction.  A message that
several mailboxes have is saved once and copied to the others, so an mdbox stores it once.  A mailbox gets its
guid, UIDVALIDITY and next uid after its messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from msgspec.structs import replace

from dboxfs.dbox import PREFIX_SIZE, detect, is_encrypted
from dboxfs.errors import DboxfsError
from dboxfs.store.location import Kind
from dboxfs.store.salvage import Trust
from dboxfs.store.write import Coded, CopyAs, InvalidName, NewMessage, Source, StoreWriter
from dboxfs.tools.filling import Filling, line_text, make_mailbox, sorted_out
from dboxfs.tools.guarded import Guarded
from dboxfs.tools.packing import MOST, counted, packed
from dboxfs.tools.rescue.events import Event
from dboxfs.tools.rescue.index_facts import Box, Known
from dboxfs.tools.rescue.place import Assigned, Target
from dboxfs.tools.rescue.rows import NO_DATE, NO_GUID, Row
from dboxfs.tools.rescue.scan_files import File, Harvest
from dboxfs.tools.rescue.sources import Texts


class Planter:
    """Writes the new store.

    :param progress: called with the number of messages that are saved so far.
    :ivar kept: the guids of mailboxes that kept the old guid, by storage name.
    :ivar renumbered: mailboxes in which a message got a new uid.
    """

    def __init__(
        self,
        harvest: Harvest,
        assigned: Assigned,
        texts: Texts,
        writer: StoreWriter,
        progress: Callable[[int], None],
    ) -> None:
        self._harvest = harvest
        self._assigned = assigned
        self._texts = texts
        self._writer = writer
        self._progress = progress
        old, new = harvest.location.kind, writer.location.kind
        self._once = (old, new) == (Kind.SDBOX, Kind.MDBOX)  # an mdbox stores copies once
        self._done = harvest.done
        self.kept: dict[str, bytes] = {}
        self.renumbered: set[str] = set()
        self._guids: set[bytes] = set()
        self._identities: set[bytes] = set()
        self._stored: dict[tuple[bytes, int], int] = {}
        self._saved: dict[int, tuple[str, int]] = {}
        self._incomplete: set[int] = set()  # rows that lack attachments
        self._torn: set[int] = set()  # those that are saved all the same
        every = (target.row for targets in assigned.targets.values() for target in targets)
        self._shared = {row for row, count in Counter(every).items() if count > 1}

    async def mailboxes(self) -> None:
        """Make all mailboxes with their messages."""
        boxes = {box.name: box for box in self._harvest.knowledge.boxes}
        for name in sorted({*boxes, *self._assigned.targets}):
            made = await self._make(name)
            targets = self._assigned.targets.get(name, [])
            box = boxes.get(name)
            await self._fill(made, self._ordered(targets, box))
            if box is not None and made == name:
                await self._number(box)

    async def damaged(self, name: str) -> None:
        """Save the readable part of damaged messages into a mailbox of its own."""
        wanted = [number for number in self._assigned.damaged if self._harvest.rows[number].plain]
        if not wanted:
            return
        made = await self._make(name)
        before = self._done.messages
        self._torn |= self._incomplete
        await self._fill(made, [Target(number, None) for number in wanted])
        self._done.damaged = self._done.messages - before
        self._done.messages = before

    # -- mailboxes ---------------------------------------------------------------------------------------

    async def _make(self, name: str) -> str:
        """Make a mailbox; returns its name: INBOX if *name* is not valid in the new store."""
        if name == "INBOX":
            self._done.mailboxes += 1
            return name
        try:
            self._done.mailboxes += await make_mailbox(self._writer, name)
        except InvalidName as exc:
            what = f"{exc}; its messages go to INBOX"
            self._harvest.emit(Event("renamed", what, mailbox=name))
            return "INBOX"
        return name

    async def _number(self, box: Box) -> None:
        """Give the mailbox its old guid, UIDVALIDITY and next uid, if they are known and the guid is free."""
        header, state = box.header, box.state
        if header is None or state is None or not state.uid_validity:
            what = "its guid and UIDVALIDITY are lost: clients read it again"
            self._harvest.emit(Event("renumbered", what, mailbox=box.name))
            return
        if header.guid in self._identities:
            what = "another mailbox has the same guid: it gets a new one"
            self._harvest.emit(Event("renumbered", what, mailbox=box.name))
            return
        self._identities.add(header.guid)
        self.kept[box.name] = header.guid
        await self._writer.set_identity(
            box.name, guid=header.guid, uid_validity=state.uid_validity, next_uid=max(state.next_uid, 1)
        )

    @staticmethod
    def _ordered(targets: Sequence[Target], box: Box | None) -> list[Target]:
        """The targets by uid; behind them those without a uid, which get uids that no message has had."""
        pairs = [(t.known.uid, t) for t in targets if t.known is not None]
        known = [target for _, target in sorted(pairs, key=lambda pair: pair[0])]
        free = box.state.next_uid if box is not None and box.state is not None else 1
        others = [t for t in targets if t.known is None]
        return [*known, *(Target(t.row, Known(uid, 0, (), None)) for uid, t in enumerate(others, free))]

    # -- messages ----------------------------------------------------------------------------------------

    async def _fill(self, name: str, targets: Sequence[Target]) -> None:
        def lost(target: Target, why: str) -> None:
            self._tear(target, name, why, known=True)

        filling = Filling(self._writer, name, partial(self._keep, name), lost, self._texts.done)
        for target in targets:
            first = self._first(target)
            if first in self._shared and (
                first in self._saved or any(other.row == first for other in filling.tags)
            ):
                await filling.flush()
                if first in self._saved:
                    known = target.known or Known(0, 0, (), None)
                    like = CopyAs(known.uid, known.flags, self._keywords(known), known.saved)
                    await filling.copy(Target(first, target.known), *self._saved[first], like)
                    continue
            await self._add(name, filling, target)
        await filling.flush()

    def _first(self, target: Target) -> int:
        """The row to save for this message: from sdbox to mdbox, the first with the same guid and size."""
        row = self._harvest.rows[target.row]
        if not self._once or row.guid == NO_GUID or target.known is None:
            return target.row
        first = self._stored.setdefault((row.guid, row.plain), target.row)
        if first != target.row:
            self._shared.add(first)
        return first

    async def _add(self, name: str, filling: Filling[Target], target: Target) -> None:
        """Read the text of one message and add it to the batch."""
        row = self._harvest.rows[target.row]
        file = self._harvest.files[row.file]
        try:
            missing = await self._texts.missing(file, row) if row.trust is not Trust.DAMAGED else []
            if missing and target.row not in self._torn:
                self._tear(target, name, "; ".join(missing), known=self._texts.knows_attachments)
                return
            text = await (self._texts.partial if missing else self._texts.text)(file, row)
            fitting = await self._fitting(file, row, text)
        except (DboxfsError, OSError) as exc:
            self._refuse(target, name, f"{exc}")
            return
        if isinstance(fitting, str):
            self._refuse(target, name, fitting)
            return
        text, coded = fitting
        source = text if isinstance(text, bytes) else Guarded(text, target.row)
        message = replace(self._message(source, target, file.changed), coded=coded)
        await filling.add(target, target.row, message, len(text) if isinstance(text, bytes) else 0)

    async def _fitting(
        self, file: File, row: Row, text: bytes | Source
    ) -> tuple[bytes | Source, Coded | None] | str:
        """The text for the new store, with its sizes if it is coded; or why the store can't hold it."""
        first = text[:PREFIX_SIZE] if isinstance(text, bytes) else await text.read(PREFIX_SIZE, 0)
        version = self._writer.options.dbox_version
        if is_encrypted(first):
            if version == 3:
                return "the message is encrypted; only dbox version 2 can hold it"
            return text, await self._texts.coded(file, row)
        if version == 3 or self._writer.options.compress is not None or detect(first) is None:
            return text, None
        if row.as_it_is and not self._harvest.compressed:
            return text, await counted(text)
        if (len(text) if isinstance(text, bytes) else text.size) > MOST:
            return f"it begins like a compressed message, and has more than {MOST} bytes"
        return await packed(text)

    def _refuse(self, target: Target, name: str, why: str) -> None:
        """Report a message that can't be saved."""
        row = self._harvest.rows[target.row]
        uid = target.known.uid if target.known is not None else None
        path = self._harvest.files[row.file].path
        self._harvest.emit(Event("refused", why, path, row.offset, name, uid, row.guid))

    def _tear(self, target: Target, name: str, why: str, *, known: bool) -> None:
        """Report a message that lacks attachments, and put it with the damaged ones."""
        row = self._harvest.rows[target.row]
        uid = target.known.uid if target.known is not None else None
        path = self._harvest.files[row.file].path
        code = "damaged" if known else "refused"
        self._harvest.emit(Event(code, why, path, row.offset, name, uid, row.guid, row.plain))
        if target.row not in self._incomplete:
            self._incomplete.add(target.row)
            self._assigned.damaged.append(target.row)

    def _message(self, text: bytes | Source, target: Target, changed: int) -> NewMessage:
        row = self._harvest.rows[target.row]
        known = target.known or Known(0, 0, (), None)
        guid = row.guid if row.guid != NO_GUID else None
        if target.known is None and guid in self._guids:
            guid = None  # a damaged message whose whole copy was saved under this guid
        elif guid is not None:
            self._guids.add(guid)
        text_of_guid = self._harvest.guid_texts.get(target.row) if guid is not None else None
        return NewMessage(
            text, row.received if row.received != NO_DATE else changed, known.flags, self._keywords(known),
            guid, None, known.uid or None, known.saved, text_of_guid,
            orig_mailbox=line_text(self._harvest.rows.names[row.home]),
        )  # fmt: skip

    def _keywords(self, known: Known) -> tuple[str, ...]:
        good, bad = sorted_out(known.keywords)
        for word in bad:
            self._harvest.emit(Event("keywords", f"{word!r} can't be a keyword", uid=known.uid))
        return good

    def _keep(self, name: str, target: Target, uid: int, copied: bool) -> None:
        """Count a message that is now in mailbox *name* of the new store."""
        if copied:
            self._done.copies += 1
            return
        if target.known is not None and uid != target.known.uid:
            self.renumbered.add(name)
        if self._once or target.row in self._shared:
            self._saved[target.row] = (name, uid)
        self._done.messages += 1
        self._progress(self._done.messages)
