"""The messages of the bench: made up, plain text, the same for the same seed.

Sizes are log-normal with median 8 KiB and mean 30 KiB, as measured on real mail, from 400 bytes to 20 MiB.
Bodies are cut out of one text of lines of random words, so that a message costs a copy to make.  The word
:data:`ABSENT` is in none of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MEDIAN = 8 << 10
MEAN = 30 << 10
ABSENT = "zyxxyq"

FOLDERS = (
    ("INBOX", 0.4),
    ("Archive/2024", 0.2),
    ("Archive/2025", 0.2),
    ("Lists", 0.1),
    ("Sent", 0.1),
)
"""Mailboxes and what part of the messages each holds."""

FIRST_DATE = 1_700_000_000
"""Received date of the first message, seconds since the epoch; each later one came a minute later."""

_SMALLEST, _LARGEST = 400, 20 << 20
_POOL = 8 << 20
_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnprstvw"  # no x, y, z: they are for ABSENT


@dataclass(frozen=True, slots=True)
class Mail:
    """One message: its mailbox, its uid there, its place among all messages, its size in bytes."""

    folder: str
    uid: int
    number: int
    size: int

    @property
    def path(self) -> str:
        """Its name in a mount, below the root."""
        return f"{self.folder}/{self.uid}.eml"


class Corpus:
    """All messages of one store.

    :param sizes: bytes of each message; None: ``count`` log-normal ones.
    """

    def __init__(self, count: int, seed: int = 1, sizes: list[int] | None = None) -> None:
        rng = np.random.default_rng(seed)
        if sizes is None:
            sigma = math.sqrt(2 * math.log(MEAN / MEDIAN))
            drawn = rng.lognormal(math.log(MEDIAN), sigma, count)
            sizes = drawn.clip(_SMALLEST, _LARGEST).astype(int).tolist()
        self.mails = _distributed(sizes)
        self._starts: list[int] = rng.integers(0, _POOL, len(sizes)).tolist()
        self._text = _pool(seed) * (2 + max(sizes, default=0) // _POOL)

    def __len__(self) -> int:
        return len(self.mails)

    @property
    def size(self) -> int:
        """Bytes of all messages."""
        return sum(mail.size for mail in self.mails)

    def text(self, mail: Mail) -> bytes:
        """The bytes of one message, with LF line ends, as Dovecot stores them."""
        head = (
            f"From: Ann Example <ann{mail.number % 97}@example.org>\nTo: Bob <bob@example.org>\n"
            f"Subject: message {mail.number}\nMessage-ID: <{mail.number}@bench.example.org>\n"
            f"Date: Mon, 2 Feb 2026 10:{mail.number // 60 % 60:02}:{mail.number % 60:02} +0000\n"
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n"
        ).encode()
        start = self._starts[mail.number]
        return head + self._text[start : start + mail.size - len(head) - 1] + b"\n"

    def __iter__(self) -> Iterator[tuple[Mail, bytes]]:
        return ((mail, self.text(mail)) for mail in self.mails)


def _distributed(sizes: list[int]) -> list[Mail]:
    mails: list[Mail] = []
    share = 0.0
    for folder, part in FOLDERS:
        share += part
        end = len(sizes) if folder == FOLDERS[-1][0] else round(share * len(sizes))
        first = len(mails)
        mails += [Mail(folder, n - first + 1, n, sizes[n]) for n in range(first, end)]
    return mails


def _pool(seed: int) -> bytes:
    rng = random.Random(seed)
    words = [
        "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 4)))
        for _ in range(4000)
    ]
    lines = [" ".join(rng.choices(words, k=11)) for _ in range(20_000)]
    text = "\n".join(lines).encode() + b"\n"
    parts, size = [text], len(text)
    while size < _POOL:
        rng.shuffle(lines)
        parts.append("\n".join(lines).encode() + b"\n")
        size += len(text)
    return b"".join(parts)[:_POOL]
