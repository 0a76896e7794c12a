"""Times as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_SECONDS = re.compile(r"@-?\d{1,18}", re.ASCII)


def rfc3339(seconds: int) -> str:
    """*seconds* since the epoch as RFC 3339 text in UTC; outside of the years 1 to 9999 as ``@seconds``."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}Z"
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}"


def seconds_of(text: str) -> int:
    """The inverse of :func:`rfc3339`: seconds since the epoch.

    :raises ValueError: *text* is not of that form.
    """
    if _SECONDS.fullmatch(text):
        return int(text[1:])
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"no date: {text[:64]!r}")
    return int(datetime.fromisoformat(text).timestamp())
