"""Stop a writer at every single file operation, then let Dovecot and another writer open what is left.

A :class:`Scenario` is a store that Dovecot made and one change of it.  The change is made once on a copy, to
count its operations and to learn what it ends with; then once for every operation, on a copy each, with a
driver that lets nothing reach the disk any more after that operation (:class:`~dboxfs.fsapi.Crash`).  An
append has a second point: only some of its bytes were written.

What must hold for the store that is left (:func:`check`):

* a change that was acknowledged is there as a whole;
* of one that was not, each message is there as it was before or as it would be after, never less, never a
  part of one; messages that may not be lost in between (``together``) are in one place at least;
* messages that have nothing to do with it keep uid, guid, flags and keywords;
* force-resync changes none of this, and Dovecot's log has nothing but what ``EXPECTED`` allows;
* another dboxfs writer can save and Dovecot shows it.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pytest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Crash, Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.ops import Job, Op
from dboxfs.store import Location, parse_location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions
from tests.live.dovecot import Account, Dovecot, parse_pager

R = TypeVar("R")

EXPECTED = (
    "Rebuilding index",
    "rebuilding indexes",
    "fscking index file",
    "Inconsistency in map index",
    "already exists",
)
"""What Dovecot may log about a store whose writer died (recovery section 1)."""

LISTED_AGAIN = "Mailbox list rescan found"
"""What it may log besides with LAYOUT=index, where a deletion that was broken off leaves a directory."""

LAST_WORDS = b"Subject: after the crash\n\nstill alive\n"

_APART = {"mail_attachment_dir": "{home}/attachments", "mail_attachment_min_size": "2k"}

Key = tuple[str, bytes]
"""A message's mailbox and text."""


Contents = dict[str, list[tuple[bytes, int, str, str]]]
"""By mailbox: text, uid, guid, flags and keywords of every message."""

Acknowledge = Callable[[str, bytes], None]
"""To be called with the mailbox and text of a message when its save has been acknowledged."""


class Held(Protocol):
    """What must hold at any time of a change; see :class:`Scenario`."""

    @property
    def together(self) -> tuple[frozenset[Key], ...]: ...

    @property
    def atomic(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """A change of a store.

    ``prepare`` is done by Dovecot.  ``together``: sets of places of which one at least must hold the message.
    ``attachments``: the store keeps attachments in files of their own.
    ``ours_first``: dboxfs opens what is left before Dovecot does.  ``atomic``: mailboxes that are as a whole
    as they were before, flags and uids too, or as they are after (until a rebuild adds what was not
    acknowledged).
    """

    name: str
    driver: str
    options: WriteOptions
    prepare: Callable[[Account], None]
    change: Callable[[StoreWriter, FileSystem, Acknowledge], Awaitable[object]]
    together: tuple[frozenset[Key], ...] = ()
    suffix: str = ""
    attachments: bool = False
    ours_first: bool = False
    atomic: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """Where the writer dies: after the nth operation (0: before the first); ``torn``: inside it."""

    nth: int
    torn: bool = False

    def plan(self) -> list[Fault]:
        if self.torn:
            return [Fault("*", self.nth, short=7, error=5), Fault("*", self.nth + 1, crash=Crash.BEFORE)]
        if self.nth == 0:
            return [Fault("*", 1, crash=Crash.BEFORE)]
        return [Fault("*", self.nth, crash=Crash.AFTER)]


@dataclass(frozen=True, slots=True)
class Template:
    """A prepared store, what it holds before and after, and the operations of the change."""

    account: Account
    before: Counter[Key]
    after: Counter[Key]
    kept: dict[Key, tuple[int, str, str]]
    states: tuple[dict[Key, tuple[int, str, str]], dict[Key, tuple[int, str, str]]]
    operations: list[str]

    def points(self) -> Iterator[Point]:
        yield Point(0)
        for nth, kind in enumerate(self.operations, 1):
            yield Point(nth)
            if kind == "append":
                yield Point(nth, torn=True)


class Recorder(FaultsDriver):
    """Writes down the kind of every operation."""

    def __init__(self, plan: Iterable[Fault] = ()) -> None:
        super().__init__(ThreadsDriver(1), plan, depth=1)
        self.kinds: list[str] = []

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        self.kinds.append(op.kind)
        return super().submit(op, done, background=background)


def contents(account: Account) -> Contents:
    """Every message of every mailbox: text, uid, guid, flags and keywords."""
    fields = "mailbox uid guid flags size.physical text"
    out = account.dovecot.doveadm("-f", "pager", "fetch", "-u", account.name, fields, "all")
    found: Contents = {}
    for values, text in parse_pager(out):
        flags = " ".join(sorted(set(values["flags"].split()) - {"\\Recent"}))
        found.setdefault(values["mailbox"], []).append((text, int(values["uid"]), values["guid"], flags))
    return found


def where_is(account: Account) -> Location:
    """Where the store is, with its attachments."""
    there = f"{account.home}/attachments" if "mail_attachment_dir" in account.settings else None
    return dataclasses.replace(parse_location(account.location), attachments=there)


def counted(found: Contents) -> Counter[Key]:
    return Counter((name, row[0]) for name, rows in found.items() for row in rows)


def clone(dovecot: Dovecot, template: Account) -> Account:
    """A store of another user with the same files."""
    location = template.location.replace(str(template.home), "{home}")
    account = dovecot.account(location, **(_APART if "mail_attachment_dir" in template.settings else {}))
    for entry in template.home.iterdir():
        subprocess.run(["cp", "-a", str(entry), str(account.home)], check=True)
    return account


async def run(scenario: Scenario, account: Account, driver: FaultsDriver) -> tuple[bool, set[Key]]:
    """Make the change; whether it was acknowledged as a whole, and of which messages it was."""
    where = where_is(account)
    acknowledged: set[Key] = set()

    def acknowledge(name: str, text: bytes) -> None:
        if not driver.crashed:  # else it is a message of a process that is dead
            acknowledged.add((name, text))

    try:
        async with FileSystem(driver) as fs:
            owner = account.root.stat()
            await scenario.change(StoreWriter(fs, where, owner, scenario.options), fs, acknowledge)
    except* (OSError, DboxfsError):
        if not driver.crashed:
            raise
    return not driver.crashed, acknowledged


def each_of(scenarios: Iterable[Scenario]) -> pytest.MarkDecorator:
    """Run a test with each of them."""
    listed = pytest.mark.expected_log(LISTED_AGAIN)
    params = [
        pytest.param(s, id=s.name, marks=listed if s.name.endswith("-index") else ()) for s in scenarios
    ]
    return pytest.mark.parametrize("scenario", params)


async def template(dovecot: Dovecot, scenario: Scenario) -> Template:
    """Prepare the store and make the change once, without a crash."""
    apart = _APART if scenario.attachments else {}
    account = dovecot.account(f"{scenario.driver}:{{home}}/mail{scenario.suffix}", **apart)
    scenario.prepare(account)
    before = contents(account)
    copy = clone(dovecot, account)
    recorder = Recorder()
    whole, _ = await run(scenario, copy, recorder)
    assert whole
    after = contents(copy)
    first = {(name, row[0]): row[1:] for name, rows in before.items() for row in rows}
    last = {(name, row[0]): row[1:] for name, rows in after.items() for row in rows}
    kept = {key: row for key, row in first.items() if last.get(key) == row}
    return Template(account, counted(before), counted(after), kept, (first, last), recorder.kinds)


async def crash(dovecot: Dovecot, scenario: Scenario, made: Template, point: Point) -> bool:
    """Let the writer die at *point* and check what is left; whether the change was acknowledged before."""
    account = clone(dovecot, made.account)
    driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
    whole, parts = await run(scenario, account, driver)
    where = f"{scenario.name}: {point}, after {made.operations[max(point.nth - 1, 0)]}"
    acknowledged = made.after.keys() | made.before.keys() if whole else parts
    extra: Counter[Key] = Counter()
    # Dovecot takes a torn log for damaged, also one that it tore itself: it needs us to be first.
    if point.torn or scenario.ours_first or scenario.options.neighbour is Neighbour.ALONE:
        extra = await _go_on(account, scenario, extra)
    check(account, scenario, made, acknowledged, extra, where)
    extra = await _go_on(account, scenario, extra)
    account.force_resync()
    check(account, scenario, made, acknowledged, extra, f"{where}, after force-resync")
    return whole


async def _go_on(account: Account, scenario: Scenario, extra: Counter[Key]) -> Counter[Key]:
    """The next writer saves a message."""
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, where_is(account), account.root.stat(), scenario.options)
        await writer.recover()
        if scenario.options.neighbour is Neighbour.ALONE:
            await writer.maintain()
        text = LAST_WORDS + b"%d\n" % len(extra)
        await writer.save("INBOX", [NewMessage(text)])
    return extra + Counter([("INBOX", text)])


def check(
    account: Account,
    scenario: Held,
    made: Template,
    acknowledged: Set[Key],
    extra: Counter[Key],
    where: str,
) -> None:
    """See the module."""
    found = contents(account)
    have = counted(found)
    for key in have.keys() | made.before.keys() | made.after.keys() | extra.keys():
        low, high = sorted((made.before[key], made.after[key]))
        if key in acknowledged:
            low = high = made.after[key]
        count = have[key]
        assert low + extra[key] <= count <= high + extra[key], (
            f"{where}: {count} times in {key[0]}, {low} to {high} expected: {key[1][:60]!r}"
        )
    for places in scenario.together:
        assert any(have[key] for key in places), f"{where}: a message is nowhere"
    rows = {(name, row[0]): row[1:] for name, some in found.items() for row in some}
    for key, row in made.kept.items():
        assert rows[key] == row, f"{where}: {key[1][:60]!r} has changed"
    for name in scenario.atomic if "resync" not in where else ():
        states = [{key: row for key, row in rows.items() if key[0] == name and key not in extra}]
        states += [{key: row for key, row in some.items() if key[0] == name} for some in made.states]
        assert states[0] in states[1:], f"{where}: {name} is half changed"
