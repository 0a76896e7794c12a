"""Times as text."""

from __future__ import annotations

import pytest

from dboxfs.util.dates import rfc3339, seconds_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (-62135596800, "0001-01-01T00:00:00Z"),
        (-62135596801, "@-62135596801"),  # before the year 1
        (253402300799, "9999-12-31T23:59:59Z"),
        (253402300800, "@253402300800"),
    ],
)
def test_every_second_has_a_text_and_is_found_by_it(seconds: int, text: str) -> None:
    assert rfc3339(seconds) == text
    assert seconds_of(text) == seconds
