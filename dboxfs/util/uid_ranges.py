"""Many uids in one line, for messages to users."""

from __future__ import annotations

from collections.abc import Sequence

MOST_RANGES = 400
"""Ranges of uids in one line, at most."""


def uid_ranges(uids: Sequence[int]) -> str:
    """Ascending uids in IMAP's form: ``1:4,7``."""
    runs: list[list[int]] = []
    for uid in uids:
        if runs and runs[-1][1] == uid - 1:
            runs[-1][1] = uid
        else:
            runs.append([uid, uid])
    shown = [f"{first}:{last}" if first != last else str(first) for first, last in runs[:MOST_RANGES]]
    if len(runs) > MOST_RANGES:
        shown.append(f"and more up to {uids[-1]}")
    return ",".join(shown)
