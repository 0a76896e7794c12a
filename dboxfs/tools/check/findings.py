"""The findings of a check, and how the check makes sure of them while other processes change the store.

Dovecot and dboxfs change a store in steps.  Between two steps a correct store can look wrong: a file has no
record yet, or a count is one too high.  So if the store was changed lately, the check looks again after a
while, and reports only the problems that are still there (:func:`settled`).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.util.uid_ranges import uid_ranges

MOST_OF_A_KIND = 100
"""Findings of one kind in one mailbox or file that are reported one by one; one more counts the others."""


class Severity(enum.Enum):
    """How serious a finding is.

    ERROR: messages can't be read or reached, or may get lost.  WARNING: something is left over or contradicts
    itself, but no message is in danger now.  NOTE: a normal state that is good to know.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(Struct, frozen=True):
    """One problem or state that the check reports.

    ``code``: its kind, for programs.  ``path``: the file it is about; ``offset``: the place in the file
    (bytes), or None.  ``what``: the problem in plain words.  ``todo``: the advice.  ``mailbox``: storage
    name.  ``count``: number of messages or other things that it stands for.
    """

    severity: Severity
    code: str
    path: str
    what: str
    todo: str = ""
    offset: int | None = None
    mailbox: str | None = None
    uid: int | None = None
    map_uid: int | None = None
    count: int = 1

    @property
    def key(self) -> tuple[object, ...]:
        """Two looks found the same problem if their findings have equal keys."""
        return (self.code, self.path, self.offset, self.mailbox, self.uid, self.map_uid)


Look = Callable[[], Awaitable[list[Finding]]]


def fewer(findings: Iterable[Finding]) -> list[Finding]:
    """At most :data:`MOST_OF_A_KIND` of each kind in each mailbox or file; one more stands for the rest."""
    kept: list[Finding] = []
    more: dict[tuple[str, str], list[Finding]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        kind = (finding.code, finding.path if finding.mailbox is None else f"in {finding.mailbox}")
        seen[kind] += 1
        if seen[kind] <= MOST_OF_A_KIND:
            kept.append(finding)
        else:
            more.setdefault(kind, []).append(finding)
    return kept + [_together(rest) for rest in more.values()]


def _together(rest: list[Finding]) -> Finding:
    """One finding for many of a kind."""
    worst = min(rest, key=lambda finding: list(Severity).index(finding.severity))
    what = f"{len(rest)} more like this one: {worst.what}; all of them"
    for label, numbers in (
        ("uid", [one.uid for one in rest if one.uid is not None]),
        ("map uid", [one.map_uid for one in rest if one.map_uid is not None and one.uid is None]),
    ):
        if numbers:
            what += f": {label} {uid_ranges(sorted(set(numbers)))}"
    return replace(worst, what=what, offset=None, uid=None, map_uid=None, count=len(rest))


async def settled(
    look: Look, patience: Sequence[float], touched: Callable[[], Awaitable[bool]]
) -> list[Finding]:
    """The findings that every look has in common, and the notes of the last look; :func:`fewer` applied.

    :param patience: seconds to wait before each further look.
    :param touched: whether the store was changed lately; if not, there is no further look.
    """
    findings = await look()
    for delay in patience:
        if all(finding.severity is Severity.NOTE for finding in findings) or not await touched():
            break
        await trio.sleep(delay)
        before = {finding.key for finding in findings}
        findings = [
            finding for finding in await look() if finding.severity is Severity.NOTE or finding.key in before
        ]
    return fewer(findings)
