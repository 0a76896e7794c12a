"""A store that the real Dovecot fills, with all that has to come back of one."""

from __future__ import annotations

import random

from tests.live.dovecot import Account, Append

BOXES = (
    "INBOX", "Work", "Work/Sub", "Entw\u00fcrfe", "Gesendet", "\u65e5\u672c\u8a9e", "Archive",
    "Archive/2019", "Archive/2020/Deep", "\u0421\u043f\u0430\u043c", "Lists & more", "Trash",
)  # fmt: skip
"""The mailboxes."""

YEARS = (1960, 1969, 1970, 1999, 2001, 2024, 2038, 2106, 2110)
"""Of received dates."""

_FLAGS = ("", "\\Seen", "\\Answered \\Seen", "\\Flagged", "\\Deleted", "\\Draft $Label1", "work NonJunk")
_GAPS = (2, 5)
"""Uids of messages that are expunged in every second mailbox."""

_LINE = b"a line of a message, like many others, with some words in it\n"


def fill(account: Account, count: int, large: int) -> None:
    """*count* messages in all, one of *large* bytes; a tenth of them copies, and gaps in the uids."""
    for name in BOXES[1:]:
        account.doveadm("mailbox create", name)
    for name in BOXES[1::3]:
        account.doveadm("mailbox subscribe", name)
    chosen, copies = random.Random(count), count // 10
    first = count - copies - 1 + len(_GAPS) * len(BOXES[::2])
    each = [range(number, first, len(BOXES)) for number in range(len(BOXES))]
    for box, numbers in zip(BOXES, each, strict=True):
        account.append([_message(number, chosen) for number in numbers], box)
    account.save(b"Subject: large\n\n" + _LINE * (large // len(_LINE)), "Work")
    for number in range(copies):
        source, target = BOXES[number % 5], BOXES[(number * 7 + 1) % len(BOXES)]
        account.doveadm("copy", target, "mailbox", source, "uid", str(1 + number % max(1, len(each[0]) - 2)))
    for box in BOXES[::2]:
        account.doveadm("expunge", "mailbox", box, "uid", ",".join(map(str, _GAPS)))
    account.doveadm("purge")


def _message(number: int, chosen: random.Random) -> Append:
    lines = max(1, round(chosen.lognormvariate(4.5, 1.2)))
    year, day = YEARS[number % len(YEARS)], 1 + number % 28
    return Append(
        f"Subject: message {number}\nMessage-ID: <{number}@example.org>\n\n".encode() + _LINE * lines,
        _FLAGS[number % len(_FLAGS)],
        f"{day:02}-Jan-{year} {number % 24:02}:{number % 60:02}:07 +0000",
    )
