"""Whatever operation the daemon is killed at, nothing acknowledged is lost and nothing half-done shows.

All points of all paths: ``DBOXFS_THROUGH=all pytest tests/through``.  Otherwise some of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.crash.points import EXPECTED, Key, check, clone
from tests.through.changes import CHANGING, Change, Made, Workshop, agrees, chosen, ids, names, some


@pytest.mark.expected_log(*EXPECTED)
@pytest.mark.parametrize("scenario", chosen(0), ids=ids)
def test_a_killed_daemon(
    workshop: Workshop, through: dict[str, int], scenario: tuple[Change, str, str]
) -> None:
    change, driver, options = scenario
    made = workshop.make(change, driver, options)
    for point in some(list(range(made.changing + 1)), ids(scenario)):
        freed = kill(workshop, made, point)
        through["kills"] = through.get("kills", 0) + 1
        through["freed by umount -f"] = through.get("freed by umount -f", 0) + freed


def kill(workshop: Workshop, made: Made, point: int) -> bool:
    """Kill the daemon there and look at what is left; whether only ``umount -f`` ended the script."""
    change, account = made.change, clone(workshop.dovecot, made.template.account)
    where = f"{change.name}, {account.location}, {made.options}: killed after {point} changing operations"
    fault: dict[str, object] = {"kind": CHANGING, "nth": point, "crash": "after"}
    if point == 0:
        fault = {"kind": CHANGING, "nth": 1, "crash": "before"}
    with workshop.daemons.mounted(account.location, made.options) as served:
        served.plan(fault)
        done = served.run(change.script, workshop.env)
        whole, freed = done.returncode == 0, served.freed
    acknowledged = made.template.before.keys() | made.template.after.keys() if whole else set()
    template = made.template
    if change.twin is not None and not whole:
        template = replace(template, after=template.after + Counter([change.twin]))
    extra: Counter[Key] = Counter()
    if not (change.ours_first or "alone" in made.options):
        check(account, change, template, acknowledged, extra, where)
    with workshop.daemons.mounted(account.location, made.options) as served:
        agrees(served, account, where)
        if whole:
            assert names(served.mnt) == made.names, where
            assert account.mailboxes() == made.mailboxes[1], where
        extra = workshop.last_words(served, extra, "last")
        check(account, change, template, acknowledged, extra, where)
        account.force_resync()
        check(account, change, template, acknowledged, extra, f"{where}, after force-resync")
        extra = workshop.last_words(served, extra, "again")
        check(account, change, template, acknowledged, extra, f"{where}, in the end")
    return freed
