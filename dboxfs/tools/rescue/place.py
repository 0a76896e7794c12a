"""Finds the mailbox and uid of each message.

sdbox: the path of the file gives mailbox and uid; the index, if it has that uid, gives flags and keywords.

mdbox: a mailbox record has a map uid, whose file and offset the map has, and the message's guid.  The rescue
follows both.  Where they contradict each other the guid counts, since it stands in the message itself.
A message that no record refers to is

* expunged, if the map can be read and says that no mailbox has the message: it is not brought back;
* a second copy, if another message has its guid and size (a purge that died): it is left out;
* otherwise unplaced: it goes to the mailbox that its metadata name, behind all other messages.  If map or
  indexes are lost, it may be a message that was expunged.  If the index of that mailbox is whole and doesn't
  list it, it was moved: it goes to the mailbox whose index is lost, if there is only one such, else to
  :data:`UNPLACED_MAILBOX`.

If several messages match a record, the most trusted one is taken.  Files that Dovecot has put aside
(``m.N.broken``, ``u.N.broken``) come last: their messages only count if no other file has them.
"""

from __future__ import annotations

import os
from collections import defaultdict

import numpy as np
from msgspec import Struct, field

from dboxfs.store.location import Kind
from dboxfs.store.salvage import Trust
from dboxfs.tools.rescue.events import Event
from dboxfs.tools.rescue.index_facts import Box, Known
from dboxfs.tools.rescue.rows import NO_GUID, Row
from dboxfs.tools.rescue.scan_files import Harvest

UNPLACED_MAILBOX = "Rescued-Unplaced"
"""The mailbox for messages that were moved out of the mailbox that they name, to one that is not known."""


class Target(Struct, frozen=True):
    """Message *row* of the table shall be in a mailbox.  ``known``: its facts from the index; None: none."""

    row: int
    known: Known | None


class Assigned(Struct):
    """``targets``: the messages of each mailbox (storage name).  ``damaged``: rows of incomplete messages."""

    targets: dict[str, list[Target]] = field(default_factory=lambda: defaultdict(list))
    damaged: list[int] = field(default_factory=list)


def assign(harvest: Harvest) -> Assigned:
    """Find a mailbox for every message, and report the lost ones."""
    assigned = Assigned()
    if harvest.location.kind is Kind.SDBOX:
        _assign_files(harvest, assigned)
        _missing_files(harvest)
    else:
        _Storage(harvest, assigned).run()
    _tell_put_aside(harvest, assigned)
    for number in harvest.trouble:
        _report(harvest, number, harvest.rows[number])
    return assigned


def _tell_put_aside(harvest: Harvest, assigned: Assigned) -> None:
    """Report the messages that are only in files that Dovecot has put aside."""
    for name, targets in assigned.targets.items():
        for target in targets:
            row = harvest.rows[target.row]
            file = harvest.files[row.file]
            if file.broken:
                uid = target.known.uid if target.known is not None else None
                what = "the message is only in a file that Dovecot has put aside when it repaired it"
                harvest.emit(Event("put-aside", what, file.path, row.offset, name, uid, row.guid))


def _report(harvest: Harvest, number: int, row: Row) -> None:
    """Report the problems of a message that is saved in spite of them."""
    problems = harvest.trouble.get(number)
    if problems and row.trust is not Trust.DAMAGED and not row.inside:
        file = harvest.files[row.file]
        code = "repaired" if row.trust is Trust.REPAIRED else "doubtful"
        uid = file.number if file.mailbox is not None else None
        event = Event(code, "; ".join(problems), file.path, row.offset, file.mailbox, uid, row.guid)
        harvest.emit(event)


def _damaged(
    harvest: Harvest,
    assigned: Assigned,
    number: int,
    row: Row,
    box: Box | None = None,
    uid: int | None = None,
) -> None:
    file = harvest.files[row.file]
    problems = "; ".join(harvest.trouble.get(number, ("it is incomplete",)))
    where = f" (was {harvest.shown(box.name)} uid {uid})" if box is not None else ""
    what = f"a damaged message{where}: {problems}; {row.plain} bytes of its text are there"
    name = box.name if box is not None else None
    harvest.emit(Event("damaged", what, file.path, row.offset, name, uid, row.guid, row.plain))
    assigned.damaged.append(number)


def _assign_files(harvest: Harvest, assigned: Assigned) -> None:
    boxes = {box.name: box for box in harvest.knowledge.boxes}
    for number, row in enumerate(harvest.rows):
        first = _best(harvest, number)
        if first == number:
            _assign_file(harvest, assigned, number, boxes)
            continue
        best = harvest.rows[first]
        file = harvest.files[row.file]
        same = NO_GUID in (row.guid, best.guid) or (row.guid, row.plain) == (best.guid, best.plain)
        if row.trust is Trust.DAMAGED or row.inside or (same and best.trust is not Trust.DAMAGED):
            harvest.done.twins += 1
            continue
        assert file.mailbox is not None
        harvest.done.unplaced += 1
        what = f"another message has uid {file.number} now; this one gets a new uid"
        harvest.emit(Event("unplaced", what, file.path, row.offset, file.mailbox, guid=row.guid))
        assigned.targets[file.mailbox].append(Target(number, None))


def _best(harvest: Harvest, number: int) -> int:
    """The best row with the mailbox and uid of row *number*: a file that was put aside has one, too."""
    file = harvest.files[harvest.rows[number].file]
    assert file.mailbox is not None
    rows = harvest.by_uid[file.mailbox, file.number]
    return min(rows, key=lambda at: harvest.rows[at].trust + 10 * harvest.rows[at].inside)


def _assign_file(harvest: Harvest, assigned: Assigned, number: int, boxes: dict[str, Box]) -> None:
    row = harvest.rows[number]
    file = harvest.files[row.file]
    assert file.mailbox is not None
    box, uid = boxes[file.mailbox], file.number
    if row.trust is Trust.DAMAGED or row.inside:
        _damaged(harvest, assigned, number, row, box, uid)
        return
    at = box.state.row_of(uid) if box.state is not None else -1
    if at < 0 and box.fresh:
        what = "the message has no record in the index: flags not known, perhaps expunged"
        harvest.emit(Event("no-record", what, file.path, None, box.name, uid, row.guid))
    known = box.known(at) if at >= 0 else Known(uid, 0, (), None)
    assigned.targets[box.name].append(Target(number, known))


def _missing_files(harvest: Harvest) -> None:
    for box in harvest.knowledge.boxes:
        uids = box.state.uids.tolist() if box.state is not None else []
        for uid in uids:
            if (box.name, uid) not in harvest.seen and (box.name, uid) not in harvest.by_uid:
                path = os.path.join(box.directories[0], f"u.{uid}")
                what = "the index has this message, its file is missing"
                harvest.emit(Event("lost", what, path, mailbox=box.name, uid=uid))


class _Storage:
    """Finds a mailbox for every message of an mdbox, and reports the lost ones."""

    def __init__(self, harvest: Harvest, assigned: Assigned) -> None:
        self._harvest = harvest
        self._assigned = assigned
        self._knowledge = harvest.knowledge
        self._references = harvest.knowledge.references
        self._trust = np.array([row.trust + 10 * row.inside for row in harvest.rows], np.int64)
        self._claims = np.full(len(self._references), -1, np.int64)
        self._used: set[int] = set()
        self._dead: set[int] = set()
        self._unfitting: list[tuple[int, int]] = []

    def run(self) -> None:
        """Assign everything."""
        self._claim_by_place()
        self._claim_by_guid()
        self._claim_in_spite_of_guid()
        self._used = set(self._claims[self._claims >= 0].tolist())
        self._place_referenced()
        self._place_others()

    # -- references --------------------------------------------------------------------------------------

    def _claim_by_place(self) -> None:
        mapping, fresh = self._knowledge.map, self._knowledge.map_fresh
        if mapping is None:
            return
        keys = mapping.file_ids.astype(np.uint64) << np.uint64(32) | mapping.offsets.astype(np.uint64)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        uids, counts = mapping.map_uids[order], mapping.refcounts[order]
        valid = self._boxes_of_map(mapping.uid_validity)
        for number, row in enumerate(self._harvest.rows):
            file = self._harvest.files[row.file]
            file_id = file.number
            if row.inside or file.broken or row.offset >= 1 << 32:
                continue
            at = int(np.searchsorted(keys, np.uint64(file_id << 32 | row.offset)))
            if at == len(keys) or int(keys[at]) != file_id << 32 | row.offset:
                continue
            for reference in self._references.of_map_uid(int(uids[at])):
                if int(self._references.boxes[reference]) not in valid:
                    continue
                if self._fits(reference, row):
                    self._claim(reference, number)
                else:
                    self._unfitting.append((reference, number))
            if fresh and counts[at] == 0:
                self._dead.add(number)

    def _boxes_of_map(self, uid_validity: int) -> set[int]:
        """Positions of the mailboxes whose map uids are those of this map."""
        return {
            number
            for number, box in enumerate(self._knowledge.boxes)
            if box.header is not None and box.header.map_uid_validity == uid_validity
        }

    def _fits(self, reference: int, row: Row) -> bool:
        """Whether record and message can belong together: equal guids, or one of the guids is unknown."""
        guid: bytes = self._references.guids[reference]
        return not guid or row.guid == NO_GUID or guid == row.guid.rstrip(b"\0")

    def _claim(self, reference: int, number: int) -> None:
        other = int(self._claims[reference])
        if other < 0 or self._trust[number] < self._trust[other]:
            self._claims[reference] = number

    def _claim_by_guid(self) -> None:
        claimed = set(self._claims[self._claims >= 0].tolist())
        for number, row in enumerate(self._harvest.rows):
            if row.guid == NO_GUID or (number in claimed and row.trust is Trust.DAMAGED):
                continue
            for reference in self._references.of_guid(row.guid):
                self._claim(reference, number)

    def _claim_in_spite_of_guid(self) -> None:
        """Match a record with the message at its place although their guids differ: one guid is damaged.

        Only if no file has the guid of the record, and no record has the message.
        """
        claimed = set(self._claims[self._claims >= 0].tolist())
        for reference, number in self._unfitting:
            row = self._harvest.rows[number]
            if self._claims[reference] >= 0 or number in claimed or row.trust is Trust.DAMAGED:
                continue
            self._claim(reference, number)
            box = self._knowledge.boxes[int(self._references.boxes[reference])]
            guid: bytes = self._references.guids[reference]
            what = f"its guid is another one in the index ({guid.ljust(16, bytes(1)).hex()}); one is damaged"
            file = self._harvest.files[row.file]
            uid = box.known(int(self._references.rows[reference])).uid
            event = Event("doubtful", what, file.path, row.offset, box.name, uid, row.guid)
            self._harvest.emit(event)

    # -- places ------------------------------------------------------------------------------------------

    def _place_referenced(self) -> None:
        references, rows = self._references, self._harvest.rows
        told: set[int] = set()
        for at in range(len(references)):
            box = self._knowledge.boxes[int(references.boxes[at])]
            known = box.known(int(references.rows[at]))
            number = int(self._claims[at])
            if number < 0:
                guid: bytes = references.guids[at].ljust(16, b"\0")
                what = "no file has this message"
                self._harvest.emit(Event("lost", what, "", None, box.name, known.uid, guid))
            elif rows[number].trust is not Trust.DAMAGED:
                self._assigned.targets[box.name].append(Target(number, known))
            elif number not in told:
                told.add(number)
                _damaged(self._harvest, self._assigned, number, rows[number], box, known.uid)

    def _place_others(self) -> None:
        rows, done = self._harvest.rows, self._harvest.done
        sizes = {rows[number].guid: rows[number].plain for number in sorted(self._used)}
        for number in range(len(rows)):
            if number in self._used:
                continue
            row = rows[number]
            named = row.guid != NO_GUID
            if number in self._dead:
                done.expunged += 1
                sizes.setdefault(row.guid, row.plain)
            elif row.inside:
                self._inside(number, row)
            elif row.trust is Trust.DAMAGED:
                if not named or row.guid not in sizes:
                    _damaged(self._harvest, self._assigned, number, row)
            elif named and sizes.get(row.guid) == row.plain:
                done.twins += 1
            else:
                if named:
                    sizes[row.guid] = row.plain
                self._nobodys(number, row)

    def _inside(self, number: int, row: Row) -> None:
        file = self._harvest.files[row.file]
        what = (
            "a whole message within a damaged one; no index knows it, so it may be a part of that one's text"
        )
        event = Event("inside", what, file.path, row.offset, guid=row.guid, salvaged=row.plain)
        self._harvest.emit(event)
        self._assigned.damaged.append(number)

    def _nobodys(self, number: int, row: Row) -> None:
        self._harvest.done.unplaced += 1
        home, what = self._home(row)
        file = self._harvest.files[row.file]
        if not self._knowledge.map_fresh:
            what += "; perhaps it was expunged"
        self._harvest.emit(Event("unplaced", what, file.path, row.offset, home, guid=row.guid))
        self._assigned.targets[home].append(Target(number, None))

    def _home(self, row: Row) -> tuple[str, str]:
        """The mailbox (storage name) for a message that no index knows, and why."""
        home = self._harvest.rows.names[row.home].decode("utf-8", "surrogateescape")
        if not home:
            return (
                "INBOX",
                "no index knows this message, and it doesn't say where it belongs; it goes to INBOX",
            )
        shown = self._harvest.shown(home)
        lost = [box.name for box in self._knowledge.boxes if not box.fresh]
        if not lost or not any(box.name == home and box.fresh for box in self._knowledge.boxes):
            return home, f"no index knows this message; it goes to {shown}, which is what it says itself"
        why = f"no index knows this message; it was saved to {shown}, which does not have it any more"
        if len(lost) == 1:
            return lost[
                0
            ], f"{why}; it goes to {self._harvest.shown(lost[0])}, the mailbox whose index is lost"
        return UNPLACED_MAILBOX, f"{why}, and {len(lost)} mailboxes have lost their indexes"
