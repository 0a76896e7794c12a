"""Times as text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dboxfs.util.dates import moment, rfc3339, seconds_of


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


def test_a_day_and_a_time_of_a_user_are_local_unless_they_say_otherwise(
    time_zone: Callable[[str], None],
) -> None:
    midnight = 1_793_491_200  # 2026-11-01T00:00:00Z
    time_zone("XYZ-3")  # three hours before UTC
    assert moment("2026-11-01") == moment("2026-11-01T00:00") == midnight - 3 * 3600
    assert moment("2026-11-01T00:00:00Z") == moment("2026-11-01 02:00:00+02:00") == midnight
    time_zone("UTC")
    assert moment("2026-11-01") == midnight
    for text in ("", "2026", "20261101", "2026-13-01", "2026-11-01T25:00", "yesterday"):
        with pytest.raises(ValueError, match=r"2026|''|yesterday"):
            moment(text)
