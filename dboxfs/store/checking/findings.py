"""What a check finds, and how it is sure of it while others change the store.

Dovecot and dboxfs change a store in steps, and between two of them things look wrong that are not: a file
that has no record yet, a count that is one too high.  So whatever seems wrong is looked at again after a
while, if anybody has changed the store lately, and only what stays is reported (:func:`settled`).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

MOST_OF_A_KIND = 100
"""Findings of one kind in one mailbox or file that are told one by one."""


class Severity(enum.Enum):
    """How bad it is.

    ERROR: messages can't be read or reached, or may get lost.  WARNING: something is left over or contradicts
    itself, and no message is in danger now.  NOTE: a normal state that is good to know.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    ``code``: its kind, for programs.  ``path``: the file it is about; ``offset``: where in it (bytes), None:
    nowhere in particular.  ``what``: in plain words.  ``todo``: what to do about it.  ``mailbox``: storage
    name.  ``count``: how many things it stands for.
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
        """What makes it the same finding when one looks again."""
        return (self.code, self.path, self.offset, self.mailbox, self.uid, self.map_uid)


Look = Callable[[], Awaitable[list[Finding]]]


def fewer(findings: Iterable[Finding]) -> list[Finding]:
    """At most :data:`MOST_OF_A_KIND` of each kind in each file; the others in one that counts them."""
    kept: list[Finding] = []
    more: dict[tuple[str, str], Finding] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        kind = (finding.code, finding.path)
        seen[kind] += 1
        if seen[kind] <= MOST_OF_A_KIND:
            kept.append(finding)
        else:
            more[kind] = finding
    for kind, last in more.items():
        rest = seen[kind] - MOST_OF_A_KIND
        what = f"{rest} more of the same kind"
        kept.append(
            Finding(last.severity, last.code, last.path, what, last.todo, mailbox=last.mailbox, count=rest)
        )
    return kept


async def settled(
    look: Look, patience: Sequence[float], touched: Callable[[], Awaitable[bool]]
) -> list[Finding]:
    """What *look* finds again and again.

    :param patience: seconds to wait before each further look.
    :param touched: whether anybody has changed something lately.
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
