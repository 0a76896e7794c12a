"""Programs that keep two trees the same, on a writable mount with the default view, beside a Dovecot."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.shown import ONE, TWO, subject_of
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts
from tests.stress.clients import soon


@pytest.mark.expected_log("Rebuilding index", "rebuilding indexes", "fscking index file")
def test_rclone_bisync_merges_both_sides_and_has_nothing_to_do_then(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(ONE), Append(TWO, r"\Seen")])
    mnt, far = mounts.mount(account.location, "rw"), tmp_path / "far"
    far.mkdir()

    def sync(*more: str) -> dict[str, set[str]]:
        """Subjects and flags on Dovecot's side, which has the texts of the other one."""
        command: list[str | Path] = ["rclone", "bisync", mnt, far, "--workdir", tmp_path / "work", *more]
        done = subprocess.run(
            command, capture_output=True, timeout=120, check=False, env=os.environ | {"HOME": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr
        messages = account.fetch()
        assert sorted(message.text for message in messages) == sorted(
            path.read_bytes() for path in (far / "INBOX").iterdir()
        )
        return {subject_of(message.text): set(message.flags.split()) for message in messages}

    before = sync("--resync")
    assert before == {"one": set(), "two": {"\\Seen"}}
    modseqs = [message.modseq for message in account.fetch()]
    assert sync() == before
    assert [message.modseq for message in account.fetch()] == modseqs
    (far / "INBOX/theirs.eml").write_bytes(ONE.replace(b": one", b": theirs"))
    account.save(ONE.replace(b": one", b": ours"))
    soon("the mount shows it", lambda: "3.eml" in os.listdir(mnt / "INBOX"), 60)
    (far / "INBOX/2.eml").unlink()
    assert sync() == {"one": set(), "ours": set(), "theirs": set()}
    account.doveadm("expunge", "mailbox", "INBOX", "subject", "one")
    soon("the mount shows it", lambda: "1.eml" not in os.listdir(mnt / "INBOX"), 60)
    assert sync() == {"ours": set(), "theirs": set()}
    assert {path.name for path in (far / "INBOX").iterdir()} == {"3.eml", "theirs.eml"}


# -- syncthing -----------------------------------------------------------------------------------


_CONFIG = """<configuration version="36">
<folder id="mail" path="{path}" type="sendreceive" rescanIntervalS="86400" fsWatcherEnabled="false">
<device id="{ids[0]}"/><device id="{ids[1]}"/>
<caseSensitiveFS>true</caseSensitiveFS><markerName>INBOX</markerName>
</folder>
<device id="{ids[0]}"><address>tcp://127.0.0.1:{ports[0]}</address></device>
<device id="{ids[1]}"><address>tcp://127.0.0.1:{ports[1]}</address></device>
<gui enabled="true"><address>{gui}</address><apikey>key</apikey></gui>
<options>
<listenAddress>tcp://127.0.0.1:{port}</listenAddress><reconnectionIntervalS>1</reconnectionIntervalS>
<globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled>
<relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled><startBrowser>false</startBrowser>
<urAccepted>-1</urAccepted><crashReportingEnabled>false</crashReportingEnabled>
<autoUpgradeIntervalH>0</autoUpgradeIntervalH>
</options>
</configuration>
"""


class _Gui(http.client.HTTPConnection):
    """The socket at which a syncthing takes orders."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.fspath(self._path))


@dataclass(frozen=True, slots=True)
class _Syncthing:
    """One side: a tree, and the home of the process that keeps it."""

    tree: Path
    home: Path

    @property
    def gui(self) -> Path:
        return self.home / "gui"

    def rescan(self) -> None:
        """Have it look at the whole tree; returns when it has."""
        gui = _Gui(self.gui)
        gui.request("POST", "/rest/db/scan?folder=mail", headers={"X-API-Key": "key"})
        answer = gui.getresponse()
        assert answer.status == 200, answer.read()
        gui.close()


@contextmanager
def _syncthing(sides: Sequence[_Syncthing]) -> Iterator[None]:
    """A syncthing for each side."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in sides]
    ports = [one.getsockname()[1] for one in sockets]
    ids = []
    for side in sides:
        made = subprocess.run(
            ["syncthing", "generate", "--no-default-folder", "--home", side.home],
            capture_output=True, text=True, check=True, env=os.environ | {"HOME": str(side.home)},
        )  # fmt: skip
        (found,) = re.findall(r"Device ID: (\S+)", made.stdout + made.stderr)
        ids.append(found)
    running = []
    for side, port, free in zip(sides, ports, sockets, strict=True):
        config = _CONFIG.format(path=side.tree, ids=ids, ports=ports, port=port, gui=side.gui)
        (side.home / "config.xml").write_text(config)
        free.close()
        with (side.home / "log").open("wb") as log:
            command: list[str | Path] = [
                "syncthing",
                "serve",
                "--home",
                side.home,
                "--no-browser",
                "--no-restart",
            ]
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        for side in sides:
            soon("syncthing answers", side.gui.exists, 30)
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=30)


@pytest.mark.expected_log("Rebuilding index", "rebuilding indexes", "fscking index file")
def test_syncthing_syncs_both_ways_and_has_nothing_to_do_then(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(ONE), Append(TWO, r"\Seen")])
    mnt, far = mounts.mount(account.location, "rw"), tmp_path / "far"
    (far / "INBOX").mkdir(parents=True)
    here, there = sides = [_Syncthing(mnt, tmp_path / "a"), _Syncthing(far, tmp_path / "b")]

    def are_same(*subjects: str) -> Callable[[], bool]:
        def same() -> bool:
            texts = [message.text for message in account.fetch()]
            copied = [path.read_bytes() for path in (far / "INBOX").iterdir() if path.name[0] != "."]
            return sorted(map(subject_of, texts)) == sorted(subjects) and sorted(texts) == sorted(copied)

        return same

    with _syncthing(sides):
        soon("the messages are copied", are_same("one", "two"), 60)
        modseqs = [message.modseq for message in account.fetch()]
        here.rescan()
        there.rescan()
        assert [message.modseq for message in account.fetch()] == modseqs
        (far / "INBOX/theirs.eml").write_bytes(ONE.replace(b": one", b": theirs"))
        there.rescan()
        soon("a message comes from there", are_same("one", "two", "theirs"), 60)
        account.save(ONE.replace(b": one", b": ours"))
        soon("the mount shows it", lambda: len(os.listdir(mnt / "INBOX")) == 4, 60)
        here.rescan()
        soon("a message goes there", are_same("one", "two", "theirs", "ours"), 60)
        (far / "INBOX/2.eml").unlink()
        there.rescan()
        soon("a removal comes from there", are_same("one", "theirs", "ours"), 60)
        account.doveadm("expunge", "mailbox", "INBOX", "subject", "one")
        soon("the mount shows it", lambda: "1.eml" not in os.listdir(mnt / "INBOX"), 60)
        here.rescan()
        soon("a removal goes there", are_same("theirs", "ours"), 60)
    flags = {subject_of(message.text): message.flags for message in account.fetch()}
    assert set(flags) == {"theirs", "ours"}
