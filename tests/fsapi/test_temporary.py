"""Whose a temporary file is: only what is surely nobody's is left over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from dboxfs.fsapi.temporary import Process, booted, is_alive, is_left_over, is_temporary

HERE = Process.this()


@pytest.fixture
def status(tmp_path: Path) -> os.stat_result:
    (tmp_path / "file").touch()
    return (tmp_path / "file").stat()


def judge(owner: Process, status: os.stat_result, since: float | None = None) -> bool:
    return is_left_over(owner.temporary_name(1), status, HERE, booted() if since is None else since)


def ended() -> Process:
    """A process that was."""
    code = "from dboxfs.fsapi.temporary import Process; p = Process.this(); print(p.pid, p.start)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    pid, start = out.split()
    return replace(HERE, pid=int(pid), start=start)


def test_a_process_that_has_ended(status: os.stat_result) -> None:
    assert judge(ended(), status)


def test_a_process_whose_number_another_one_has_now(status: os.stat_result) -> None:
    assert judge(replace(HERE, start=str(int(HERE.start) - 1)), status)


def test_living_processes(status: os.stat_result) -> None:
    assert not judge(HERE, status)
    other = subprocess.Popen(["sleep", "30"])
    start = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert not judge(replace(HERE, pid=other.pid, start=start), status)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie, which nobody has waited for yet
    assert judge(replace(HERE, pid=other.pid, start=start), status)
    other.wait()
    assert judge(replace(HERE, pid=other.pid, start=start), status)


def test_what_is_no_regular_file_is_nobodys_temporary(tmp_path: Path) -> None:
    assert not judge(ended(), tmp_path.stat())


def test_a_file_of_a_living_process_is_alive_however_old() -> None:
    assert is_alive(HERE.temporary_name(1), HERE)
    assert not is_alive(ended().temporary_name(1), HERE)
    assert not is_alive(".temp.1700000000.P99999Q1M1.host", HERE)


def test_only_names_that_dboxfs_and_dovecot_give_are_temporary() -> None:
    assert is_temporary(HERE.temporary_name(1))
    assert is_temporary(".temp.1700000000.P99999Q1M1.host")
    assert not is_temporary(".temp.notes")
    assert not is_temporary(".temp.")


def test_other_hosts_other_containers_and_other_names(status: os.stat_result) -> None:
    gone = ended()
    assert not judge(replace(gone, host="elsewhere"), status)
    boot, _, namespace = gone.mark.partition("-")
    assert not judge(replace(gone, mark=f"{boot}-{int(namespace) + 1}"), status)
    assert not judge(replace(gone, mark=""), status)
    assert not is_left_over(".temp.1700000000.P99999Q1M1.host", status, HERE, booted())


def test_an_earlier_boot(status: os.stat_result, monkeypatch: pytest.MonkeyPatch) -> None:
    before = replace(ended(), mark="00000000-1")
    assert not judge(before, status), "touched since the boot: somebody has it"
    later = time.time() + 100
    assert not judge(replace(before, host="elsewhere"), status, later)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    number = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    kinds = {line.split(" - ")[1].split()[0] for line in mounts if line.split()[2] == number}
    assert judge(before, status, later) == bool(kinds & {"ext4", "xfs", "tmpfs"})
