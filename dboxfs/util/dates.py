"""Times as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_GIVEN = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
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


def moment(text: str) -> int:
    """The moment that a user means by a date, in seconds since the epoch.

    The rule of every command and option: a day (``2026-11-01``) begins at midnight in the time zone of the
    process (``TZ``), a time (``2026-11-01T08:00``, seconds may follow) is in that zone, too, unless it ends
    with ``Z`` or an offset (``+01:00``).

    :raises ValueError: it is neither a day nor a time.
    """
    if not _GIVEN.fullmatch(text):
        raise ValueError(f"{text[:64]!r} is neither a day (2026-11-01) nor a time (2026-11-01T12:00:00Z)")
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r}: there is no such day or time") from None
