"""``scripts/bench`` runs from end to end on a small store, and what it prints and writes makes sense.

Speed is not looked at here: nothing of it is certain on a machine that does other things as well.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import LAST, main
from bench.clients import ALL
from bench.floor import Tree
from bench.goals import HOT_CELL, HOT_LRU_CELL, MEMORY_CELL, Measure, wanted_cells, wanted_rows
from bench.hotset import Lru
from bench.latency import READERS, chosen_messages
from bench.mail import ABSENT, MEAN, MEDIAN, Corpus

ROOT = Path(__file__).parent.parent.parent
MESSAGES = 200
INSTALLED = [client.name for client in ALL if shutil.which(client.program)]


def run_bench(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """What ``scripts/bench`` does once the machine is set up."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of one quick run."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    done = run_bench(
        "--quick", "--messages", str(MESSAGES), "--rounds", "1", "--entries", "2000", "--json", file
    )
    assert done.returncode == 0, done.stderr
    assert "tar mdbox cold / plain files" in done.stdout
    value: dict[str, Any] = json.loads(file.read_text())
    return value


@pytest.mark.dovecot
def test_every_scenario_has_numbers(found: dict[str, Any]) -> None:
    rows = {row["label"]: row for row in found["rows"]}
    wanted = wanted_rows(range(1, LAST + 1), INSTALLED)
    assert len(rows) == len(wanted) == len({row.label for row in wanted})
    for row in wanted:
        value = rows[row.label]["value"]
        if row.measure in (Measure.REQUESTS, Measure.CPU):  # there may be none
            assert value >= 0, row.label
        else:
            assert 0 <= value <= 100 if row.measure is Measure.HITS else value > 0, row.label
        assert rows[row.label]["low"] <= rows[row.label]["high"], row.label


@pytest.mark.dovecot
def test_every_cell_was_measured_and_took_time(found: dict[str, Any]) -> None:
    timed = wanted_cells(wanted_rows(range(1, LAST + 1), INSTALLED)) - {MEMORY_CELL, HOT_CELL, HOT_LRU_CELL}
    assert timed <= set(found["cells"])
    assert all(wall > 0 for cell in timed for wall in found["cells"][cell]["wall"])


@pytest.mark.dovecot
def test_requests_are_counted_for_our_mounts_only(found: dict[str, Any]) -> None:
    for name, cell in found["cells"].items():
        client, _, subject = name.split("/")
        ours = subject.startswith(("mdbox", "sdbox")) and client in {one.name for one in ALL}
        assert (cell["requests_a_file"] is not None) == ours, name
    (listed,) = found["cells"]["getfattr/warm/mdbox"]["requests_a_file"]
    assert listed >= 20  # two for each attribute of each file


def test_an_older_revision_gives_the_same_rows_where_a_mount_is_measured() -> None:
    rows = wanted_rows([1, 3, 10, 17], None, "abcdef")
    ours = [row for row in rows if not row.ours.endswith("-before")]
    assert ours == wanted_rows([1, 3, 10, 17])
    older = [row for row in rows if row.ours.endswith("-before")]
    assert [row.ours for row in older] == [f"{row.ours}-before" for row in ours if row.scenario in (1, 3, 17)]
    assert {row.peer for row in older if row.scenario == 3} == {"tar/cold/plain"}
    assert all("abcdef" in row.label and row.goal is None for row in older)


def test_a_revision_that_there_is_not_is_named_in_one_line() -> None:
    done = run_bench("--against", "no-such-revision")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("bench: git: ")


@pytest.mark.dovecot
def test_machine_and_options_are_told(found: dict[str, Any]) -> None:
    assert found["options"]["messages"] == MESSAGES
    assert {"cpu", "kernel", "python", "dovecot", "pyfuse3", "filesystem"} <= set(found["machine"])
    assert all(found["machine"].values())


@pytest.mark.dovecot
def test_stores_are_used_again(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)  # pytest's directories are closed to the mail user
    first = run_bench("--keep", tmp_path, "--messages", "50", "--rounds", "1", "--only", "3")
    assert first.returncode == 0, first.stderr
    made = (tmp_path / "mdbox.json").stat().st_mtime_ns
    again = run_bench("--keep", tmp_path, "--messages", "50", "--rounds", "1", "--only", "3")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "mdbox.json").stat().st_mtime_ns == made
    assert not list((tmp_path / "mnt" / "mdbox").iterdir())  # nothing is left mounted


@pytest.mark.parametrize("args", [("--only", "21"), ("--messages", "0"), ("--rounds", "x")])
def test_a_wrong_command_line_is_refused(args: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(args)
    assert refused.value.code == 2


def test_the_peer_of_the_cache_is_an_lru() -> None:
    lru = Lru(30)
    for number in range(3):
        lru.put("a", number, bytes(10))
    assert lru.get("a", 0) == bytes(10)
    lru.put("b", 0, bytes(15))
    assert [lru.get("a", number) is not None for number in range(3)] == [True, False, False]
    assert lru.get("b", 0) == bytes(15)
    assert lru.stats() == {"hits": 3, "misses": 2}


def test_readers_read_different_messages_in_no_order() -> None:
    mails = [mail for mail in Corpus(3000).mails if mail.folder == "INBOX"]
    alone, together = chosen_messages(mails, 1)
    assert len(together) == READERS == len({mail.number for mail in together})
    assert not {mail.number for mail in alone} & {mail.number for mail in together}
    assert together != sorted(together, key=lambda mail: mail.number)


def test_the_floor_serves_the_same_messages() -> None:
    corpus = Corpus(60)
    tree = Tree(corpus)
    for mail in corpus.mails:
        start, end = tree.starts[mail.number : mail.number + 2]
        assert tree.data[start:end] == corpus.text(mail)
        directory = tree.directories[tree.parents[mail.number]]
        assert directory.by_name[f"{mail.uid}.eml".encode()] == tree.first + mail.number


def test_plot_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        done = run_bench("--plot", tmp_path / "x.png")
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "bench: --plot needs matplotlib: .venv/bin/pip install matplotlib"
        ]
        return
    picture = tmp_path / "x.png"
    done = run_bench("--messages", "50", "--rounds", "1", "--only", "3", "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_messages_are_the_same_every_time_and_as_large_as_planned() -> None:
    one, other = Corpus(3000, seed=7), Corpus(3000, seed=7)
    sizes = sorted(mail.size for mail in one.mails)
    assert one.mails == other.mails
    assert all(len(one.text(mail)) == mail.size for mail in one.mails)
    assert one.text(one.mails[5]) == other.text(other.mails[5])
    assert ABSENT.encode() not in b"".join(one.text(mail) for mail in one.mails[:200])
    assert 0.8 * MEDIAN < sizes[len(sizes) // 2] < 1.2 * MEDIAN
    assert 0.7 * MEAN < one.size / len(one) < 1.4 * MEAN
