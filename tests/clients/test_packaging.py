"""What comes along with the program: the mount helper, the systemd unit, the demo, the sample stores."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.live import corpus
from tests.live.dovecot import Account, Dovecot
from tests.live.equal import Expected, assert_shows
from tests.live.mounts import DBOXFS, Mounts, is_mounted

ROOT = Path(__file__).parent.parent.parent
HELPER = ROOT / "packaging" / "mount.dboxfs"
UNIT = ROOT / "packaging" / "dboxfs@.service"


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    made = dovecot.account("mdbox:{home}/mail")
    made.append(corpus.with_flags(corpus.real()))
    return made


def run(*args: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"DBOXFS": str(DBOXFS)} | environment
    return subprocess.run(args, capture_output=True, text=True, timeout=120, check=False, env=variables)


class TestMountHelper:
    def test_as_mount_calls_it(self, account: Account, mounts: Mounts) -> None:
        mountpoint = mounts.mountpoint()
        args = ("-o", "rw,noauto,umask=0077", "-s", "-n", "-v", "-t", "fuse.dboxfs")
        done = run(HELPER, f"mdbox:{account.root}", mountpoint, *args)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(list((mountpoint / "INBOX").iterdir())) == 103
        mounts.umount(mountpoint)

    def in_namespace(self, tmp_path: Path, script: str, *args: str | Path) -> list[str]:
        """The output of a shell script, with the helper in /sbin, in a mount namespace of its own."""
        sbin = tmp_path / "sbin"
        sbin.mkdir()
        shutil.copy(HELPER, sbin)
        script = 'mount --bind "$0" /sbin\n' + script
        done = run("unshare", "-m", "sh", "-ec", script, sbin, *args)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def test_mount_finds_it(self, account: Account, mounts: Mounts, tmp_path: Path) -> None:
        script = """
            mount -t dboxfs "$1" "$2" -o allow_other > /dev/null
            findmnt -n -o FSTYPE,OPTIONS "$2"
            ls "$2/INBOX" | wc -l
            umount "$2"
        """
        kind, count = self.in_namespace(tmp_path, script, account.root, mounts.mountpoint())
        assert kind.startswith("fuse.dboxfs ro,")
        assert "allow_other" in kind
        assert count.strip() == "103"

    def test_fstab_can_ask_for_a_writable_mount(
        self, account: Account, mounts: Mounts, tmp_path: Path
    ) -> None:
        first, second = mounts.mountpoint(), mounts.mountpoint()
        fstab = tmp_path / "fstab"
        fstab.write_text(
            f"{account.location} {first} dboxfs rw,nofail 0 0\n"
            f"{account.location} {second} dboxfs writable,eol=lf,nofail 0 0\n"
        )
        script = """
            mount -a -T "$1" > /dev/null
            mount -a -T "$1"
            findmnt -n -o OPTIONS "$2"
            findmnt -n -o OPTIONS "$3"
            ! touch "$2/INBOX/new" 2> /dev/null
            printf 'Subject: from fstab\n\ntext\n' > "$3/INBOX/new"
            umount "$2" "$3"
            mount -o ro -T "$1" "$3" > /dev/null
            findmnt -n -o OPTIONS "$3"
            cat "$3/INBOX/new"
            umount "$3"
        """
        options = self.in_namespace(tmp_path, script, fstab, first, second)
        assert [line.partition(",")[0] for line in options[:3]] == ["ro", "rw", "ro"]
        assert options[3:] == ["Subject: from fstab", "", "text"]
        assert account.fetch()[-1].text == b"Subject: from fstab\n\ntext\n"

    def test_failures_have_the_statuses_of_mount(
        self, account: Account, mounts: Mounts, tmp_path: Path
    ) -> None:
        mountpoint = mounts.mountpoint()
        failed = run(HELPER, tmp_path / "gone", mountpoint)
        assert failed.returncode == 32
        assert str(tmp_path / "gone") in failed.stderr
        assert run(HELPER, account.root).returncode == 1
        assert run(HELPER, account.root, mountpoint, "-o", "nonsense").returncode == 1
        nowhere = run(HELPER, account.root, mountpoint, DBOXFS="", PATH="/nonexistent")
        assert nowhere.returncode in (2, 127)
        assert not is_mounted(mountpoint)

    def test_fake_mounts_nothing(self, account: Account, mounts: Mounts) -> None:
        mountpoint = mounts.mountpoint()
        assert run(HELPER, account.root, mountpoint, "-f").returncode == 0
        assert not is_mounted(mountpoint)


class TestUnit:
    def command(self, key: str, variables: dict[str, str]) -> list[str]:
        """An Exec line of the unit as systemd would run it, with the program of this checkout."""
        (line,) = re.findall(rf"^{key}=-?(.*)$", UNIT.read_text(), re.MULTILINE)
        line = re.sub(r"\$\{(\w+)\}", lambda match: shlex.quote(variables[match[1]]), line)
        return shlex.split(line.replace("/usr/local/bin/dboxfs", str(DBOXFS)))

    def test_its_commands_mount_and_unmount_and_tell_systemd(
        self, account: Account, mounts: Mounts, tmp_path: Path
    ) -> None:
        mountpoint = mounts.mountpoint()
        variables = {"OPTIONS": "ro", "STORE": f"mdbox:{account.root}", "MOUNTPOINT": str(mountpoint)}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(60)
            told = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
            command = self.command("ExecStart", variables)
            with subprocess.Popen(command, env=told, stderr=subprocess.DEVNULL) as daemon:
                said = {manager.recv(4096).decode()}
                while not any(text.startswith("READY=1") for text in said):
                    said.add(manager.recv(4096).decode())
                assert said <= {f"READY=1\nSTATUS={account.root} on {mountpoint}", "WATCHDOG=1"}
                assert manager.recv(4096) == b"WATCHDOG=1"
                assert len(list((mountpoint / "INBOX").iterdir())) == 103
                shell, *reload = self.command("ExecReload", variables)
                words = [word.replace("$MAINPID", str(daemon.pid)) for word in reload]
                assert run(shell, *words, PATH="/nonexistent").returncode == 0
                while not manager.recv(4096).startswith(b"RELOADING=1"):
                    pass
                assert run(*self.command("ExecStop", variables)).returncode == 0
                assert daemon.wait(60) == 0
                while manager.recv(4096) != b"STOPPING=1":
                    pass
        assert not is_mounted(mountpoint)
        assert run(*self.command("ExecStopPost", variables)).returncode == 0

    def test_root_with_its_capabilities_writes_the_store_of_a_user(
        self, account: Account, mounts: Mounts
    ) -> None:
        lines = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
        allowed = ",".join(f"+{name.lower()}" for name in " ".join(lines).replace("CAP_", "").split())
        mountpoint = mounts.mountpoint()
        bounded = ("setpriv", "--no-new-privs", f"--bounding-set=-all,{allowed}")
        done = run(*bounded, DBOXFS, "mount", "-o", "rw,allow_other", account.location, mountpoint)
        assert (done.returncode, done.stderr) == (0, "")
        (mountpoint / "INBOX/new").write_bytes(b"Subject: of the service\n\ntext\n")
        assert account.fetch()[-1].text == b"Subject: of the service\n\ntext\n"
        mounts.umount(mountpoint)

    def test_nothing_in_it_hides_the_mount_in_a_namespace(self) -> None:
        keys = re.findall(r"^(\w+)=", UNIT.read_text(), re.MULTILINE)
        hiding = re.compile(
            "Private|ProtectSystem|ProtectHome|ProtectKernel|ProtectControl|.*Paths|Root|Mount|Bind|Temp"
        )
        assert [key for key in keys if hiding.match(key)] == []
        analyze = shutil.which("systemd-analyze")
        if analyze is not None:
            done = run(analyze, "security", "--offline=true", UNIT)
            score = re.search(r"exposure level for \S+: (\d\.\d)", done.stdout)
            assert score is not None
            assert float(score[1]) <= 6.0

    def test_systemd_understands_it(self, tmp_path: Path) -> None:
        text = UNIT.read_text().replace("/usr/local/bin/dboxfs", str(DBOXFS))
        sections = re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)
        assert sections == ["Unit", "Service", "Install"]
        analyze = shutil.which("systemd-analyze")
        if analyze is not None:
            (tmp_path / "dboxfs@.service").write_text(text)
            done = run(analyze, "verify", "--man=no", tmp_path / "dboxfs@.service")
            assert (done.returncode, done.stderr) == (0, "")

    def test_systemd_understands_the_examples_of_mount_units(self) -> None:
        mount, automount = (UNIT.parent / f"mnt-ann.{kind}" for kind in ("mount", "automount"))
        for text in (mount.read_text(), automount.read_text()):
            assert re.findall(r"^Where=(.*)$", text, re.MULTILINE) == ["/mnt/ann"]
        analyze = shutil.which("systemd-analyze")
        if analyze is not None:
            done = run(analyze, "verify", "--man=no", mount, automount)
            assert (done.returncode, done.stderr) == (0, "")


class TestSamples:
    @pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
    def test_are_what_dovecot_reports(self, dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
        account = dovecot.account(f"{driver}:{{home}}/mail")
        shutil.copytree(ROOT / "samples" / driver, account.root)
        for path in [account.root, *account.root.rglob("*")]:
            os.chown(path, account.home.stat().st_uid, account.home.stat().st_gid)
        expected = Expected.of(account)
        assert sum(len(messages) for messages in expected.messages.values()) == 18
        assert_shows(mounts.mount(account.root), expected)

    def test_are_small(self) -> None:
        files = [path for path in (ROOT / "samples").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 200_000


class TestDemo:
    @pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
    def test_shows_everything_and_unmounts(self, tmp_path: Path, driver: str) -> None:
        done = run(ROOT / "scripts" / "demo", driver, TMPDIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
        for part in (
            "./Entwürfe",
            "Subject: ",
            'user.dbox.guid="',
            'user.dbox.flags="',
            '"health"',
            '"requests": {',
        ):
            assert part in done.stdout
        assert list(tmp_path.iterdir()) == []

    def test_keep_leaves_it_mounted_and_dovecot_shows_that_store(
        self, dovecot: Dovecot, tmp_path: Path
    ) -> None:
        done = run(ROOT / "scripts" / "demo", "--keep", TMPDIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
        (directory,) = tmp_path.iterdir()
        try:
            assert (directory / "mail/INBOX/plain_emails-basic_email.eml").is_file()
            assert f"umount {directory}/mail" in done.stdout
        finally:
            run("fusermount3", "-u", "-z", directory / "mail")
        account = dovecot.account("mdbox:{home}/mail")
        shutil.copytree(directory / "store", account.root)
        for path in [account.root, *account.root.rglob("*")]:
            os.chown(path, account.home.stat().st_uid, account.home.stat().st_gid)
        for message in account.fetch("Lists/ruby-mail"):
            letter = directory / "letters" / f"rfc2822-example{message.uid:02}.eml"
            assert message.text == letter.read_bytes()
        assert {name: status.messages for name, status in account.status().items()} == {
            "Archive": 0, "Archive/2025": 1, "Entwürfe": 1, "INBOX": 6, "Lists": 0, "Lists/ruby-mail": 14,
        }  # fmt: skip

    def test_wrong_usage(self) -> None:
        assert run(ROOT / "scripts" / "demo", "--nonsense").returncode == 2


class TestPackages:
    def test_what_a_debian_package_is_tested_with_passes_here(self, tmp_path: Path) -> None:
        sbin = tmp_path / "sbin"
        sbin.mkdir()
        shutil.copy(HELPER, sbin)
        path = f"{DBOXFS.parent}:{os.environ['PATH']}"
        test = ROOT / "packaging/debian/tests/mount"
        done = run(
            "unshare", "-m", "sh", "-ec", 'mount --bind "$0" /sbin; exec "$1"', sbin, test,
            PATH=path, TMPDIR=str(tmp_path), DBOXFS=str(DBOXFS),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("\nmounted, written, read, unmounted\n")
        assert os.listdir(tmp_path) == ["sbin"]
