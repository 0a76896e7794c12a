"""``-o crypt_key=FILE`` and its password; what goes wrong is one line."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from dboxfs.cli.crypt_keys import read_keys
from dboxfs.cli.mount_options import parse_options
from dboxfs.cli.status import UsageError
from tests.live.crypt_keys import global_keys
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts, dboxfs


def made_key(path: Path, *options: str) -> Path:
    """A private key in PEM, made by openssl."""
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*command, *options, "-out", path], check=True, capture_output=True)
    return path


def password(text: bytes) -> int:
    """A descriptor that gives *text*."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return reader


def test_the_options_are_understood(tmp_path: Path) -> None:
    parsed = parse_options([f"crypt_key={tmp_path}/a,crypt_key={tmp_path}/b", "crypt_password_fd=7"])
    assert parsed.keys == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert parsed.password_fd == 7
    for wrong in ("crypt_key", "crypt_key=", "crypt_password_fd=x"):
        with pytest.raises(UsageError):
            parse_options([wrong])


def test_a_key_with_a_password_is_opened_by_it_alone(tmp_path: Path) -> None:
    locked = made_key(tmp_path / "locked.pem", "-aes256", "-pass", "pass:geheim")
    found = read_keys([str(locked)], password(b"geheim\n"))
    assert found is not None
    assert len(found) == 1
    with pytest.raises(UsageError, match=r"locked\.pem: ") as caught:
        read_keys([str(locked)], password(b"other\n"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="it needs a password; give -o crypt_password_fd=N"):
        read_keys([str(locked)], None)


def test_a_password_is_asked_for_at_the_terminal_and_not_shown(tmp_path: Path) -> None:
    locked = made_key(tmp_path / "locked.pem", "-aes256", "-pass", "pass:geheim")
    script = (
        "import sys; from dboxfs.cli.crypt_keys import read_keys; print(len(read_keys(sys.argv[1:], None)))"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", script, str(locked)])
    question, said = b"password of %b: " % os.fsencode(locked), b""
    try:
        while data := os.read(terminal, 4096):
            said += data
            if said == question:
                os.write(terminal, b"geheim\n")
    except OSError:  # it has ended
        pass
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, said
    assert said.split() == [*question.split(), b"1"]


def test_what_is_no_key_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key\n")
    with pytest.raises(UsageError, match=r"-o crypt_key=.*text: ") as caught:
        read_keys([str(tmp_path / "text")], None)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_keys([str(tmp_path / "missing")], None)
    with pytest.raises(UsageError, match="crypt_password_fd=999: Bad file descriptor"):
        read_keys([str(tmp_path / "text")], 999)
    assert read_keys([], None) is None


def test_a_mount_with_the_key_shows_the_mail(dovecot: Dovecot, mounts: Mounts) -> None:
    keys = global_keys(dovecot)
    account = dovecot.account("mdbox:{home}/mail", **keys.settings)
    account.save(b"Subject: secret\n\n" + b"nobody reads this\n" * 9000)
    (message,) = account.fetch()
    mnt = mounts.mount(account.location, f"rw,crypt_key={keys.private}")
    path = mnt / "INBOX" / "1.eml"
    assert path.stat().st_size == message.physical_size
    assert path.read_bytes() == message.text
    with path.open("ab") as file:
        file.write(b"more\n")
    assert path.read_bytes() == message.text + b"more\n"
    assert [m.text for m in account.fetch()] == [message.text + b"more\n"]
    done = dboxfs("mount", "-o", f"crypt_key={account.home}", account.location, mounts.mountpoint())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_mount_without_keys_does_not_load_what_decrypts() -> None:
    script = "import sys, dboxfs.cli.mount, dboxfs.fuse.mount; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
