"""What is learned about mounts without entering them, and the end of a connection."""

from __future__ import annotations

import os
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dboxfs.cli import liveness, umount
from dboxfs.errors import MountError
from dboxfs.util import mounts as fuse_mounts
from dboxfs.util.mounts import Abort, Mount, is_there, mounted_on, servers
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    made = dovecot.account("sdbox:{home}/mail")
    made.save(b"Subject: one\n\ntext\n")
    return made


@pytest.fixture(params=["fusectl", "umount"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """How a connection can be aborted: the control file system is mounted somewhere, or it isn't."""
    place = tmp_path / "connections"
    place.mkdir()
    monkeypatch.setattr(fuse_mounts, "_CONNECTIONS", str(place))
    if request.param == "fusectl":
        subprocess.run(["mount", "-t", "fusectl", "none", place], check=True)
    yield request.param
    if request.param == "fusectl":
        subprocess.run(["umount", place], check=True)


def there(point: Path) -> Mount:
    found = mounted_on(str(point))
    assert found is not None
    return found


def test_an_abort_ends_the_connection_and_leaves_the_mount(
    account: Account, mounts: Mounts, means: str
) -> None:
    mnt = mounts.mount(account.location)
    mount = there(mnt)
    assert servers(mount.connection)
    abort = Abort(mount)
    assert (mnt / "INBOX" / "1.eml").exists()
    abort()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mnt / "INBOX")
    assert is_there(mount)
    abort.close()


def test_an_abort_touches_no_other_mount(account: Account, mounts: Mounts, means: str) -> None:
    mnt = mounts.mount(account.location)
    abort = Abort(there(mnt))
    mounts.umount(mnt)
    abort()
    subprocess.run(["mount", "-t", "tmpfs", "none", mnt], check=True)
    (mnt / "file").write_bytes(b"")
    abort()
    assert os.listdir(mnt) == ["file"]
    subprocess.run(["umount", mnt], check=True)
    abort.close()


@pytest.fixture
def about_to_mount() -> Iterator[int]:
    """A process that has ``/dev/fuse`` open, and has mounted nothing with it yet; its pid."""
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    yield os.getpid()
    os.close(descriptor)


@pytest.mark.parametrize("reported", [True, False])
def test_umount_waits_for_no_process_but_the_daemon(
    account: Account,
    mounts: Mounts,
    about_to_mount: int,
    reported: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the kernel does not report which connection a descriptor has."""
    mnt = mounts.mount(account.location)
    connection, waited = there(mnt).connection, list[float]()

    def connection_of(pid: int, descriptor: str) -> int | None:
        if pid == about_to_mount or not reported:
            return None
        return connection if os.fsencode(mnt) in Path(f"/proc/{pid}/cmdline").read_bytes() else 0

    def wait(condition: Callable[[], bool], seconds: float = 0.0) -> bool:
        waited.append(seconds)
        return liveness.wait(condition, 20)

    monkeypatch.setattr(fuse_mounts, "_connection_of", connection_of)
    monkeypatch.setattr(fuse_mounts, "reports", lambda: reported)
    monkeypatch.setattr(umount, "wait", wait)
    assert (about_to_mount in servers(connection)) != reported
    daemons = liveness.daemons_of(there(mnt))
    assert [os.fsencode(mnt) in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in daemons] == [True]
    assert umount.umount(Namespace(mountpoint=str(mnt), lazy=False, force=False, quiet=False)) == 0
    assert umount.SLOW_SECONDS not in waited


def test_without_the_means_that_is_said_at_once(
    account: Account, mounts: Mounts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mount = there(mounts.mount(account.location))
    monkeypatch.setattr(fuse_mounts, "_CONNECTIONS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MountError, match="can't be aborted"):
        Abort(mount)


def test_a_mount_is_found_by_a_name_of_any_bytes_and_no_other_is(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/a b\\\n\t\xe9")
    os.mkdir(odd)
    subprocess.run(["mount", "-t", "tmpfs", "none", odd], check=True)
    try:
        (found,) = [mount for mount in fuse_mounts.table() if mount.point == odd]
        assert found.kind == "tmpfs"
        assert mounted_on(odd) is None, "it is no dboxfs"
    finally:
        subprocess.run(["umount", odd], check=True)


def test_a_process_in_a_chroot_of_another_namespace_is_seen_to_have_a_mount(
    account: Account, mounts: Mounts, tmp_path: Path
) -> None:
    """Its own table of mounts does not show it, and the daemon goes on until that process is gone."""
    mnt = mounts.mount(account.location)
    mount = there(mnt)
    assert fuse_mounts.who_else_has(mount) is None
    (tmp_path / "root").mkdir()
    script = f"mount --bind / {tmp_path}/root && exec chroot {tmp_path}/root /bin/sleep 60"
    other = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script])
    try:
        assert liveness.wait(lambda: os.readlink(f"/proc/{other.pid}/root") != "/")
        assert str(mnt) not in Path(f"/proc/{other.pid}/mountinfo").read_text()
        assert fuse_mounts.who_else_has(mount) == other.pid
    finally:
        other.kill()
        other.wait()
    assert fuse_mounts.who_else_has(mount) is None
