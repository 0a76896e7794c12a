"""Where inotify does not tell of what other machines do."""

from __future__ import annotations

from pathlib import Path

from dboxfs.store.watch import Inotify, Watched, Watcher
from dboxfs.util.mounts import Mount, table
from dboxfs.util.network import NetworkMounts


def mount(point: Path | str, kind: str) -> Mount:
    return Mount(1, "0:1", str(point), kind)


def test_what_lies_on_a_network_file_system_is_known_by_the_mount_above_it(tmp_path: Path) -> None:
    far, near = tmp_path / "far", tmp_path / "far/near"
    near.mkdir(parents=True)
    (tmp_path / "link").symlink_to(far)
    mounts = NetworkMounts(lambda: [mount("/", "ext4"), mount(far, "fuse.glusterfs"), mount(near, "tmpfs")])
    assert mounts.kind_of(str(far)) == "glusterfs"
    assert mounts.kind_of(str(far / "a/b")) == "glusterfs"
    assert mounts.kind_of(str(tmp_path / "link/a")) == "glusterfs"
    assert mounts.kind_of(str(near / "a")) is None
    assert mounts.kind_of(str(tmp_path)) is None
    assert mounts.kind_of(f"{far}ther") is None


def test_a_dboxfs_mount_and_local_file_systems_are_none(tmp_path: Path) -> None:
    assert (
        NetworkMounts(lambda: [mount("/", "ext4"), mount(tmp_path, "fuse.dboxfs")]).kind_of(str(tmp_path))
        is None
    )


def test_a_table_that_cannot_be_read_says_nothing() -> None:
    assert NetworkMounts(lambda: table("/proc/nothing")).kind_of("/") is None


async def test_nothing_is_watched_there(tmp_path: Path) -> None:
    inotify = Inotify(NetworkMounts(lambda: [mount("/", "ext4"), mount(tmp_path / "far", "nfs4")]))
    watcher = Watcher(inotify)
    for name in ("far", "near"):
        (tmp_path / name).mkdir()
    assert watcher.add(str(tmp_path / "far"), "key", lambda _: None) is Watched.NO
    assert watcher.add(str(tmp_path / "near"), "key", lambda _: None) is Watched.NEW
    assert inotify.watches == 1
    inotify.close()
