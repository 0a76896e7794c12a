"""Another user, without permission, sees nothing of a mount: no listing, no stat, no control file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live.mounts import Mounts, dboxfs

pytestmark = [pytest.mark.mount, pytest.mark.root]
SAMPLES = Path(__file__).parent.parent.parent / "samples"
OTHER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

_TRY = """
import json, os, sys
tries = {
    "list": lambda path: os.listdir(path),
    "stat": lambda path: os.stat(path).st_size,
    "lstat": lambda path: os.lstat(path).st_size,
    "read": lambda path: len(open(path, "rb").read()),
    "names": lambda path: os.listxattr(path),
    "guid": lambda path: len(os.getxattr(path, "user.dbox.guid")),
    "enter": lambda path: os.chdir(path),
    "statvfs": lambda path: os.statvfs(path).f_bsize,
    "write": lambda path: os.close(os.open(path + "/x", os.O_CREAT | os.O_WRONLY)),
}
found = {}
for path in sys.argv[1:]:
    for name, attempt in tries.items():
        try:
            attempt(path)
        except OSError as exc:
            answer = exc.strerror
        else:
            answer = "done"
        found.setdefault(path, {})[name] = answer
print(json.dumps(found))
"""


def attempts(*paths: Path) -> dict[str, dict[str, str]]:
    """What another user gets who tries everything on *paths*."""
    command = [*OTHER, "/usr/bin/python3", "-I", "-c", _TRY, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def everything(mnt: Path) -> list[Path]:
    """Every path of a mount, as its owner sees it, and the control directory."""
    found = [Path(above) / name for above, dirs, files in os.walk(mnt) for name in (*dirs, *files)]
    control = [mnt / ".dboxfs", *(mnt / ".dboxfs" / name for name in os.listdir(mnt / ".dboxfs"))]
    return [mnt, *found, *control]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("mdbox", ""), ("sdbox", "open=classic"), ("mdbox", "rw"), ("sdbox", "view=maildir")],
)
def test_without_allow_other_nobody_else_gets_in(
    mounts: Mounts, tmp_path: Path, kind: str, options: str
) -> None:
    shutil.copytree(SAMPLES / kind, tmp_path / "mail")
    mnt = mounts.mount(tmp_path / "mail", options, for_all=True)
    paths = everything(mnt)
    assert len(paths) > 25
    found = attempts(*paths)
    # The kernel answers for the file system as a whole by itself, with zeros, and asks no daemon.
    assert {name: answer for name, answer in found[str(mnt)].items() if answer == "done"} == {
        "statvfs": "done"
    }
    del found[str(mnt)]
    assert {answer for answers in found.values() for answer in answers.values()} == {"Permission denied"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("mdbox", "allow_other"), ("sdbox", "allow_other,rw"), ("mdbox", "allow_other,view=maildir")],
)
def test_with_allow_other_modes_keep_everybody_out_all_the_same(
    mounts: Mounts, tmp_path: Path, kind: str, options: str
) -> None:
    shutil.copytree(SAMPLES / kind, tmp_path / "mail")
    mnt = mounts.mount(tmp_path / "mail", options, for_all=True)
    top, *below = everything(mnt)
    found = attempts(top, *below)
    # As of any directory, who sees what is above it sees its attributes, and the names of extended ones.
    itself = found.pop(str(top))
    seen = {name for name, answer in itself.items() if answer == "done"}
    assert seen == {"stat", "lstat", "statvfs", "names"}
    assert {answer for answers in found.values() for answer in answers.values()} == {"Permission denied"}


def test_a_group_that_may_read_messages_still_sees_no_control_file(mounts: Mounts, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "mdbox", tmp_path / "mail")
    mnt = mounts.mount(tmp_path / "mail", "allow_other,gid=65534,fmode=0440,dmode=0550", for_all=True)
    (mail, *_), control = (
        sorted((mnt / "INBOX").iterdir()),
        [path for path in everything(mnt) if ".dboxfs" in path.parts],
    )
    found = attempts(mail, *control)
    message = found.pop(str(mail))
    assert {name for name in message if message[name] == "done"} == {
        "stat", "lstat", "read", "names", "guid", "statvfs",
    }  # fmt: skip
    itself = found.pop(str(mnt / ".dboxfs"))
    assert {name for name in itself if itself[name] == "done"} == {"stat", "lstat", "statvfs", "names"}
    assert len(found) >= 5
    assert {answer for answers in found.values() for answer in answers.values()} == {"Permission denied"}


def test_no_control_file_has_a_word_of_a_message(mounts: Mounts, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "mdbox", tmp_path / "mail")
    mnt = mounts.mount(tmp_path / "mail", "open=classic")
    subjects, senders, bodies, others = set[str](), set[str](), set[str](), set[str]()
    for path in [path for path in everything(mnt) if path.suffix == ".eml"]:
        head, _, body = path.read_text(errors="replace").partition("\n\n")
        for line in head.splitlines():
            name, _, value = line.partition(": ")
            {"subject": subjects, "from": senders}.get(name.lower(), others).add(value.strip())
        bodies |= {line.strip() for line in body.splitlines() if len(line) > 20}
    assert len(subjects) >= 10
    assert len(bodies) >= 50
    told = "".join(path.read_text() for path in everything(mnt) if ".dboxfs" in path.parts and path.is_file())
    log = mounts.log_file(mnt).read_text()
    for word in subjects | senders | bodies:
        if len(word) > 8:
            assert word not in told, word
            assert word not in log, word


def test_another_user_cannot_unmount(mounts: Mounts, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "sdbox", tmp_path / "mail")
    mnt = mounts.mount(tmp_path / "mail", for_all=True)
    refused = subprocess.run([*OTHER, "fusermount3", "-u", mnt], capture_output=True, text=True)
    assert refused.returncode == 1
    assert os.path.ismount(mnt)
    assert dboxfs("status", mnt).returncode == 0
