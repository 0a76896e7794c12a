"""A daemon that is killed under load takes nobody along, and loses nothing: a few rounds of
``scripts/kills``.
"""

from __future__ import annotations

import re
import subprocess
import sys

ROUNDS = 5
"""Of each format, with epochs and with a companion."""


def test_kills_hang_nobody_and_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.kills", "--rounds", str(ROUNDS), "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found = re.findall(r"^\w+, entries=\w+: (\d+) rounds, (\d+) acknowledged", done.stdout, re.MULTILINE)
    assert [int(rounds) for rounds, _ in found] == [ROUNDS] * 4
    assert all(int(operations) > ROUNDS for _, operations in found)
