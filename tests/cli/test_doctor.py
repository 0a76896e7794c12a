"""``dboxfs doctor``: each remark is made where it is true, and has its remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dboxfs.cli import doctor
from dboxfs.cli.main import main
from dboxfs.dovecot.ask import parse_configuration
from dboxfs.util import machine as look
from dboxfs.util import mounts
from dboxfs.util.machine import ERROR, NOTE, WARNING, Machine, Remark

USER = 1000


def machine(root: Path, files: dict[str, str], uid: int = USER, programs: tuple[str, ...] = ()) -> Machine:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(str(root), uid, lambda name: f"/bin/{name}" if name in programs else None)


def words(remarks: list[Remark]) -> list[tuple[str, str, str]]:
    return [(remark.level, remark.what, remark.remedy) for remark in remarks]


def test_a_missing_device_is_an_error_and_one_that_opens_is_none(tmp_path: Path) -> None:
    (one,) = look.fuse_device(machine(tmp_path, {}))
    assert (one.level, one.what) == (ERROR, "/dev/fuse is missing")
    assert "modprobe fuse" in one.remedy
    assert look.fuse_device(machine(tmp_path, {"dev/fuse": ""})) == []


def test_a_device_that_may_not_be_opened_is_an_error(tmp_path: Path) -> None:
    made = machine(tmp_path, {})
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/fuse").mkdir()  # nobody, not even root, opens a directory to write
    (one,) = look.fuse_device(made)
    assert (one.level, one.what) == (ERROR, "/dev/fuse can't be opened: Is a directory")


def test_a_user_needs_fusermount_and_root_does_not(tmp_path: Path) -> None:
    (one,) = look.fusermount(machine(tmp_path, {"etc/mtab": ""}))
    assert (one.level, one.remedy) == (ERROR, "install the package fuse3")
    assert look.fusermount(machine(tmp_path, {}, programs=("fusermount3",))) == []
    assert look.fusermount(machine(tmp_path, {}, uid=0)) == []


def test_fusermount_needs_the_list_of_mounts_which_a_small_chroot_lacks(tmp_path: Path) -> None:
    (one,) = look.fusermount(machine(tmp_path, {}, programs=("fusermount3",)))
    assert (one.level, one.what.partition(":")[0]) == (ERROR, "/etc/mtab is missing")
    assert one.remedy == "as root: ln -s ../proc/self/mounts /etc/mtab"
    assert look.fusermount(machine(tmp_path, {}, uid=0)) == []


def test_a_mountpoint_that_looks_like_an_empty_store_when_the_mount_is_gone_is_told() -> None:
    (one,) = look.mirrors("/mnt/ann", "0755")
    assert (one.level, "takes all mail for deleted" in one.what) == (NOTE, True)
    assert one.remedy.startswith("begin a backup with cd -P /mnt/ann/.dboxfs/.. which fails then")
    assert look.mirrors("/mnt/ann", "0000") == []


def test_allow_other_takes_a_line_for_users(tmp_path: Path) -> None:
    made = machine(tmp_path, {"etc/fuse.conf": "#user_allow_other\n"})
    (one,) = look.user_allow_other(made)
    assert (one.level, "user_allow_other" in one.what) == (NOTE, True)
    assert (
        look.user_allow_other(machine(tmp_path, {"etc/fuse.conf": "mount_max = 9\nuser_allow_other\n"})) == []
    )
    assert look.user_allow_other(machine(tmp_path, {}, uid=0)) == []


def test_updatedb_shall_not_walk_through_mounts(tmp_path: Path) -> None:
    assert look.updatedb(machine(tmp_path, {})) == []
    (one,) = look.updatedb(machine(tmp_path, {"etc/updatedb.conf": 'PRUNEFS="NFS fuse.sshfs"\n'}))
    assert one.remedy == "add fuse.dboxfs to PRUNEFS in /etc/updatedb.conf"
    assert look.updatedb(machine(tmp_path, {"etc/updatedb.conf": 'PRUNEFS = "NFS fuse.dboxfs"\n'})) == []


def test_too_few_watches_name_the_sysctl(tmp_path: Path) -> None:
    limits = {f"proc/sys/fs/inotify/max_user_{name}": "128\n" for name in ("watches", "instances")}
    assert look.watches(machine(tmp_path, limits), mailboxes=50) == []
    (one,) = look.watches(machine(tmp_path, limits), mailboxes=100)
    assert (one.level, one.remedy) == (
        WARNING,
        "sysctl fs.inotify.max_user_watches=8192, also in /etc/sysctl.d",
    )


def test_a_network_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/a rw",
        f"2 1 0:9 / {tmp_path} rw - nfs4 server:/mail rw",
        f"3 1 0:8 / {tmp_path}/local rw - tmpfs x rw",
    ]
    (tmp_path / "table").write_text("".join(f"{line}\n" for line in lines))
    table = mounts.table
    monkeypatch.setattr(mounts, "table", lambda: table(str(tmp_path / "table")))
    (one,) = look.network([str(tmp_path / "mail"), str(tmp_path / "local/mail"), "/"])
    assert one.level == WARNING
    assert f"{tmp_path / 'mail'}: lies on a network file system (nfs4 on {tmp_path})" in one.what


def test_a_mount_would_be_backed_up_twice(tmp_path: Path) -> None:
    line = "5 1 0:9 / /mnt/ann rw - fuse.dboxfs mdbox:/x rw\n"
    (one,) = look.backups(machine(tmp_path, {"proc/self/mountinfo": line}))
    assert (one.level, one.what.partition(":")[0]) == (NOTE, "/mnt/ann")


@pytest.mark.parametrize(
    ("version", "configuration", "expected"),
    [
        ((2, 3), "lock_method = fcntl", []),
        ((2, 4), "lock_method = flock", ["writable mounts need the same: -o rw,lock_method=flock"]),
        ((2, 5), "", ["try it on a copy of a store first"]),
        (
            (2, 3),
            "mmap_disable = yes",
            ["write to a store only on the machine where the Dovecot of its user runs"],
        ),
    ],
)
def test_dovecots_version_and_settings_count(
    version: tuple[int, int], configuration: str, expected: list[str]
) -> None:
    found = doctor.of_configuration(version, parse_configuration(configuration))
    assert [remark.remedy for remark in found] == expected


@pytest.mark.root
def test_a_store_with_files_of_another_user_gets_a_warning_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "mail"
    assert main(["init", str(store), "--format", "mdbox"]) == 0
    os.chown(store / "mailboxes/INBOX", 65534, 65534)
    capsys.readouterr()
    assert main(["doctor", str(store)]) == 1
    out = capsys.readouterr().out.splitlines()
    (line,) = [line for line in out if line.startswith("warning: ")]
    assert f"{store}/mailboxes/INBOX: belongs to nobody, the store to root" in line
    assert line.endswith(f"; chown -R --from=65534 0 {store}")
    assert out[-1] == "1 problems: each line above ends with what to do"
    os.chown(store / "mailboxes/INBOX", 0, 0)
    assert main(["doctor", str(store)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is in the way"


def test_indexes_that_lie_elsewhere_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "mail"
    assert main(["init", str(store), "--format", "sdbox"]) == 0
    box = store / "mailboxes/INBOX/dbox-Mails"
    (box / "u.1").write_bytes((Path(__file__).parent.parent.parent / "LICENSE").read_bytes())
    for index in box.glob("dovecot.index*"):
        index.rename(tmp_path / index.name)
    capsys.readouterr()
    assert main(["doctor", str(store)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("error: ")
    assert "INDEX=" in out


def test_a_store_that_is_missing_is_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "none")]) == 3
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_without_a_store_the_machine_alone_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) in (0, 1)
    assert (
        capsys.readouterr().out.splitlines()[-1].endswith(("nothing is in the way", "ends with what to do"))
    )
