"""A key for each mailbox: the real Dovecot reads what is written with its keys, and with new ones."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest
import trio

from dboxfs.dbox.crypt import BadKey, key_id
from dboxfs.dbox.dcrypt_keys import load_keys
from dboxfs.dbox.folder_keys import attributes, folder_key, is_attribute_file, user_key, with_new_key
from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Crash, Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.store.write import NoFolderKey
from dboxfs.store.write.folder_keys import FolderKeys
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts, dboxfs, xattrs
from tests.live.test_site import wait_for

TEXT = b"Subject: to be encrypted\n\nthe body of it\n"
GUID, OTHER = bytes(range(16)), bytes(range(16, 32))
CRYPT = b"/vendor/vendor.dovecot/pvt/crypt/"
USER = b"shared/ba79b6388d700d6b7629000083ecc375/vendor/vendor.dovecot/pvt/server" + CRYPT
ID = b"53feceda8aed46479b32b5aecb73e26e3b50eed01e6fc242b609402c9ebcdc77"
KEYS = b"".join(
    line + b"\n"
    for line in (
        USER.replace(b"shared/", b"priv/") + b"privkeys/" + ID,
        b"2:1.2.840.10045.3.1.7:0:00000021009bb64957a2d505fb4d5c0260ade66fa29e5ea7a553315e20c16fbaa99f5e3af0:"
        + ID,
        USER + b"active",
        ID,
        USER + b"pubkeys/" + ID,
        b"2:3039301306072a8648ce3d020106082a8648ce3d03010703220003ee3bfcef83f0e9d27c44530d4076895fb19027aff31e8d6b"
        b"72b4f77c0ac4d1f1:" + ID,
    )
)
"""The user's key (without a password) as Dovecot 2.3.19 has written it; no folder has one yet."""


def test_a_new_key_is_the_folder_s_and_is_unlocked_by_the_user_s() -> None:
    assert is_attribute_file(KEYS)
    assert folder_key(attributes(KEYS), GUID) is None
    data, public = with_new_key(KEYS, GUID)
    assert data.startswith(KEYS), "what is there stays, byte by byte"
    found = folder_key(attributes(data), GUID)
    assert found is not None
    assert key_id(found) == key_id(public)
    assert folder_key(attributes(data), OTHER) is None
    assert {key_id(key.public_key()) for key in load_keys(data)} == {
        bytes.fromhex(ID.decode()),
        key_id(public),
    }


def test_a_file_that_is_damaged_gives_no_key() -> None:
    for damaged in (KEYS[:-1], KEYS + b"one line\n"):
        with pytest.raises(BadKey, match="damaged"):
            attributes(damaged)
    with pytest.raises(BadKey, match="is missing"):
        user_key(attributes(KEYS.replace(b"pubkeys", b"others")))
    with pytest.raises(BadKey, match="no key yet"):
        with_new_key(b"shared/x\ny\n", GUID)


async def test_a_crash_while_a_key_is_made_leaves_the_old_keys_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "dovecot-attributes"

    async def make(fault: Fault | None) -> bool:
        async with FileSystem(FaultsDriver(ThreadsDriver(), [] if fault is None else [fault])) as fs:
            with trio.move_on_after(20):
                try:
                    await FolderKeys(str(path)).seals(fs, 0.05, GUID)
                except (OSError, DboxfsError):
                    return False
                return True
        return False

    points = 0
    for when in Crash:
        for number in range(1, 100):
            for left in tmp_path.iterdir():
                left.unlink()
            path.write_bytes(KEYS)
            path.chmod(0o640)
            done = await make(Fault("*", nth=number, crash=when))
            kept = path.read_bytes()
            assert kept.startswith(KEYS)
            made = folder_key(attributes(kept), GUID) is not None
            assert made >= done, "acknowledged, so it is there"
            assert path.stat().st_mode & 0o777 == 0o640
            lock = tmp_path / "dovecot-attributes.lock"
            if lock.exists():
                os.utime(lock, (time.time() - 181,) * 2)  # as Dovecot does: nobody's any more
            assert await make(None)
            assert folder_key(attributes(path.read_bytes()), GUID) is not None
            assert not lock.exists() or made, "who makes no key leaves the lock to its next user"
            if done:
                break
            points += 1
    assert points > 20


async def test_a_lock_of_dovecot_is_waited_for_and_a_user_without_a_key_is_told(tmp_path: Path) -> None:
    path, lock = tmp_path / "dovecot-attributes", tmp_path / "dovecot-attributes.lock"
    async with FileSystem(ThreadsDriver()) as fs:
        keys = FolderKeys(str(path))
        with pytest.raises(NoFolderKey, match="dovecot-attributes: Dovecot has not made it yet"):
            await keys.seals(fs, 5.0, GUID)
        path.write_bytes(b"shared/x\ny\n")
        with pytest.raises(NoFolderKey, match="the user has no key yet"):
            await keys.seals(fs, 5.0, GUID)
        path.write_bytes(KEYS)
        lock.touch()
        got = trio.Event()

        async def one() -> None:
            await keys.seals(fs, 5.0, GUID)
            got.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
            await trio.sleep(1)
            assert not got.is_set()
            assert path.read_bytes() == KEYS
            lock.unlink()
        assert (
            path.read_bytes().count(GUID.hex().encode() + b"/vendor/vendor.dovecot/pvt/crypt/active\n") == 1
        )
        other, public = with_new_key(path.read_bytes(), OTHER)  # Dovecot's work
        path.write_bytes(other)
        sealing = await keys.seals(fs, 5.0, OTHER)
        assert sealing.sealed(None) is not None
        assert path.read_bytes() == other
        assert key_id(public).hex().encode() in other


@pytest.mark.mount
@pytest.mark.expected_log("has a new guid: INBOX, uid 2, has it, encrypted with the key of another mailbox")
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_each_mailbox_of_a_mount_has_its_own_key_and_dovecot_reads_all(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail", **dovecot.dialect.folder_keys("prime256v1", ""))
    account.save(TEXT)
    keys = account.root.parent / "dovecot-attributes"
    user = ("--user", account.name, "-c", str(dovecot.config), "--log-file")
    mnt = mounts.mountpoint()
    done = dboxfs("mount", *user, mounts.log_file(mnt), "-o", f"rw,crypt_key={keys}", mnt)
    assert (done.returncode, done.stderr) == (0, "")
    (mnt / "INBOX/two").write_bytes(TEXT * 2)
    (mnt / "New").mkdir()
    (mnt / "New/three").write_bytes(TEXT * 3)
    assert (mnt / "New/three").read_bytes() == TEXT * 3, "with the key that this mount has just made"
    for change in (os.rename, os.link):
        with pytest.raises(OSError, match="cross-device") as error:
            change(mnt / "INBOX/two", mnt / "New/two")
        assert error.value.errno == errno.EXDEV
    subprocess.run(["mv", mnt / "INBOX/two", mnt / "New/two"], check=True)
    (mnt / "INBOX/1.eml").rename(mnt / "INBOX/one")
    os.link(mnt / "INBOX/one", mnt / "INBOX/again")
    with (mnt / "New/three").open("ab") as file:
        file.write(b"and a line\n")
    account.append([Append(TEXT * 4)], "New")  # with the key that dboxfs has made
    account.doveadm("mailbox create", "Other")
    account.append([Append(TEXT * 5)], "Other")  # with one that Dovecot makes now
    wait_for(lambda: (mnt / "Other/1.eml").exists())
    assert (mnt / "Other/1.eml").read_bytes() == TEXT * 5
    assert xattrs(mnt / "New/two")["virtual_size"] == str(len(TEXT) * 2 + 6)
    mounts.umount(mnt)
    assert sorted(message.text for message in account.fetch()) == [TEXT, TEXT]
    assert sorted(message.text for message in account.fetch("New")) == sorted(
        [TEXT * 2, TEXT * 3 + b"and a line\n", TEXT * 4]
    )
    assert [message.text for message in account.fetch("Other")] == [TEXT * 5]
    assert b"the body of it" not in b"".join(path.read_bytes() for path in account.root.rglob("[um].*"))
    assert not (keys.parent / (keys.name + ".lock")).exists()
    assert keys.stat().st_uid == account.root.stat().st_uid
    mnt = mounts.mount(account.location, f"rw,encrypt={keys}")  # without --user
    (mnt / "Other/six").write_bytes(TEXT * 6)
    mounts.umount(mnt)
    assert [message.text for message in account.fetch("Other")] == [TEXT * 5, TEXT * 6]
