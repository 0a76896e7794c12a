"""``dboxfs stats``: a mount now, a recorded period, its picture."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from dboxfs.cli.main import main
from dboxfs.cli.stats_plot import MOST_KINDS, draw, quantile, series
from tests.live.mounts import Mounts

SAMPLES = Path(__file__).parent.parent.parent / "samples"
SVG_TEXT = "{http://www.w3.org/2000/svg}text"
Sample = dict[str, object]


def sample(
    when: float, requests: dict[str, int], *, up: float | None = None, eio: int = 0, took: int = 0
) -> Sample:
    return {
        "time": when,
        "uptime_seconds": when if up is None else up,
        "messages": 3,
        "requests": requests,
        "errors": {"EIO": eio} if eio else {},
        "durations": {"read": [took, 0, 1]},
    }


def test_a_picture_shows_what_was_more_in_each_interval() -> None:
    found = series(
        [
            sample(10, {"read": 5}),
            sample(12, {"read": 9, "open": 1}, eio=1, took=99),
            sample(13, {"read": 9}, eio=1),
        ]
    )
    assert dict(found.rates) == {"read": [2.0, 0.0], "open": [0.5, 0.0]}
    assert dict(found.errors) == {"EIO": [0.5, 0.0]}
    assert found.p50[0] == pytest.approx(0.001024)
    assert [one.timestamp() for one in found.times] == [12, 13]


def test_a_picture_has_plain_numbers_times_of_the_day_and_small_changes_of_many_messages(
    tmp_path: Path,
) -> None:
    kinds = ("read", "open")
    samples = [
        sample(1e9 + 60 * n, {kind: 100 * n * (2 - at) for at, kind in enumerate(kinds)}, took=n)
        for n in range(9)
    ]
    for n, one in enumerate(samples):
        one["messages"] = 20_000 + n
    draw(samples, str(tmp_path / "p.svg"), "a title")
    words = ["".join(text.itertext()).strip() for text in ET.parse(tmp_path / "p.svg").iter(SVG_TEXT)]
    assert words.index("open") < words.index("read"), "from top to bottom, as the areas lie"
    times = [word for word in words if ":" in word]
    assert times
    assert all(re.fullmatch(r"\d\d:\d\d", word) for word in times)
    assert {"20002", "20004"} <= set(words)
    assert not [word for word in words if "10" in word and word.startswith("$")]
    assert "0.001" in words, "milliseconds as numbers, not as powers of ten"


def test_a_mount_that_was_made_anew_begins_anew() -> None:
    found = series(
        [sample(10, {"read": 50}), sample(11, {"read": 1}, up=0.5), sample(12, {"read": 3}, up=1.5)]
    )
    assert dict(found.rates) == {"read": [2.0]}


def test_kinds_that_are_rare_are_drawn_as_one() -> None:
    kinds = {f"kind{n}": 100 - n for n in range(MOST_KINDS + 2)}
    found = series([sample(0, {}), sample(1, kinds)])
    assert len(found.rates) == MOST_KINDS + 1
    assert found.rates["others"] == [100 - MOST_KINDS + 100 - MOST_KINDS - 1]


def test_a_quantile_is_the_end_of_its_bucket() -> None:
    assert quantile({10: 98, 20: 2}, 0.5) == pytest.approx(0.001024)
    assert quantile({10: 98, 20: 2}, 0.99) == pytest.approx(1.048576)
    assert math.isnan(quantile({}, 0.5))


@pytest.mark.mount
@pytest.mark.root
def test_a_recorded_period_becomes_a_picture(
    mounts: Mounts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(SAMPLES / "sdbox", tmp_path / "mail")
    mnt, record, picture = mounts.mount(tmp_path / "mail"), tmp_path / "r.jsonl", tmp_path / "p.svg"
    assert main(["stats", str(mnt)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r", 18 messages, ok\nrequest .*\n(.+\n)*lookup ", shown)
    args = ["--for", "0.3", "--interval", "0.1"]
    assert main(["stats", str(mnt), "--record", str(record), "--plot", str(picture), *args]) == 0
    assert capsys.readouterr().out == f"{picture}: 4 samples of {mnt}\n"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["messages"] for line in lines] == [18] * 4
    text = "".join(ET.parse(picture).getroot().itertext())
    for words in ("requests a second", "lookup", "p99", "no errors", str(mnt)):
        assert words in text
    picture.unlink()

    with record.open("a") as file:
        file.write('{"time": 1')  # a writer that was killed
    assert main(["stats", str(record), "--plot", str(picture)]) == 0
    assert picture.stat().st_size > 5000
    with record.open("a") as file:
        file.write("}\n")
    assert main(["stats", str(record), "--plot", str(picture)]) == 2
    assert "line 5: no sample that dboxfs stats has recorded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["{dir}"], 4, "{dir}: no dboxfs mount; dboxfs status lists all of them"),
        (["{file}"], 2, "{file}: a file is only drawn: give --plot FILE.svg"),
        (["{file}", "--plot", "p.txt"], 2, "--plot p.txt: end the name with one of .svg, .png, .pdf"),
        (
            ["{file}", "--plot", "p.svg"],
            2,
            "0 samples of a mount are too few for a picture: record longer",
        ),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], status: int, said: str
) -> None:
    (tmp_path / "file").touch()
    names = {"dir": str(tmp_path), "file": str(tmp_path / "file")}
    assert main(["stats", *(arg.format(**names) for arg in args)]) == status
    assert capsys.readouterr().err == f"dboxfs: {said.format(**names)}\n"


def test_without_matplotlib_it_is_said_before_anything_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["stats", str(tmp_path), "--plot", "p.svg"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("dboxfs: --plot: needs matplotlib (")
    assert told.endswith("); pip install 'dboxfs[plot]'\n")


@pytest.mark.parametrize("value", ["0", "-1", "x", "nan", "inf"])
def test_a_period_is_a_number_of_seconds(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["stats", "/", f"--interval={value}"])
    assert caught.value.code == 2
    assert "is no number of seconds above 0" in capsys.readouterr().err
