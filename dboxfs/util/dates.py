"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(seconds: int) -> str:
    """*seconds* since the epoch as RFC 3339 in UTC; outside of the years 1 to 9999 as ``@seconds``."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}Z"
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}"
