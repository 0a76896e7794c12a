"""Several processes that write at the same time share what a commit costs."""

from __future__ import annotations

import json

import pytest

from tests.fuse_rw.rw import Writable, resynced

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
