"""How a mount is seen at work: durations, errors, health, metrics, locks."""

from __future__ import annotations

import errno
import fcntl
import json
import re
from pathlib import Path

from dboxfs.store import Kind
from dboxfs.util.held_locks import held_locks
from dboxfs.vfs.metrics import GAUGES, health
from dboxfs.vfs.observed import Observed
from tests.vfs.inside import ONE, Mounted, Program, mounted

ROOT = Path(__file__).parent.parent.parent
SAMPLE = re.compile(r'dboxfs_(\w+)(?:\{((?:\w+="[^"\\]*",?)*)\})? (\d+(?:\.\d+)?(?:e[-+]\d+)?)')


def samples(text: str) -> dict[tuple[str, str], float]:
    """Every sample; each line is one, or belongs to a family that is described before it."""
    found: dict[tuple[str, str], float] = {}
    described: set[str] = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# "):
            described.add(line.split()[2].removeprefix("dboxfs_"))
            continue
        match = SAMPLE.fullmatch(line)
        assert match is not None, line
        assert match[1] in described or re.sub("_(bucket|sum|count)$", "", match[1]) in described
        key = match[1], match[2] or ""
        assert key not in found
        found[key] = float(match[3])
    return found


def test_a_quantile_is_exact_to_a_factor_of_two() -> None:
    seen = Observed()
    for _ in range(98):
        seen.took("read", 100_000)
    seen.took("read", 5_000_000)
    seen.took("read", 3_000_000_000)
    for share, seconds in ((0.5, 1e-4), (0.98, 1e-4), (0.99, 5e-3), (1.0, 3.0)):
        told = seen.quantile("read", share)
        assert told is not None
        assert seconds <= told <= 2 * seconds
    assert seen.quantile("lookup", 0.5) is None


def test_what_takes_no_time_or_hours_is_counted_too() -> None:
    seen = Observed()
    for ns in (0, 1 << 60):
        seen.took("read", ns)
    ((name, buckets, total),) = seen.histogram()
    assert (name, buckets[0][1], buckets[-1][1]) == ("read", 1, 2)
    assert total > 1e9
    assert [end for end, _ in buckets] == sorted(end for end, _ in buckets)


def test_errors_that_a_request_earns_itself_are_no_trouble() -> None:
    seen = Observed()
    for number in (errno.ENOENT, errno.EEXIST, errno.ENODATA, errno.EOPNOTSUPP):
        seen.failed("lookup", number)
    assert health({}, seen)["ok"] is True
    seen.failed("read", errno.EIO)
    seen.failed("write", errno.ENOSPC)
    found = health({}, seen)
    assert (found["ok"], found["errors"]) == (False, {"EIO": 1, "ENOSPC": 1})
    assert health({"damaged_messages": 1}, Observed())["ok"] is False
    assert health({"index_errors": 1}, Observed())["ok"] is False


async def test_metrics_and_health_say_what_the_mount_has_done(m: Mounted, p: Program) -> None:
    m.requests["lookup"] = 7
    m.reading.host.observed.failed("read", errno.EIO)
    m.reading.host.observed.took("read", 2_000_000)
    await p.write("Work/new", ONE)
    found = samples((await p.read(".dboxfs/metrics")).decode())
    assert found["requests_total", 'op="lookup"'] == 7
    assert found["errors_total", 'op="read",errno="EIO"'] == 1
    assert found["changes_total", 'kind="saved"'] == 1
    assert found["request_duration_seconds_count", 'op="read"'] == 1
    assert found["request_duration_seconds_sum", 'op="read"'] == 0.002
    assert (found["mailboxes", ""], found["messages", ""]) == (2, 2)
    stats = json.loads(await p.read(".dboxfs/stats.json"))
    assert next(iter(stats)) == "health"
    assert stats["health"]["errors"] == {"EIO": 1}
    assert set(stats["health"]["latency_ms"]["read"]) == {"p50", "p99"}
    assert GAUGES.keys() <= stats.keys()


async def test_no_file_of_the_control_directory_has_a_word_of_a_message_or_its_name() -> None:
    async with mounted(Kind.MDBOX) as m:
        p = m.program()
        await p.write("Work/a-secret-name", b"Subject: a-secret-subject\n\na-secret-text\n")
        await p.read("Work/a-secret-name")
        # These have messages.
        directories = {"deleted", "flagged", "keyword", "parts", "raw", "since", "unseen"}
        files = set(await p.names(".dboxfs")) - directories
        assert {"metrics", "stats.json", "locks", "events"} <= files
        for name in files:
            assert b"secret" not in await p.read(f".dboxfs/{name}"), name


def test_locks_are_those_that_this_process_holds(tmp_path: Path) -> None:
    path = tmp_path / "a\nlock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = f"FLOCK WRITE {tmp_path}/a\\nlock"
        assert line in held_locks().splitlines()
        fcntl.flock(file, fcntl.LOCK_UN)
        assert line not in held_locks().splitlines()


async def test_the_dashboard_asks_for_metrics_that_there_are(m: Mounted, p: Program) -> None:
    m.reading.host.observed.failed("read", errno.EIO)
    m.reading.host.observed.took("read", 1)
    m.requests["read"] = 1
    await p.write("Work/new", ONE)
    there = {name for name, _ in samples((await p.read(".dboxfs/metrics")).decode())}
    text = (ROOT / "packaging/grafana-dashboard.json").read_text()
    json.loads(text)
    asked = set(re.findall(r"dboxfs_(\w+)", text))
    assert asked <= there
    assert len(asked) >= 8
