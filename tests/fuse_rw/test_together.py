"""Several processes that write at the same time share what a commit costs."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable

import pytest

from tests.fuse_rw.rw import ONE, TWO, Writable, resynced

pytestmark = [resynced, pytest.mark.parametrize("driver", ["sdbox", "mdbox"])]

SCRIPT = """
for writer in 1 2 3 4 5 6 7 8; do
    for n in 1 2 3 4 5 6; do
        printf 'Subject: %s of %s\\n\\ntext\\n' $n $writer > INBOX/$writer-$n
    done &
done
wait
"""


def test_writers_side_by_side_share_commits(rw: Writable) -> None:
    rw.sh(SCRIPT)
    written = json.loads((rw.mnt / ".dboxfs/stats.json").read_text())["written"]
    assert written["saved"] == 48
    assert written["groups"] < 48
    expected = {b"Subject: %d of %d\n\ntext\n" % (n, w) for w in range(1, 9) for n in range(1, 7)}
    assert set(rw.texts()[1:]) == expected
    assert len(rw.names()) == 1 + 48


def made(rw: Writable, work: Callable[[], None]) -> Counter[str]:
    """The requests that *work* makes, less those that asking makes."""

    def requests() -> Counter[str]:
        return Counter(json.loads((rw.mnt / ".dboxfs/stats.json").read_text())["requests"])

    first = requests()
    own = requests() - first
    before = requests()
    work()
    return requests() - before - own


def test_a_file_takes_five_requests_to_write_two_to_read_and_no_attributes_to_remove(rw: Writable) -> None:
    """None for attributes: the kernel has nothing to compare for those whom it lets in.  No FLUSH of a
    message that was opened to be read: nothing can come of it."""

    def write() -> None:
        for number in range(5):
            fd = os.open(rw.inbox / f"new-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(fd, TWO)
            os.close(fd)

    def read() -> None:
        for _ in range(5):
            assert (rw.inbox / "1.eml").read_bytes() == ONE

    def remove() -> None:
        for number in range(5):
            (rw.inbox / f"new-{number}").unlink()

    rw.inbox.stat()
    written, removed = made(rw, write), made(rw, remove)
    assert max(written.pop("getattr", 0), removed.pop("getattr", 0)) <= 1, "of the control file"
    assert written == dict.fromkeys(("lookup", "create", "write", "flush", "release"), 5)
    assert removed == {"lookup": 10, "unlink": 5}, "each name means another inode than when it was made"
    read()
    assert made(rw, read) == {"open": 5, "release": 5}
