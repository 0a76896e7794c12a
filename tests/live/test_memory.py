"""Hours of reading, compressed in time: the daemon's memory stays where it was."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts

MESSAGES = 300
MIB = 1 << 20


def rss(pid: int) -> int:
    line = next(
        row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS")
    )
    return int(line.split()[1]) << 10


def _read_all(mnt: Path) -> int:
    """Read every message, past the kernel's cache of the mount; how many bytes that were."""
    count = 0
    for path in sorted((mnt / "INBOX").iterdir()):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            count += len(file.read())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return count


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
def test_reading_everything_again_and_again_takes_no_more_memory(
    dovecot: Dovecot, mounts: Mounts, kind: str
) -> None:
    account = dovecot.account(f"{kind}:{{home}}/mail", zlib_save="gz")
    words = random.Random(7)
    body = "".join(f"{words.getrandbits(60):x}\n" for _ in range(5000)).encode()
    account.append(
        [Append(b"Subject: %d\n\n" % n + body[n * 100 :]) for n in range(MESSAGES)]
    )  # 64 KB and more each, in several pages
    with mounts.foreground(account.location, "--cache-size", "4M") as (mnt, process):
        sizes = [_read_all(mnt) for _ in range(3)]
        after_warming = rss(process.pid)
        sizes += [_read_all(mnt) for _ in range(12)]
        assert len(set(sizes)) == 1
        assert sizes[0] > 15 * MIB  # far more than the cache holds
        assert rss(process.pid) - after_warming < 6 * MIB
