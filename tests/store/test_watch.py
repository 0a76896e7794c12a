"""inotify: a name always watches the directory that it means now, and lost events are noticed."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
from inotify_simple import INotify, flags

from dboxfs.store.watch import Watched, Watcher

Names = set[str | None]


class Seen(dict[str, Names]):
    """Collects what callbacks are told, by key."""

    def by(self, key: str) -> Callable[[Names], None]:
        return lambda names: self.setdefault(key, set()).update(names)


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def delivered(watcher: Watcher) -> None:
    """Everything that happened until now has been told."""
    with trio.move_on_after(0.05):
        await watcher.run()


async def test_names_that_change_are_told(tmp_path: Path, seen: Seen) -> None:
    watcher = Watcher()
    assert watcher.add(str(tmp_path), "k", seen.by("a")) is Watched.NEW
    assert watcher.add(str(tmp_path), "k", seen.by("b")) is Watched.STILL
    (tmp_path / "one").write_text("x")
    await delivered(watcher)
    assert seen == {"b": {"one"}}
    watcher.close()


async def test_a_directory_made_again_under_its_name_is_new(tmp_path: Path, seen: Seen) -> None:
    watcher, inner = Watcher(), tmp_path / "a"
    inner.mkdir()
    watcher.add(str(inner), "k", seen.by("old"))
    inner.rmdir()
    inner.mkdir()
    assert watcher.add(str(inner), "k", seen.by("new")) is Watched.NEW
    (inner / "x").touch()
    await delivered(watcher)
    assert seen["new"] == {"x"}
    assert watcher.watches == 1
    watcher.close()


async def test_a_directory_that_went_with_its_parent_is_new(tmp_path: Path, seen: Seen) -> None:
    watcher, inner = Watcher(), tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    watcher.add(str(inner), "k", seen.by("k"))
    (tmp_path / "a").rename(tmp_path / "other")
    inner.mkdir(parents=True)
    assert watcher.add(str(inner), "k", seen.by("k")) is Watched.NEW
    (tmp_path / "other" / "b" / "not mine").touch()
    (inner / "mine").touch()
    await delivered(watcher)
    assert seen == {"k": {"mine"}}
    watcher.close()


async def test_two_names_of_one_directory_are_both_told(tmp_path: Path, seen: Seen) -> None:
    watcher, real, link = Watcher(), tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    assert watcher.add(str(real), "k", seen.by("real")) is Watched.NEW
    assert watcher.add(str(link), "k", seen.by("link")) is Watched.NEW
    (real / "x").touch()
    await delivered(watcher)
    assert seen == {"real": {"x"}, "link": {"x"}}
    watcher.remove(str(real))
    (real / "y").touch()
    await delivered(watcher)
    assert seen == {"real": {"x"}, "link": {"x", "y"}}
    assert not watcher.watching(str(real), "k")
    assert watcher.watching(str(link), "k")
    watcher.close()


async def test_the_end_of_a_directory_is_told_once_and_forgotten(tmp_path: Path, seen: Seen) -> None:
    watcher, inner = Watcher(), tmp_path / "a"
    inner.mkdir()
    watcher.add(str(inner), "k", seen.by("k"))
    inner.rmdir()
    await delivered(watcher)
    assert seen == {"k": {None}}
    assert watcher.watches == 0
    assert not watcher.watching(str(inner), "k")
    watcher.remove(str(inner))
    watcher.close()


async def test_what_is_not_there_is_not_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher()
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        assert watcher.add(str(path), "k", lambda names: None) is Watched.NO
    assert caplog.records == []
    watcher.close()


async def test_when_watches_run_out_it_is_said_once(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: INotify, path: bytes, mask: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(INotify, "add_watch", full)
    watcher = Watcher()
    for name in "abc":
        (tmp_path / name).mkdir()
        assert watcher.add(str(tmp_path / name), "k", seen.by(name)) is Watched.NO
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{tmp_path}/a can't be watched" in record.getMessage()
    watcher.close()


@pytest.mark.root
@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("watches", "/b can't be watched (no watches left: raise the sysctl fs.inotify.max_user_watches,"),
        ("instances", "inotify can't be watched (no instances left: raise the sysctl "
         "fs.inotify.max_user_instances,"),
    ],
)  # fmt: skip
def test_where_the_kernel_has_no_more_the_message_names_the_sysctl(
    tmp_path: Path, limit: str, said: str
) -> None:
    """In a user namespace, which has limits of its own."""
    for name in "ab":
        (tmp_path / name).mkdir()
    program = """if True:
        import sys
        with open("/proc/sys/user/max_inotify_" + sys.argv[1], "w") as setting:
            setting.write("1" if sys.argv[1] == "watches" else "0")
        from dboxfs.store.watch import Watcher
        watcher = Watcher()
        for path in sys.argv[2:]:
            watcher.add(path, "k", print)
    """
    command = [sys.executable, "-c", program, limit, str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run(["unshare", "-Ur", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert said in line
    assert line.endswith("then mount again); changes are looked for when a directory is opened")


async def test_lost_events_are_told_to_everybody(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Event(NamedTuple):
        wd: int
        mask: int
        name: str

    watcher = Watcher()
    for name in "ab":
        (tmp_path / name).mkdir()
        watcher.add(str(tmp_path / name), "k", seen.by(name))
    read = INotify.read
    overflow = [Event(-1, flags.Q_OVERFLOW, "")]
    monkeypatch.setattr(INotify, "read", lambda self, timeout: [*read(self, timeout), *overflow])
    (tmp_path / "a" / "x").touch()
    await delivered(watcher)
    assert seen == {"a": {None}, "b": {None}}
    assert "events were lost" in caplog.text
    watcher.close()
