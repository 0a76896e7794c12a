"""``dboxfs archive`` and what takes its URL, as commands; a real mount of an archive."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from dboxfs.cli.main import main
from dboxfs.fsapi.drivers.object_client import connect
from dboxfs.store import Kind
from tests.live.mounts import dboxfs
from tests.tools.archive.archives import add, expunge, make_store, of_store


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and mtime (ns) of all files below *root*."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(root))] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def attributes(root: Path) -> list[str]:
    """All extended attributes of everything below *root*, as getfattr tells them, but where messages are."""
    words = ["getfattr", "-R", "-d", "-m", ".", "."]
    done = subprocess.run(words, cwd=root, capture_output=True, check=True, text=True)
    return sorted(line for line in done.stdout.splitlines() if not line.startswith("user.dbox.location="))


def later_than_the_newest(url: str) -> str:
    """A time that lies behind the newest generation; returns when that is over."""
    name = max(info.key for info in connect(url).list_all("generations"))
    found = datetime.strptime(name.split("/")[1].partition("-")[0], "%Y%m%dT%H%M%SZ") + timedelta(seconds=1)
    while datetime.now(UTC).replace(tzinfo=None) < found:
        time.sleep(0.05)
    return found.isoformat() + "Z"


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[list[Path]]:
    """Mountpoints that are unmounted in the end."""
    made: list[Path] = []
    yield made
    for point in made:
        dboxfs("umount", "--lazy", str(point))


async def test_an_archive_is_mounted_as_its_store_is(
    tmp_path: Path, mounts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    location = await make_store(tmp_path / "store", messages=100)
    url = f"file://{tmp_path}/objects"

    def mount(source: str, name: str, *options: str) -> Path:
        point = tmp_path / name
        point.mkdir()
        done = dboxfs(
            "mount", "--log-file", str(tmp_path / "log"), "--cache-dir", "none", *options, source, str(point)
        )
        assert (done.returncode, done.stderr) == (0, "")
        mounts.append(point)
        return point

    assert await trio.to_thread.run_sync(main, ["archive", location.root, url]) == 0
    done = capsys.readouterr()
    first, second, third = done.out.splitlines()
    assert first.endswith("is new: 102 messages")
    assert second.startswith("stored 100 messages")
    assert third.startswith("cost: ")
    assert " bytes up, " in third
    generation = first.split()[2].partition("-")[0]

    store, archive = mount(location.root, "a"), mount(url, "b")
    before = files(store)
    assert len(before) == 102
    assert files(archive) == before
    found = attributes(archive)
    assert found == attributes(store)
    for name, least in (
        ("guid", 102),
        ("modseq", 102),
        ("flags", 80),
        ("keywords", 50),
        ("uidvalidity", 3),
    ):
        assert sum(line.startswith(f"user.dbox.{name}=") for line in found) >= least, name
    with pytest.raises(OSError, match="Read-only"):
        (archive / "INBOX" / "new.eml").write_bytes(b"x")

    await add(location, 70)
    assert await trio.to_thread.run_sync(main, ["archive", location.root, url]) == 0
    names = [info.key.partition("/")[2] for info in connect(url).list_all("generations")]
    day = max(name for name in names if not name.startswith(generation)).partition("-")[0]
    at = f"{day[:4]}-{day[4:6]}-{day[6:8]}T{day[9:11]}:{day[11:13]}:{day[13:15]}"
    assert files(mount(url, "c", "-o", f"at={at}")) == before
    newest = mount(url, "d")
    assert len(files(newest)) == 103
    listed = {
        path.name: json.loads(path.read_text()) for path in (newest / ".dboxfs" / "generations").iterdir()
    }
    assert sorted(listed) == sorted(names)
    assert [name for name, one in listed.items() if one["shown"]] == [max(names)]
    with pytest.raises(FileNotFoundError):
        (newest / ".dboxfs" / "generations" / "none").stat()


def test_commands_take_an_archive_for_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    location = trio.run(make_store, tmp_path / "store", "sdbox")
    url = f"file://{tmp_path}/objects"

    def said(*words: str) -> str:
        assert main(list(words)) == 0
        return capsys.readouterr().out

    said("archive", location.root, url)
    then = later_than_the_newest(url)
    trio.run(add, location, 70)
    said("archive", location.root, url)
    for words in (["ls", url], ["info", url], ["check", url], ["rescue", url, f"{tmp_path}/nine"]):
        wanted = r"\b9$|7 +INBOX|\b(9 messages in 3|7 messages and 2 copies)"
        assert re.search(wanted, said(*words), re.M), words
    assert re.search(r"6 +INBOX\n", said("ls", url, "--at", then))
    assert "messages:     8" in said("info", url, "--at", then)
    assert "8 messages in" in said("check", url, "--at", then)
    assert "6 messages and 2 copies" in said("rescue", url, f"{tmp_path}/eight", "--at", then)
    for words in (["rescue", url, f"{tmp_path}/none"], ["ls", url], ["check", url]):
        assert main([*words, "--at", "2001-01-01"]) in (2, 3)
        assert "no generation of an archive that is so old is there" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "objects")
    trio.run(expunge, location, "INBOX", 7)
    said("archive", location.root, url)
    assert "0 errors, 0 warnings" in said("check", url)
    converted = said("convert", url, f"{tmp_path}/back", "--format", "sdbox", "--verify")
    assert "verified: 8 messages are what they are in file:///" in converted
    assert "rescued: 6 messages and 2 copies" in said("rescue", url, f"{tmp_path}/rescued")
    assert "messages:     8" in said("info", url)
    assert said("ls", url, "INBOX").count("\n") >= 6
    imported = said("import", url, f"{tmp_path}/new", "--format", "mdbox", "--verify")
    assert "8 messages imported into 3 mailboxes" in imported
    assert re.match(r"cost: [1-9]\d* requests \(.* GET, .*\), 0 bytes up, [1-9]\d* down\n", imported)
    assert trio.run(of_store, location.same_names(Kind.MDBOX, f"{tmp_path}/new")) == trio.run(
        of_store, location
    )
    assert "there already" in said("import", url, f"{tmp_path}/new")
    said("export", url, f"{tmp_path}/eml", "--format", "eml")
    assert "1 generations stay, 0 were removed" in said("archive", "prune", url, "--keep-daily", "1")


def test_each_user_of_a_site_gets_an_archive(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("ann", "bob"):
        (tmp_path / "mail" / name).mkdir(parents=True)
        trio.run(make_store, tmp_path / "mail" / name / "mdbox")
    source, url = f"mdbox:{tmp_path}/mail/%u/mdbox", f"file://{tmp_path}/objects/%u"
    done = dboxfs("archive", "--users", source, url)
    assert done.returncode == 0, done.stderr
    for name in ("ann", "bob"):
        assert main(["info", url.replace("%u", name)]) == 0
        assert "messages:     8" in capfd.readouterr().out
    assert main(["archive", "--users", source, f"file://{tmp_path}/objects"]) == 2
    assert "an archive for each user" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["mount", "-o", "rw", "{url}", "{dir}"], 2, "-o rw: an archive can only be read"),
        (["mount", "-o", "at=soon", "{url}", "{dir}"], 2, "at=soon"),
        (
            ["mount", "-o", "at=2026-11-01", "{store}", "{dir}"],
            2,
            "which generation of an archive",
        ),
        (["ls", "--at", "2026-11-01", "{store}"], 2, "it needs the URL of one"),
        (["check", "--at", "2026-11-01", "--users", "*"], 2, "it needs the URL of one"),
        (["import", "--at", "2026-11-01", "{store}", "{dir}"], 2, "it needs the URL of one"),
        (["check", "--ca-file", "{store}", "{store}"], 2, "about the server of an archive; STORE is none"),
        (["mount", "-o", "request_retries=3", "{store}", "{dir}"], 2, "about the server of an archive"),
        (["mount", "-o", "request_timeout=0", "{url}", "{dir}"], 2, "takes 0.1 to 3600 seconds"),
        (["mount", "-o", "request_retries=101", "{url}", "{dir}"], 2, "takes a number from 0 to 100"),
        (["purge", "{url}"], 2, "this command takes no archive"),
        (["check", "s3://key:secret@bucket/x"], 2, "credentials don't belong into it"),
        (["archive", "{dir}", "http://x/y"], 2, "no URL of an object store"),
        (["archive", "{dir}", "s3://"], 2, "no URL of an object store"),
        (["archive", "prune", "{url}"], 2, "say what stays"),
        (["archive", "prune", "{url}", "--keep-daily", "7"], 3, "no generation of an archive is there"),
        (["info", "{url}"], 3, "no generation of an archive is there"),
    ],
)
def test_what_an_archive_is_not_for_is_said_in_one_line(
    tmp_path: Path, words: list[str], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    store = Path(__file__).parents[2] / "samples" / "mdbox"
    places = {"url": f"file://{tmp_path}/objects", "dir": tmp_path / "empty", "store": store}
    assert main([word.format(**places) for word in words]) == status
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert text in told
    assert "secret" not in told
    assert not (tmp_path / "objects").exists()


def test_a_prune_where_nothing_was_archived_is_no_success_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "objects").mkdir()
    assert main(["archive", "prune", f"file://{tmp_path}/objects", "--keep-daily", "7"]) == 3
    assert "no generation of an archive is there" in capsys.readouterr().err
    assert list((tmp_path / "objects").iterdir()) == []
