"""A store that only looks empty, and a location that contradicts its store, at the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from dboxfs.cli.main import main
from dboxfs.store import Kind
from tests.live.mounts import Mounts, dboxfs, is_mounted
from tests.store.test_hidden import lose_index, made

BOTH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@BOTH
async def test_mount_of_a_store_that_hides_mail_warns_in_one_line_and_writes_nothing(
    kind: Kind, kept: Path
) -> None:
    root = await made(kind, kept / "s", INBOX=2, Work=2)
    lose_index(root, "Work")
    before = snapshot(root)
    with Mounts(kept) as mounts:
        for options in ("rw", "rw,alone"):
            mountpoint = mounts.mountpoint()
            done = dboxfs("mount", "--cache-dir", "none", "-o", options, root, mountpoint)
            assert done.returncode == 3
            (line,) = done.stderr.splitlines()
            assert "mail may be hidden" in line
            assert "INDEX=" in line
            assert not is_mounted(mountpoint)
        mountpoint, log = mounts.mountpoint(), kept / "log"
        done = dboxfs("mount", "--cache-dir", "none", "--log-file", log, root, mountpoint)
        assert done.returncode == 0
        (line,) = done.stderr.splitlines()
        assert line.startswith("dboxfs: mail may be hidden: ")
        assert line.removeprefix("dboxfs: ") in log.read_text()
        assert len(list((mountpoint / "INBOX").iterdir())) == 2
        assert list((mountpoint / "Work").iterdir()) == []
    assert snapshot(root) == before


async def test_store_without_inbox_is_written_with_force_only(kept: Path) -> None:
    root = await made(Kind.SDBOX, kept / "s", INBOX=0, Work=2)
    shutil.rmtree(root / "mailboxes/INBOX")
    with Mounts(kept) as mounts:
        mountpoint = mounts.mountpoint()
        done = dboxfs("mount", "--cache-dir", "none", "-o", "rw,alone", root, mountpoint)
        assert done.returncode == 3
        assert "--force" in done.stderr
        assert "mail_inbox_path" in done.stderr
        done = dboxfs("mount", "--cache-dir", "none", "--force", "-o", "rw,alone", root, mountpoint)
        assert done.returncode == 0
        assert "there is no INBOX" in done.stderr
        (mountpoint / "Work/new").write_bytes(b"Subject: new\n\n")
        assert len(list((mountpoint / "Work").iterdir())) == 3


async def test_ls_and_info_name_every_cause_in_a_line(kept: Path) -> None:
    root = await made(Kind.SDBOX, kept / "s", INBOX=0, Work=2, Play=3)
    shutil.rmtree(root / "mailboxes/INBOX")
    lose_index(root, "Work")
    lose_index(root, "Play")
    for command in ("ls", "info"):
        done = dboxfs(command, root)
        assert done.returncode == 0
        lines = done.stderr.splitlines()
        assert [("INDEX=" in line, "INBOX=" in line) for line in lines] == [
            (True, False),
            (False, False),  # what to do is said already
            (False, True),
        ]
    assert f"for Dovecot 2.3: mail_location = sdbox:{root}\n" in dboxfs("info", root).stdout


async def test_purge_of_a_store_that_hides_mail_is_refused(kept: Path) -> None:
    root = await made(Kind.MDBOX, kept / "s", INBOX=2, Work=2)
    shutil.rmtree(root / "mailboxes/INBOX")
    before = snapshot(root)
    done = dboxfs("purge", root)
    assert done.returncode == 3
    assert "nothing was purged" in done.stderr
    assert snapshot(root) == before
    assert dboxfs("purge", "--force", root).returncode == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["convert"], "; --force converts what is shown"),
        (["export", "--format", "eml"], "; --force exports what is shown"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_no_copy_of_a_store_that_hides_mail_looks_like_a_whole_one(
    kept: Path, capsys: pytest.CaptureFixture[str], command: list[str], said: str
) -> None:
    root = await made(Kind.SDBOX, kept / "s", INBOX=2, Work=2)
    lose_index(root, "Work")
    line = [*command, "-q", str(root), str(kept / "new")]
    assert await trio.to_thread.run_sync(main, line) == 3
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{root}/mailboxes/Work/" in told
    assert told.endswith(said)
    assert await trio.to_thread.run_sync(main, [*line, "--force"]) in (0, 1)


async def test_every_command_refuses_a_location_that_contradicts_the_store_in_one_line(kept: Path) -> None:
    mdbox = await made(Kind.MDBOX, kept / "m", INBOX=2)
    other = await made(Kind.SDBOX, kept / "s", INBOX=2)
    (other / "mailboxes/INBOX/dbox-Mails").rename(other / "mailboxes/INBOX/mail")
    before = snapshot(kept)
    with Mounts(kept) as mounts:
        mountpoint = mounts.mountpoint()
        for store, word in ((f"sdbox:{mdbox}", f"mdbox:{mdbox}"), (str(other), "DIRNAME=mail")):
            for command in (
                ["mount", store, mountpoint],
                ["mount", "-o", "rw,alone", store, mountpoint],
                ["ls", store],
                ["info", store],
                ["check", store],
                ["convert", store, kept / "new"],
                ["rescue", store, kept / "new"],
                ["purge", store],
            ):
                done = dboxfs(*command)
                assert done.returncode in (2, 3), command
                (line,) = done.stderr.splitlines()
                assert word in line, command
                assert done.stdout == ""
        assert not is_mounted(mountpoint)
    assert not (kept / "new").exists()
    assert snapshot(kept) == before


async def test_what_is_to_be_done_is_said_once_however_many_mailboxes_need_it(kept: Path) -> None:
    names = {f"Box{number}": 1 for number in range(5)}
    root = await made(Kind.SDBOX, kept / "s", INBOX=1, **names)
    for name in names:
        lose_index(root, name)
    for command in ("info", "ls"):
        done = dboxfs(command, root)
        assert sum("mail may be hidden" in line for line in done.stderr.splitlines()) == len(names)
        assert done.stderr.count("give INDEX=") == 1
        assert all(f"{root}/mailboxes/{name}/" in done.stderr for name in names)
    done = dboxfs("check", root)
    assert done.stdout.count("give INDEX=") == 1
    assert done.stdout.count("    as above\n") == len(names) - 1


async def test_rescue_of_a_bare_storage_misses_no_mailboxes(kept: Path) -> None:
    root = await made(Kind.MDBOX, kept / "s", INBOX=2)
    (kept / "bare").mkdir()
    shutil.copytree(root / "storage", kept / "bare/storage")
    done = dboxfs("rescue", kept / "bare/storage", kept / "new")
    assert done.returncode == 1
    assert "unreadable" not in done.stdout + done.stderr
    assert "2 messages were known to no index" in done.stdout
