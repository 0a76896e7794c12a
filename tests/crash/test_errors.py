"""Whatever operation fails, the error is reported, nothing of the change shows, nothing leaks, all goes on.

All points: ``DBOXFS_CRASH=all pytest tests/crash``.  Otherwise some of them.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.write import NewMessage, StoreWriter
from tests.crash.points import EXPECTED, Key, Scenario, Template, clone, contents, counted, each_of, template
from tests.crash.test_crash import EVERY, SCENARIOS
from tests.live.dovecot import Account, Dovecot

pytestmark = pytest.mark.expected_log(*EXPECTED)

# Changes of one transaction: nothing or all of it.  The others may stop in the middle (PROTOCOL 6, 9).
ATOMIC = ("save_one", "save_many", "save_large", "flags", "copy", "expunge")
TESTED = (
    *ATOMIC,
    "replace",
    "move",
    "take_place",
    "move_over",
    "create",
    "delete",
    "rename",
    "subscribe",
    "purge",
    "rotate",
)
CHOSEN = [s for s in SCENARIOS if s.name.split("-")[0] in TESTED]
CODES = (errno.ENOSPC, errno.EIO)
LAST = b"Subject: after the error\n\nstill alive\n"


def open_files(root: Path) -> list[str]:
    """The files below *root* that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if path.startswith(str(root)):
            found.append(path)
    return found


def leftovers(root: Path) -> list[str]:
    """Temporary files and lock files."""
    endings = (".lock", ".newlock", ".tmp")
    return [
        str(path)
        for path in root.rglob("*")
        if path.name.startswith((".temp.", "mailboxes.lock")) or path.suffix in endings
    ]


@each_of(CHOSEN)
async def test_an_error(dovecot: Dovecot, points: dict[str, int], scenario: Scenario) -> None:
    made = await template(dovecot, scenario)
    every = [nth for nth, kind in enumerate(made.operations, 1) if kind != "close"]
    chosen = every if EVERY else every[:: max(1, len(every) // 2)]
    for nth in chosen:
        await one_error(dovecot, scenario, made, nth, CODES[nth % 2])
    points[f"errors in {scenario.name}"] = len(chosen)


async def one_error(dovecot: Dovecot, scenario: Scenario, made: Template, nth: int, code: int) -> None:
    account = clone(dovecot, made.account)
    where = f"{scenario.name}: operation {nth} ({made.operations[nth - 1]}) fails"
    driver = FaultsDriver(ThreadsDriver(1), [Fault("*", nth, error=code)], depth=1)
    reported = False
    async with FileSystem(driver) as fs:
        writer = StoreWriter(fs, parse_location(account.location), account.root.stat(), scenario.options)
        try:
            await scenario.change(writer, fs, lambda name, text: None)
        except (OSError, DboxfsError):
            reported = True
        assert not len(fs.locks), where
        assert open_files(account.root) == [], where
        if made.operations[nth - 1] != "unlink":
            assert leftovers(account.root) == [], where
        check(account, scenario, made, reported, where)
        # What a daemon does at its next start, and now and then.
        await writer.recover()
        if scenario.options.alone:
            await writer.maintain()
        await writer.save("INBOX", [NewMessage(LAST)])
    after = counted(contents(account))
    assert after[("INBOX", LAST)] == 1, where
    account.force_resync()
    if reported:  # what was refused in the middle may come back
        within(counted(contents(account)), made, f"{where}, after force-resync")
    else:
        assert counted(contents(account)) == after, f"{where}: force-resync changed something"


def check(account: Account, scenario: Scenario, made: Template, reported: bool, where: str) -> None:
    found = contents(account)
    have: Counter[Key] = counted(found)
    if not reported and scenario.name != "move_over-mdbox-dovecot":  # see ATOMIC in test_crash
        assert have == made.after, f"{where}, not reported"
    elif scenario.name.split("-")[0] in ATOMIC:
        assert have in (made.before, made.after), f"{where}: half done"
    if reported and scenario.name.startswith(("save", "take_place")):
        assert have == made.before, f"{where}: reported, but done"
    within(have, made, where)
    for places in scenario.together:
        assert any(have[key] for key in places), f"{where}: a message is nowhere"
    rows = {(name, row[0]): row[1:] for name, some in found.items() for row in some}
    for key, row in made.kept.items():
        assert rows[key] == row, f"{where}: {key[1][:60]!r} has changed"


def within(have: Counter[Key], made: Template, where: str) -> None:
    """Every message is there as often as before, as after, or in between."""
    for key in (have.keys() | made.before.keys() | made.after.keys()) - {("INBOX", LAST)}:
        low, high = sorted((made.before[key], made.after[key]))
        assert low <= have[key] <= high, f"{where}: {have[key]} times in {key[0]}: {key[1][:60]!r}"
