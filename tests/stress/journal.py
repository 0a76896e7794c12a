"""The journal of the stress: what was begun, what was acknowledged, and what must be there in the end.

Each worker writes a journal of its own, one JSON object a line, each handed to the kernel before the worker's
next step (a worker or a daemon that is killed loses none of it):

    {"op": 17, "kind": "move", "before": [ITEM], "after": [ITEM]}    begun
    {"op": 17, "end": "ok"}               acknowledged; with "after" if that is not what was expected
    {"op": 17, "end": "lost"}             another worker was faster: nothing done
    {"op": 17, "end": "ENOTCONN"}         an error: nobody knows
    {"op": 17, "fault": "..."}            something is wrong
    {"op": 17, "delay": 0.2}              how many seconds it took until another view showed it

An operation takes the items *before* out of the store and puts the items *after* into it, both at once.  What
was acknowledged is done; what was begun and has no good end is done as a whole or not at all.  A worker ends
at its first operation without a good end, so there is one of these at most.

An :class:`Item` is one message in one place.  Each has one owner, who alone changes it.  What is there for
all belongs to the conductor: messages that all append to (the kind ``share``; *share* is the segment), and
prey that the first one to come takes away (``take``) or removes (``prey``; *share* is its text).
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Key = tuple[int, str, str, str]
"""Store, mailbox, text, flags: what a message is for everybody, under whatever name."""


@dataclass(frozen=True, slots=True)
class Item:
    """A message in a place.

    :ivar store: number of the store.
    :ivar name: of the file; nothing if no program has named it.
    :ivar text: a :class:`~tests.stress.texts.Text` as str.
    :ivar flags: flags and keywords, sorted, separated by spaces.
    """

    store: int
    box: str
    name: str
    text: str
    flags: str = ""

    @property
    def key(self) -> Key:
        return self.store, self.box, self.text, self.flags


@dataclass(frozen=True, slots=True)
class Operation:
    """One that was begun."""

    number: int
    kind: str
    before: tuple[Item, ...]
    after: tuple[Item, ...]
    share: str = ""


@dataclass(slots=True)
class Journal:
    """Writes one."""

    path: Path
    number: int = 0
    _fd: int = field(init=False)

    def __post_init__(self) -> None:
        self._fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def begin(self, kind: str, before: Iterable[Item], after: Iterable[Item], share: str = "") -> None:
        """*share*: the segment that is appended to what belongs to all."""
        self.number += 1
        self._write(kind=kind, before=_rows(before), after=_rows(after), share=share)

    def acknowledged(self, after: Iterable[Item] | None = None) -> None:
        """*after*: what is there now, if that could not be known before."""
        self._write(end="ok", **({} if after is None else {"after": _rows(after)}))

    def lost(self) -> None:
        self._write(end="lost")

    def failed(self, error: str) -> None:
        """Nobody knows what became of the operation; or, without one, the worker can't go on."""
        self._write(end=error, at=time.time())

    def fault(self, what: str) -> None:
        self._write(fault=what, at=time.time())

    def delay(self, seconds: float) -> None:
        self._write(delay=seconds)

    def _write(self, **values: object) -> None:
        os.write(self._fd, json.dumps({"op": self.number, **values}).encode() + b"\n")


@dataclass(slots=True)
class Outcome:
    """What a journal says.

    :ivar items: what is there for certain, beside what *open* may have done.
    :ivar number: of the last operation.
    :ivar open: the operation that has no good end.
    :ivar error: what ended the worker, and *failed* when (seconds since the epoch).
    :ivar shares: segments that are there; *maybe* may be.
    :ivar taken: texts of the prey that this worker got.
    :ivar last: for each text, the last operation that had to do with it.
    """

    items: Counter[Item]
    number: int = 0
    open: Operation | None = None
    error: str = ""
    failed: float = 0.0
    shares: set[str] = field(default_factory=set)
    maybe: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    delay: float = 0.0
    faults: list[tuple[int, str]] = field(default_factory=list)
    last: dict[str, Operation] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    def settle(self, done: bool) -> None:
        """What was open is decided."""
        if self.open is not None:
            _apply(self.items, self.open.before if done else (), self.open.after if done else ())
            self.open = None


def read(path: Path, start: Iterable[Item]) -> Outcome:
    """The outcome of a journal whose worker had the items of *start* at first.

    ValueError: the journal contradicts itself.
    """
    found = Outcome(Counter(start))
    for line in path.read_bytes().splitlines() if path.exists() else []:
        row: dict[str, Any] = json.loads(line)
        if "kind" in row:
            if found.open is not None:
                raise ValueError(f"{path}: operation {row['op']} begins before {found.open.number} ends")
            before, after = _items(row["before"]), _items(row["after"])
            found.number = row["op"]
            found.open = Operation(row["op"], row["kind"], before, after, row["share"])
            found.last.update({item.text: found.open for item in (*before, *after)})
        elif "fault" in row:
            found.faults.append((row["op"], row["fault"]))
            found.failed = found.failed or row["at"]
        elif "delay" in row:
            found.delay = max(found.delay, row["delay"])
        else:
            _end(found, row)
    if found.open is not None and found.open.kind == "share":
        found.maybe.add(found.open.share)
    return found


def _end(found: Outcome, row: dict[str, Any]) -> None:
    if row["end"] not in ("ok", "lost"):
        found.error, found.failed = row["end"], row["at"]
        return
    if found.open is None:
        raise ValueError(f"operation {row['op']} ends, and was never begun")
    found.kinds[found.open.kind] += 1
    if row["end"] == "lost":
        found.open = None
        return
    if "after" in row:
        found.open = replace(found.open, after=_items(row["after"]))
        found.last.update({item.text: found.open for item in found.open.after})
    if found.open.kind == "share":
        found.shares.add(found.open.share)
    elif found.open.share:
        found.taken.add(found.open.share)
    found.settle(done=True)


def _apply(items: Counter[Item], before: Sequence[Item], after: Sequence[Item]) -> None:
    for item in before:
        if items[item] < 1:
            raise ValueError(f"{item} is changed, and was never there")
        items[item] -= 1
        if not items[item]:
            del items[item]
    items.update(after)


def decide(operation: Operation, certain: Counter[Key], seen: Counter[Key]) -> bool | None:
    """Whether an open operation was done, as *seen* shows; None: it is neither done nor not done.

    :param certain: all that must be there if it was not done.
    """
    before = Counter(item.key for item in operation.before)
    after = Counter(item.key for item in operation.after)
    # Texts tell which keys are concerned: a half-done change may show in a place that neither side has.
    texts = {key[2] for key in (*before, *after)}
    here = Counter({key: count for key, count in seen.items() if key[2] in texts})
    undone = Counter({key: count for key, count in certain.items() if key[2] in texts})
    if here == undone:
        return False
    done = undone.copy()
    done.subtract(before)
    done.update(after)
    return True if here == +done else None


def _rows(items: Iterable[Item]) -> list[list[int | str]]:
    return [[item.store, item.box, item.name, item.text, item.flags] for item in items]


def _items(rows: list[list[Any]]) -> tuple[Item, ...]:
    return tuple(Item(*row) for row in rows)
