"""Every tool once while IMAP sessions are open: one in IDLE, which is told of it, one that stores flags."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse_rw.rw import JULY, LONG, ONE, TWO, Writable, both, resynced
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts
from tests.through.sessions import Idle

pytestmark = [both, resynced]

PYTHON = "import shutil; shutil.copy2('{files}/two', 'INBOX/copy2')"
THUNDERBIRD = "cp {files}/two INBOX/two.tmp && mv INBOX/two.tmp INBOX/saved"
TOOLS = {
    "cp": "cp {files}/two INBOX/cp",
    "cp -p": "cp -p {files}/two INBOX/cp-p",
    "cp -a": "cp -a {files}/long INBOX/cp-a",
    "rsync": "rsync -a {files}/two {files}/long INBOX/ --no-perms --no-owner --no-group",
    "rsync again": 'test -z "$(rsync -rtO --out-format=%n {files}/two {files}/long INBOX/)"',
    "rsync inplace": "rsync -t --inplace {files}/long INBOX/cp",
    "rsync partial": "rsync -t --partial {files}/two INBOX/partial",
    "mv in": "cp -p {files}/two {files}/in && mv {files}/in INBOX/in",
    "mv between": "mv INBOX/in Work/in",
    "mv out": "mv Work/in {files}/out && cmp {files}/two {files}/out",
    "ln": "ln INBOX/cp INBOX/ln",
    "install": "install -p {files}/two INBOX/install",
    "tar": "tar -C INBOX -xf {files}/some.tar",
    "unzip": "unzip -q {files}/some.zip -d INBOX",
    "python": f'python3 -c "{PYTHON}"',
    "redirect": "cat {files}/two > INBOX/redirected",
    "append": "echo more >> INBOX/redirected",
    "sed": "sed -i s/second/third/ INBOX/redirected",
    "vim": "vim -es -u NONE -N -c '%s/third/fourth/' -c wq INBOX/redirected < /dev/null > /dev/null 2>&1",
    "over": "mv -f INBOX/install INBOX/copy2",
    "rename": THUNDERBIRD,
    "touch": "touch -d @1600000000 INBOX/saved",
    "rm": "rm INBOX/cp INBOX/ln",
}


@pytest.fixture
def rw(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> Iterator[Writable]:
    made = Writable.make(dovecot, mounts, tmp_path, driver)
    yield made
    made.settled()


def sources(rw: Writable) -> Path:
    files = rw.tmp / "files"
    files.mkdir()
    for name, data in (("two", TWO), ("long", LONG)):
        (files / name).write_bytes(data)
        os.utime(files / name, (JULY, JULY))
    with tarfile.open(files / "some.tar", "w") as tar:
        tar.add(files / "two", "tarred")
    with zipfile.ZipFile(files / "some.zip", "w") as packed:
        packed.write(files / "two", "unzipped")
    return files


def test_sessions_see_what_every_tool_does_and_the_mount_sees_theirs(rw: Writable) -> None:
    files = sources(rw)
    storing = rw.account.imap()
    storing.select("INBOX")
    with Idle(rw.account) as idle:
        for number, (tool, script) in enumerate(TOOLS.items()):
            rw.sh(script.format(files=files))
            messages = rw.account.fetch()
            assert idle.hears(len(messages)), f"{tool}: told of {idle.count} messages, not {len(messages)}"
            assert storing.uid("STORE", "1", "+FLAGS", f"($Mark{number})")[0] == "OK", tool
            keywords = {f"$Mark{mark}" for mark in range(number + 1)}
            rw.account.fetch("INBOX", "uid 1")
            assert rw.soon_keywords("1.eml") == keywords, tool
            shown = {int(os.getxattr(rw.inbox / name, "user.dbox.uid")) for name in rw.names()}
            assert shown == {message.uid for message in messages}, tool
        assert idle.wrong == []
        assert idle.notices["EXPUNGE"] >= 5
    storing.logout()
    edited = TWO.replace(b"second", b"fourth") + b"more\n"
    assert set(rw.texts()) == {ONE, TWO, LONG, edited}
    dates = {message.text: message.received for message in rw.account.fetch()}
    assert dates[LONG] == JULY


def test_line_ends_as_dovecot_stores_them(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str
) -> None:
    rw = Writable.make(dovecot, mounts, tmp_path, driver, "rw,eol=lf")
    crlf = b"Subject: crlf\r\nTo: a@example.org\r\n\r\nline\r\nand a bare\nand a \r inside\r\n"
    (rw.inbox / "crlf").write_bytes(crlf)
    rw.sh("cat INBOX/crlf > INBOX/lf")
    rw.account.append([])
    stored = crlf.replace(b"\r\n", b"\n")
    first, second = rw.account.fetch()[1:]
    assert first.text == second.text == stored
    sent = stored.replace(b"\n", b"\r\n")
    assert first.virtual_size == second.virtual_size == len(sent)
    session = rw.account.imap()
    session.select("INBOX", readonly=True)
    for uid in (first.uid, second.uid):
        answer = session.uid("FETCH", str(uid), "(RFC822.SIZE BODY.PEEK[])")[1][0]
        assert isinstance(answer, tuple)
        assert f"RFC822.SIZE {len(sent)}".encode() in answer[0]
        assert answer[1] == sent
    session.logout()
    assert (rw.inbox / "crlf").stat().st_size == len(stored)
    rw.settled()
