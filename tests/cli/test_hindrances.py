"""What is in a command's way, where nobody made a mistake: one line that says what, where, and what to do."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dboxfs.cli import umount
from dboxfs.cli.liveness import Answer
from dboxfs.cli.main import main
from dboxfs.cli.site import choose_users
from dboxfs.dovecot import ask
from dboxfs.errors import NoSuchUser, StoreBusy
from dboxfs.tools.archive import Repository
from dboxfs.util import mounts
from tests.tools.archive.archives import FaultyObjects, memory

SAMPLES = Path(__file__).parent.parent.parent / "samples"

Told = Callable[..., tuple[int, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs a command that fails; gives its exit status and its one line."""

    def run(*words: str | Path) -> tuple[int, str]:
        status = main([str(word) for word in words])
        *others, line = capsys.readouterr().err.splitlines()
        assert others == []
        return status, line

    return run


@pytest.fixture
def mdbox(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES / "mdbox", tmp_path / "mdbox")
    return tmp_path / "mdbox"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script of some name before the programs of the system."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    def put(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put


@pytest.mark.parametrize(
    ("script", "status", "line"),
    [
        ("echo '# 2.2.36 (x): /etc/dovecot.conf'", 3,
         "dboxfs: Dovecot 2.2 is installed; dboxfs asks 2.3 and 2.4; give STORE instead"),
        ("echo 'doveconf: Fatal: open() failed' >&2; exit 89", 3, "open() failed"),
        ("echo '# 2.3.19 (x): c'; echo 'doveconf: Error: line 3' >&2; exit 1", 3, "line 3"),
        ("exec sleep 5", 3, "dboxfs: doveconf did not answer within 1 s"),
        ("echo '# 2.3.19 (x): c'", 3,
         "dboxfs: ann: neither Dovecot's configuration nor its userdb has a mail_location"),
    ],
)  # fmt: skip
def test_a_dovecot_that_does_not_say_where_the_mail_is(
    told: Told, program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch,
    script: str, status: int, line: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(ask, "PROGRAM_SECONDS", 0.6)
    program("doveconf", script)
    program("doveadm", "printf 'field\\tvalue\\nuid\\t0\\n'")
    found = told("info", "--user", "ann")
    assert found[0] == status
    assert found[1] == line or (not line.startswith("dboxfs") and found[1].endswith(line)), found


def test_a_setting_of_2_4_is_refused_for_a_user_of_2_3(
    told: Told, program: Callable[[str, str], None], mdbox: Path
) -> None:
    program("doveconf", f"echo '# 2.3.19 (x): c'; echo mail_location = mdbox:{mdbox}")
    program("doveadm", "printf 'field\\tvalue\\nuid\\t0\\n'")
    assert told("info", "--user", "ann", "--set", "mail_index_path=/x") == (
        2, "dboxfs: --set: with Dovecot 2.3 give the whole --set mail_location=...",
    )  # fmt: skip


def test_users_that_dovecot_can_not_list(
    told: Told, program: Callable[[str, str], None], tmp_path: Path
) -> None:
    program("doveconf", "echo '# 2.3.19 (x): c'; echo mail_location = mdbox:/x")
    program("doveadm", "echo 'doveadm: Error: userdb can not iterate' >&2; exit 75")
    status, line = told("check", "--users", "a*")
    assert status in (2, 3)
    assert line.startswith("dboxfs: doveadm user a*: ")
    assert line.endswith("userdb can not iterate")
    (tmp_path / "users").write_text(f"ann mdbox:{tmp_path}\n")
    users = choose_users(str(tmp_path / "users"), None)
    assert list(users.names()) == ["ann"]
    with pytest.raises(NoSuchUser, match=r"^bob: not in /.*/users any more$"):
        users.locate("bob")


@pytest.fixture
def held(mdbox: Path) -> Iterator[Path]:
    """A store into which another import writes."""
    fd = os.open(mdbox, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield mdbox
    os.close(fd)


def test_one_import_at_a_time(told: Told, held: Path, tmp_path: Path) -> None:
    (tmp_path / "mbox").write_bytes(b"From a@b Thu Jul 01 08:00:00 2010\nSubject: x\n\ny\n\n")
    assert told("import", "-q", tmp_path / "mbox", held) == (
        1, f"dboxfs: {held}: another dboxfs import is writing it; wait until it has ended",
    )  # fmt: skip


def test_one_export_at_a_time(
    told: Told, mdbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    monkeypatch.setattr("dboxfs.store.disk.AppendFile.try_lock", _never)
    status, line = told("export", "-q", mdbox, target, "--format", "eml")
    assert (status, line) == (1, f"dboxfs: {target}: another dboxfs export is writing it")


def test_a_journal_that_is_none_is_told_with_its_place(told: Told, mdbox: Path, tmp_path: Path) -> None:
    journal = tmp_path / "out/.dboxfs-export/journal"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"export": 1}\nnonsense\n')
    assert told("export", "-q", "--resume", mdbox, tmp_path / "out", "--format", "eml") == (
        1, f"dboxfs: {journal}: damaged at offset 14: no line of the export's journal",
    )  # fmt: skip


async def _never(self: object, kind: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory"),
         "dboxfs: /dev/fuse is missing; load the kernel module (modprobe fuse) or allow the device here"),
        (PermissionError(1, "Operation not permitted"),
         "dboxfs: /dev/fuse: Operation not permitted; may you use FUSE here?"),
    ],
)  # fmt: skip
def test_a_machine_without_fuse(
    told: Told, mdbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, line: str
) -> None:
    opened = os.open

    def refused(path: object, *arguments: object, **more: object) -> int:
        if path == "/dev/fuse":
            raise error
        return opened(path, *arguments, **more)  # type: ignore[arg-type]

    (tmp_path / "mnt").mkdir()
    monkeypatch.setattr(os, "open", refused)
    assert told("mount", mdbox, tmp_path / "mnt") == (4, line)


def test_a_user_on_a_machine_without_the_list_of_mounts(
    told: Told,
    mdbox: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: Callable[[str, str], None],
) -> None:
    (tmp_path / "mnt").mkdir()
    remedy = "as root: ln -s ../proc/self/mounts /etc/mtab"
    exists = os.path.exists
    program(
        "fusermount3", "echo 'fusermount3: failed to open /etc/mtab: No such file or directory' >&2; exit 1"
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os.path, "exists", lambda path: path != "/etc/mtab" and exists(path))
    assert told("mount", mdbox, tmp_path / "mnt") == (
        4, f"dboxfs: /etc/mtab is missing: fusermount3 can't unmount without it; {remedy}",
    )  # fmt: skip
    line = f"9 1 0:99 / {tmp_path}/mnt ro - fuse.dboxfs mdbox:/x ro"
    (tmp_path / "table").write_text(line + "\n")
    table = mounts.table
    monkeypatch.setattr(mounts, "table", lambda path="": table(str(tmp_path / "table")))
    monkeypatch.setattr(umount, "ask", lambda mount: Answer.GIVEN)
    assert told("umount", tmp_path / "mnt") == (
        4,
        f"dboxfs: {tmp_path}/mnt: fusermount3: failed to open /etc/mtab: No such file or directory; {remedy}",
    )


def test_root_serves_many_users_with_their_rights_which_io_uring_does_not_know(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnt").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert told("mount", "--io", "uring", "--users", f"{tmp_path}/%u", tmp_path / "mnt") == (
        2, "dboxfs: --io uring: can't act as each store's owner; leave it out with --users",
    )  # fmt: skip


def test_a_mountpoint_that_may_not_be_looked_at(
    told: Told, mdbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.listdir

    def refused(path: str) -> list[str]:
        if path == str(tmp_path / "mnt"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    (tmp_path / "mnt").mkdir()
    monkeypatch.setattr(os, "listdir", refused)
    assert told("mount", mdbox, tmp_path / "mnt") == (4, f"dboxfs: {tmp_path}/mnt: permission denied")


def test_a_directory_of_mail_that_has_another_name(told: Told, mdbox: Path) -> None:
    for path in [path for path in mdbox.rglob("dbox-Mails") if stat.S_ISDIR(path.stat().st_mode)]:
        path.rename(path.with_name("Mail"))
    status, line = told("info", mdbox)
    assert status == 3
    assert line.startswith(
        f"dboxfs: {mdbox}: no mailbox directory is called dbox-Mails, but {mdbox}/mailboxes/"
    )
    assert line.endswith("/Mail holds a mailbox; give DIRNAME=Mail (Dovecot 2.4: mailbox_directory_name)")


def test_a_lock_of_an_archive_that_is_always_taken() -> None:
    objects = FaultyObjects(memory())

    def taken(number: int, kind: str, key: str, after: bool) -> None:
        if kind == "put" and not after:
            raise FileExistsError(17, "File exists", key)

    objects.fault = taken
    with pytest.raises(StoreBusy, match=r"^memory://a: another run has just taken the lock; try again$"):
        Repository(objects, "memory://a").lock("archive")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[mount]\nworkers = 3 4\n", "{file}: no TOML: "),
        ("[mount]\nlog-level = 7\n", "{file} [mount]: log-level = 7: the value must be one of debug, info, "),
        ("[mount]\nforeground = 'x'\n", "{file} [mount]: foreground = 'x': takes one of 1, true, yes, on, "),
    ],
)
def test_a_configuration_that_can_not_be_meant(
    told: Told, mdbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    file = tmp_path / "dboxfs.toml"
    file.write_text(text)
    monkeypatch.setenv("DBOXFS_CONFIG", str(file))
    status, said = told("mount", mdbox, tmp_path)
    assert status == 2
    assert line.format(file=file) in said


def test_a_password_that_can_not_be_read(told: Told, mdbox: Path, tmp_path: Path) -> None:
    secret = serialization.BestAvailableEncryption(b"x")
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret
    )
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "mnt").mkdir()
    with open("/dev/null", "rb") as nothing:
        number = nothing.fileno()
    options = f"crypt_key={tmp_path}/key.pem,crypt_password_fd={number}"
    assert told("mount", "-o", options, mdbox, tmp_path / "mnt") == (
        2, f"dboxfs: -o crypt_password_fd={number}: Bad file descriptor",
    )  # fmt: skip
