"""Whatever operation of the storage fails, the caller hears of it, nothing of it shows, nothing leaks.

All points of all paths: ``DBOXFS_THROUGH=all pytest tests/through``.  Otherwise some of them.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash.points import Template, clone, contents, counted
from tests.crash.test_errors import leftovers
from tests.live.dovecot import Account
from tests.through.changes import Change, Made, Workshop, agrees, chosen, ids, names, some
from tests.through.daemons import Served
from tests.through.serving import AWAY

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
CRASHED = ("Rebuilding index", "rebuilding indexes", "fscking index file", "Inconsistency in map index")


@pytest.mark.expected_log(*CRASHED)
@pytest.mark.parametrize("scenario", chosen(2), ids=ids)
def test_an_error(workshop: Workshop, through: dict[str, int], scenario: tuple[Change, str, str]) -> None:
    change, driver, options = scenario
    made = workshop.make(change, driver, options)
    kinds = made.template.operations
    # What a failing close tells nobody needs: the bytes are where they are.
    for nth in some(
        [nth for nth, kind in enumerate(kinds, 1) if kind not in ("close", "advise")], ids(scenario)
    ):
        one_error(workshop, made, nth)
        through["errors"] = through.get("errors", 0) + 1


@pytest.mark.expected_log(*CRASHED)
@pytest.mark.parametrize("scenario", chosen(4), ids=ids)
def test_a_store_that_goes_away(
    workshop: Workshop, through: dict[str, int], scenario: tuple[Change, str, str]
) -> None:
    change, driver, options = scenario
    made = workshop.make(change, driver, options)
    kinds = made.template.operations
    for nth in some([nth for nth, kind in enumerate(kinds, 1) if kind != "close"], ids(scenario)):
        goes_away(workshop, made, nth)
        through["stores gone"] = through.get("stores gone", 0) + 1


def one_error(workshop: Workshop, made: Made, nth: int) -> None:
    change, account = made.change, clone(workshop.dovecot, made.template.account)
    code = CODES[nth % len(CODES)]
    what = f"{errno.errorcode[code]} at operation {made.operation(nth)}"
    where = f"{change.name}, {account.location}, {made.options}: {what}"
    with workshop.daemons.mounted(account.location, made.options) as served:
        os.walk(served.mnt)
        idle = settled(served)
        served.plan({"kind": "*", "nth": nth, "error": code})
        done = served.run(change.script, workshop.env)
        hit = (quiet(served)[nth - 1 :] or ["none"])[0]  # side by side, not always in the same order
        served.plan()
        said = done.stderr.decode()
        if done.returncode:
            assert os.strerror(code) in said or change.says in said, f"{where}: {said}"
        nothing_leaks(served, idle, where)
        if hit not in ("unlink", "rmdir"):
            assert soon_clean(account) == [], where
        check(account, made, done.returncode != 0, where)
        agrees(served, account, where)
        if not done.returncode:
            assert soon_names(served, made) == made.names, where
        # Alone, a clean-up that has failed is left to the maintenance; a repair may come before it.
        excused = done.returncode != 0 or "alone" in made.options
        goes_on(workshop, made, served, account, excused, where)


def goes_away(workshop: Workshop, made: Made, nth: int) -> None:
    change, account = made.change, clone(workshop.dovecot, made.template.account)
    where = f"{change.name}, {account.location}, {made.options}: away before operation {made.operation(nth)}"
    away = account.root.with_name(account.root.name + AWAY)
    with workshop.daemons.mounted(account.location, made.options) as served:
        os.walk(served.mnt)
        idle = settled(served)
        served.plan(away=nth)
        done = served.run(change.script, workshop.env)
        served.plan()  # nothing goes away any more, while it is looked at
        assert not account.root.exists() or not away.exists(), where
        if away.exists():
            away.rename(account.root)
        if b"rm: cannot remove" in done.stderr:  # a clean-up that was told of an error is made up for
            soon_removed(served.mnt / "INBOX/.new")
        nothing_leaks(served, idle, where)
        check(account, made, done.returncode != 0, where, undone=False)
        agrees(served, account, where)
        # A clean-up may have found nothing to clean: a repair may find what was left.
        if change.twin is not None:
            template = made.template
            made = replace(made, template=replace(template, after=template.after + Counter([change.twin])))
        goes_on(workshop, made, served, account, True, where)


def quiet(served: Served) -> list[str]:
    """The operations since the last plan, when there are no more: nobody waits for a clean-up."""
    done: list[str] = []
    deadline = time.monotonic() + 3
    while len(now := served.operations()[0]) != len(done) and time.monotonic() < deadline:
        done = now
        time.sleep(0.05)
    return now


def settled(served: Served) -> dict[str, Any]:
    """The state of a daemon that has nothing to do."""
    before = served.state()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        time.sleep(0.005)
        now = served.state()
        if {**now, "resident": 0} == {**before, "resident": 0}:
            break
        before = now
    return before


def nothing_leaks(served: Served, idle: dict[str, Any], where: str) -> None:
    """Soon there are no more descriptors, locks, buffers and uploads than when there was nothing to do."""
    deadline = time.monotonic() + 3
    while True:
        now = served.state()
        grown = {
            name: value
            for name, value in now.items()
            if name not in ("resident", "descriptors", "handles") and value > idle[name]
        }
        descriptors = [name for name in now["descriptors"] if not re.search(r"/[um]\.\d+$", name)]
        extra = Counter(descriptors) - Counter(idle["descriptors"])
        if not grown and not extra:
            return
        assert time.monotonic() < deadline, f"{where}: {grown}, {dict(extra)}"
        time.sleep(0.01)


def soon_clean(account: Account) -> list[str]:
    """The temporary files that are still there after a while: who has closed a file does not wait for it."""
    deadline = time.monotonic() + 2
    while (found := leftovers(account.root)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def soon_removed(path: Path) -> None:
    """Remove a file, as soon as the mount has noticed that its store is back."""
    deadline = time.monotonic() + 3
    while True:
        try:
            return path.unlink(missing_ok=True)
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def soon_names(served: Served, made: Made) -> list[str]:
    """What is listed; a directory that could not be read says so until it is read again."""
    deadline = time.monotonic() + 3
    while True:
        try:
            found = names(served.mnt)
        except OSError:
            found = []
        if found == made.names or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def check(account: Account, made: Made, reported: bool, where: str, *, undone: bool = True) -> None:
    """All of it or, if it was reported, as little of it as can be.

    ``undone``: what has been done before the error could be taken back.
    """
    found = contents(account)
    have = counted(found)
    template: Template = made.template
    if not reported:
        assert have == template.after, f"{where}: not reported"
        assert account.mailboxes() == made.mailboxes[1], where
    elif made.change.whole and undone:
        assert have == template.before, f"{where}: reported, but something has changed"
        assert account.mailboxes() == made.mailboxes[0], where
    elif made.change.whole:
        assert have in (template.before, template.after), f"{where}: half done"
    for key in have.keys() | template.before.keys() | template.after.keys():
        low, high = sorted((template.before[key], template.after[key]))
        assert low <= have[key] <= high, f"{where}: {have[key]} times in {key[0]}: {key[1][:60]!r}"
    for places in made.change.together:
        assert any(have[key] for key in places), f"{where}: a message is nowhere"
    rows = {(name, row[0]): row[1:] for name, some_rows in found.items() for row in some_rows}
    for key, row in template.kept.items():
        assert rows[key] == row, f"{where}: {key[1][:60]!r} has changed"


def goes_on(
    workshop: Workshop, made: Made, served: Served, account: Account, reported: bool, where: str
) -> None:
    """The next operation succeeds; a repair finds nothing that was not acknowledged, nor loses anything."""
    if made.change.ours_first and reported:  # a mailbox that is half gone: trying again ends it
        done = served.run("[ ! -e Empty ] || rmdir Empty")
        assert (done.returncode, done.stderr) == (0, b""), f"{where}: {done}"
    extra = workshop.last_words(served, Counter(), "last")
    after = counted(contents(account))
    assert after[next(iter(extra))] == 1, where
    account.force_resync()
    repaired = counted(contents(account))
    if not reported:
        assert repaired == after, f"{where}: force-resync changed something"
        return
    for key in repaired.keys() | after.keys():
        low, high = sorted((made.template.before[key], made.template.after[key]))
        assert low + extra[key] <= repaired[key] <= high + extra[key], f"{where}, after force-resync: {key}"
