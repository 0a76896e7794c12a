"""Keys are decrypted by a worker thread, each of them once: the other tasks of the daemon go on meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from dboxfs.cli.crypt_keys import keys_with, later_keys
from dboxfs.dbox import dcrypt_keys, encrypt, folder_keys
from dboxfs.dbox.crypt import KeyRing, Private, WrappedSecret, key_id
from dboxfs.dbox.dcrypt_keys import load_keys
from dboxfs.dbox.encrypt import Sealing
from dboxfs.dbox.folder_keys import with_new_key
from dboxfs.errors import EncryptedMessage
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.write import NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.store.write.folder_keys import FolderKeys
from tests.store.opened import box_of
from tests.store.write.test_folder_keys import KEYS

LOCATION = Location(Kind.SDBOX, "/mail")
TEXT = b"Subject: secret\n\ntext\n"
FOLDERS = 12


def key_file(path: Path, folders: int = FOLDERS) -> Path:
    """A user's key and those of folders, as Dovecot keeps them."""
    data = KEYS
    for _ in range(folders):
        data, _key = with_new_key(data, os.urandom(16))
    path.write_bytes(data)
    return path


def wanted(path: Path) -> list[WrappedSecret]:
    """A secret for the newest key in the file."""
    key = load_keys(path.read_bytes())[-1]
    return [WrappedSecret(2, key_id(key.public_key()), b"", b"")]


async def save(fs: FileSystem, options: WriteOptions, count: int) -> None:
    """Make a store with a few messages in INBOX."""
    await init_store(fs, LOCATION, options=options)
    writer = StoreWriter(fs, LOCATION, await fs.stat(LOCATION.root), options)
    await writer.save("INBOX", [NewMessage(TEXT)] * count)


class Counted:
    """Stands for PBKDF2 in a module, and knows by which thread each key was derived."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: object) -> None:
        self.threads: list[int] = []
        self._real = module.PBKDF2HMAC  # type: ignore[attr-defined]
        monkeypatch.setattr(module, "PBKDF2HMAC", self)

    def __call__(self, *arguments: object) -> object:
        self.threads.append(threading.get_ident())
        return self._real(*arguments)


def of_one_user(path: str) -> KeyRing:
    found = keys_with([path], None)
    assert found is not None
    return found


def of_each_user(path: str) -> KeyRing:
    return later_keys([(path, None)], None, None)


@pytest.mark.parametrize("read", [of_one_user, of_each_user])
def test_each_folder_s_key_is_decrypted_once_and_a_new_folder_costs_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read: Callable[[str], KeyRing]
) -> None:
    path = key_file(tmp_path / "dovecot-attributes")
    first = wanted(path)
    counted = Counted(monkeypatch, dcrypt_keys)
    ring = read(str(path))
    for _ in range(3):
        assert ring.find(first)
    assert len(counted.threads) == FOLDERS
    path.write_bytes(with_new_key(path.read_bytes(), os.urandom(16))[0])
    second = wanted(path)
    counted.threads.clear()
    for secrets in (second, first, second):
        assert ring.find(secrets)
    assert len(counted.threads) == 1


async def test_other_tasks_go_on_while_the_keys_of_an_encrypted_message_are_decrypted() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    begun, others = threading.Event(), threading.Event()
    asked = 0

    def more() -> Iterator[Private]:
        nonlocal asked
        asked += 1
        begun.set()
        assert others.wait(10), "another task comes to its turn"
        yield private

    async def read() -> None:
        body = await box_of(store).open(1)
        assert await body.read(100, 0) == TEXT
        body.close()

    async with FileSystem(MemoryDriver()) as fs:
        await save(fs, WriteOptions(encrypt=Sealing(private.public_key())), 1)
        location = replace(LOCATION, keys=KeyRing([], more))
        async with open_store(fs, location, follow=False) as store, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
            await trio.to_thread.run_sync(begun.wait)
            others.set()
    assert asked == 1, "who comes meanwhile waits for the same keys"


async def test_keys_on_a_disk_that_hangs_hold_up_no_other_user() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    answers = threading.Event()

    def hanging() -> list[Private]:
        answers.wait()
        return []

    async def read(keys: KeyRing) -> bytes:
        async with open_store(fs, replace(LOCATION, keys=keys), follow=False) as store:
            body = await box_of(store).open(1)
            try:
                return await body.read(100, 0)
            finally:
                body.close()

    async def wait(keys: KeyRing) -> None:
        with pytest.raises(EncryptedMessage):
            await read(keys)

    more_than_threads = int(trio.to_thread.current_default_thread_limiter().total_tokens) + 5
    async with FileSystem(MemoryDriver()) as fs:
        await save(fs, WriteOptions(encrypt=Sealing(private.public_key())), 1)
        keys = KeyRing([], hanging)
        async with trio.open_nursery() as nursery:
            for _ in range(more_than_threads):
                nursery.start_soon(wait, keys)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.move_on_after(10) as time:
                text = await read(KeyRing([private]))
            answers.set()
    assert not time.cancelled_caught, "another user's keys wait for those"
    assert text == TEXT


async def test_the_secret_of_a_new_message_and_the_key_of_a_new_folder_are_made_by_a_worker_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sealed, locked = Counted(monkeypatch, encrypt), Counted(monkeypatch, folder_keys)
    memory = MemoryDriver()
    memory.put("/keys", KEYS)
    async with FileSystem(memory) as fs:
        await save(fs, WriteOptions(encrypt=FolderKeys("/keys")), 2)
    assert (len(sealed.threads), len(locked.threads)) == (2, 1)
    assert threading.get_ident() not in {*sealed.threads, *locked.threads}
