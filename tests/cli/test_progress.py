"""The progress meter: what it shows on a terminal, and that it shows nothing elsewhere."""

from __future__ import annotations

import io

import pytest

from dboxfs.cli.progress import Meter, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What was shown, one after the other."""
        return [line.replace("\x1b[K", "") for line in self.getvalue().split("\r") if line]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("dboxfs.cli.progress.time.monotonic", lambda: now[0])
    return now


def test_the_meter_tells_rate_and_time_left_and_takes_its_line_away(clock: list[float]) -> None:
    stream = Terminal()
    meter = Meter(stream=stream)
    meter.show("converted", 0, 400)
    clock[0] += 10
    meter.show("converted", 100, 400, 20_000_000)
    meter.clear()
    meter.clear()
    assert stream.lines() == ["converted 100 of 400 messages, 20.0 MB, 2.0 MB/s, 30 s left", ""]


def test_the_time_left_is_that_of_what_is_done_now(clock: list[float]) -> None:
    stream = Terminal()
    meter = Meter(stream=stream)
    meter.show("converted", 0, 400)
    clock[0] += 100
    meter.show("compared", 0, 400)
    clock[0] += 4
    meter.show("compared", 100, 400)
    assert stream.lines()[-1] == "compared 100 of 400 messages, 12 s left"


def test_the_meter_writes_at_most_twice_a_second(clock: list[float]) -> None:
    stream = Terminal()
    meter = Meter(stream=stream)
    for number in range(1, 101):
        clock[0] += 0.01
        meter.show("checked", number)
    assert len(stream.lines()) == 2


@pytest.mark.parametrize(("quiet", "stream"), [(False, io.StringIO()), (True, Terminal())])
def test_the_meter_is_quiet_where_there_is_no_terminal_or_by_request(
    clock: list[float], quiet: bool, stream: io.StringIO
) -> None:
    meter = Meter(quiet=quiet, stream=stream)
    clock[0] += 10
    meter.show("converted", 100, 400, 20_000_000)
    meter.clear()
    assert stream.getvalue() == ""


def test_times_are_told_in_the_unit_that_fits() -> None:
    assert [duration(seconds) for seconds in (1, 59, 90, 3540, 7500)] == [
        "1 s", "59 s", "2 min", "59 min", "2 h 5 min",
    ]  # fmt: skip
