"""A store on a network file system: one mount writes it, and what only seems damaged is looked at again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from dboxfs.cli.begin_writing import begin_writing
from dboxfs.errors import CorruptFile, StoreBusy
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, Store, open_store
from dboxfs.store.write import StoreWriter
from dboxfs.store.write.claim import FILE, claim
from dboxfs.util.network import NetworkMounts
from dboxfs.vfs.host import Host
from dboxfs.vfs.options import MountOptions
from dboxfs.vfs.serving import serve
from tests.tools.archive.archives import FAST, make_store
from tests.vfs.inside import Told


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file lies on a network file system."""
    monkeypatch.setattr(NetworkMounts, "kind_of", lambda self, path: "nfs4")


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[Store]:
    place = Location(Kind.MDBOX, str(root))
    async with FileSystem(ThreadsDriver(2)) as fs, open_store(fs, place, follow=False) as store:
        yield store


async def test_one_mount_writes_a_store_on_a_network_file_system_and_says_where(
    tmp_path: Path, far: None
) -> None:
    await make_store(tmp_path / "store")
    async with opened(tmp_path / "store") as first, opened(tmp_path / "store") as second:
        await claim(first, FAST)
        await claim(first, FAST)
        with pytest.raises(
            StoreBusy, match=r"^/.*: a process on \S+ is writing .* \(nfs4\), where one mount"
        ):
            await claim(second, FAST)
        await claim(second, FAST, shares=True)
        assert second.claim is None
        held = tmp_path / "store" / FILE
        held.write_text(f"elsewhere.example {held.read_text().partition(' ')[2]}")
        with pytest.raises(StoreBusy, match=r"a process on elsewhere\.example is writing it"):
            await claim(second, FAST, shares=True)
    async with opened(tmp_path / "store") as third:
        await claim(third, FAST)
        assert third.claim is not None


async def test_mounts_that_write_and_commands_claim_the_store_and_mounts_that_read_do_not(
    tmp_path: Path, far: None
) -> None:
    await make_store(tmp_path / "store")
    async with (
        opened(tmp_path / "store") as first,
        opened(tmp_path / "store") as second,
        trio.open_nursery() as nursery,
    ):
        await claim(first, FAST)
        host = Host(nursery.start_soon, Told(), {})
        with pytest.raises(StoreBusy):
            await serve(second, MountOptions(write=FAST), host)
        held = tmp_path / "store" / FILE
        held.write_text(f"elsewhere.example {held.read_text().partition(' ')[2]}")
        with pytest.raises(StoreBusy):
            await begin_writing(StoreWriter(second.fs, second.location, second.owner, FAST), second, FAST)
        await serve(second, MountOptions(), host)
        nursery.cancel_scope.cancel()


async def test_a_store_on_this_machine_is_not_claimed(tmp_path: Path) -> None:
    await make_store(tmp_path / "store")
    async with opened(tmp_path / "store") as store:
        await claim(store, FAST)
        assert store.claim is None
    assert not (tmp_path / "store" / FILE).exists()


@pytest.mark.parametrize("scanned", [False, True])
async def test_a_file_that_is_shown_shorter_than_it_is_makes_no_message_damaged(
    tmp_path: Path, scanned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_store(tmp_path / "store", messages=2)
    file = tmp_path / "store/storage/m.1"
    whole = file.read_bytes()

    async def look() -> None:
        async with opened(tmp_path / "store") as store:
            box = store.folders["INBOX"].mailbox
            assert box is not None
            if scanned:
                assert (await box.facts_of(2)).size > 400_000 * 0.9
                assert not (await box.facts_of(2)).damaged
            else:
                (await box.open(2)).close()

    file.write_bytes(whole[:-100])
    with pytest.raises((CorruptFile, AssertionError)):  # on this machine it is what it seems
        await look()
    monkeypatch.setattr(NetworkMounts, "kind_of", lambda self, path: "nfs4")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.sleep(0.35)
        file.write_bytes(whole)


async def test_the_table_of_mounts_is_read_for_what_seems_damaged_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("dboxfs.store.stale.NetworkMounts.kind_of", lambda self, path: asked.append(path))
    await make_store(tmp_path / "store", messages=2)
    async with opened(tmp_path / "store") as store:
        asked.clear()
        box = store.folders["INBOX"].mailbox
        assert box is not None
        assert not (await box.facts_of(2)).damaged
        (await box.open(2)).close()
    assert asked == []
