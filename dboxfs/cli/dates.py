"""Dates on the command line (the rule: :func:`dboxfs.util.dates.moment`)."""

from __future__ import annotations

import argparse
import re
import time

from dboxfs.util.dates import moment

_DAYS = re.compile(r"([0-9]{1,6})d")
_DAY_SECONDS = 86400


def date_or_days(text: str) -> int:
    """A day, a time, or so many days ago (``7d``), in seconds since the epoch.

    :raises argparse.ArgumentTypeError: it is none of them.
    """
    days = _DAYS.fullmatch(text)
    try:
        return int(time.time()) - int(days[1]) * _DAY_SECONDS if days else moment(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a date (2026-06-30) or days (7d)") from None
