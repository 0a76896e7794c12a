"""How many requests the kernel makes a file: counted by the mount itself, so there is no noise in it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts

FILES = 400


@pytest.fixture(params=[("sdbox", "classic"), ("mdbox", "classic"), ("sdbox", "none"), ("mdbox", "none")])
def mnt(request: pytest.FixtureRequest, dovecot: Dovecot, mounts: Mounts) -> Path:
    """A mount with requests to open files, or without."""
    driver, opens = request.param
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(
        [Append(b"Subject: %d\r\n\r\n" % n + b"line %d\r\n" % n * (n * 7 % 4000)) for n in range(FILES)]
    )
    return mounts.mount(account.location, f"open={opens}")


def requests(mnt: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((mnt / ".dboxfs" / "stats.json").read_text())["requests"]
    return found


def made(mnt: Path, *command: str) -> int:
    """How many requests *command* makes, less those that asking makes."""
    before = sum(requests(mnt).values())
    own = sum(requests(mnt).values()) - before
    subprocess.run(command, stdout=subprocess.PIPE, check=False)
    return sum(requests(mnt).values()) - before - 2 * own


def test_tar_and_grep_make_two_requests_a_file(mnt: Path) -> None:
    """The first time as well as later: open and release; attributes and bytes are there already."""
    for command in (["tar", "-cf", "-", str(mnt)], ["grep", "-r", "no such words", str(mnt)]):
        for turn in ("first", "second"):
            assert made(mnt, *command) <= 2.02 * FILES + 30, f"{command[0]}, {turn} time"


def test_a_listing_with_attributes_makes_almost_none(mnt: Path) -> None:
    """As ``ls -lR`` makes it, which in some versions asks for extended attributes of each file as well."""
    command = ("find", str(mnt), "-printf", "%s %t %p")
    assert made(mnt, *command) <= 0.02 * FILES + 40  # a directory is read 25 entries at a time
    assert made(mnt, *command) <= 0.02 * FILES + 40


def test_ls_makes_none_but_for_extended_attributes(mnt: Path) -> None:
    before = requests(mnt)
    made(mnt, "ls", "-lR", str(mnt))
    after = requests(mnt)
    asked = {name: after[name] - before.get(name, 0) for name in after}
    xattr = sum(count for name, count in asked.items() if "xattr" in name)
    assert sum(asked.values()) - xattr <= 0.02 * FILES + 60


def test_what_was_pushed_is_what_is_read(mnt: Path) -> None:
    """Bytes that the kernel was given ahead are those of the message, also with several readers at once."""
    inbox = mnt / "INBOX"
    wanted = {f"{n + 1}.eml": (inbox / f"{n + 1}.eml").read_bytes() for n in range(FILES)}
    for name, data in wanted.items():
        number = int(name.removesuffix(".eml")) - 1
        assert data == b"Subject: %d\n\n" % number + b"line %d\n" % number * (number * 7 % 4000)
    readers = [
        subprocess.Popen(["cat", *sorted(map(str, inbox.iterdir()))], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    expected = b"".join(wanted[name] for name in sorted(wanted))
    assert all(reader.communicate()[0] == expected for reader in readers)


def test_an_idle_mount_uses_no_cpu(mnt: Path, mounts: Mounts) -> None:
    """After work, the request loop sleeps: no processor time in two seconds that the clock could measure."""
    subprocess.run(["grep", "-r", "no such words", str(mnt)], check=False)
    pid = _daemon(mnt)
    time.sleep(0.3)
    before = _cpu_ticks(pid)
    time.sleep(2)
    assert _cpu_ticks(pid) - before <= 1, "ticks of 10 ms"


def _daemon(mnt: Path) -> int:
    """The first of the processes that serve a mount: a companion is forked later."""
    processes = sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int)
    for entry in map(Path("/proc").joinpath, processes):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(mnt) in command and b"mount" in command:
            return int(entry.name)
    raise AssertionError(f"no daemon for {mnt}")


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
