"""Messages that are stored encrypted: the real Dovecot's mail_crypt reads back exactly what was saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dboxfs.dbox.crypt import BadKey, KeyRing, load_key
from dboxfs.dbox.encoders import parse_method
from dboxfs.dbox.encrypt import Sealing, load_public_key
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import open_store, parse_location
from dboxfs.store.write import WriteOptions
from dboxfs.store.write import coding as coded
from dboxfs.store.write_errors import RefusedMessage
from tests.live import corpus
from tests.live.crypt_keys import global_keys
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts, dboxfs, xattrs
from tests.store.opened import box_of
from tests.store.write.test_compress import LIKE_CODED, save

TEXT = b"Subject: to be encrypted\n\nthe body of it\n"
MAGIC = b"CRYPTED\x03\x07\x02"
OTHER_ALGORITHM = {"crypt_write_algorithm": "aes-128-gcm-sha256"}
FOLDER_KEY = (
    b"2:3039301306072a8648ce3d020106082a8648ce3d03010703220003a6d21894c49495a0ddaaed8306b59413137c2095d00c38e0197"
    b"27462906f42e5:d264f26f15f1980b5a2f8fd6253f7958f69737ece837350c68cc8442648c5170"
)
"""A public key as Dovecot 2.3.19 has written it."""


def stored(account: Account) -> bytes:
    return b"".join(path.read_bytes() for path in account.root.rglob("[um].*"))


@pytest.mark.parametrize(
    ("driver", "curve", "method"),
    [
        ("sdbox", "P-256", "none"),
        ("mdbox", "P-521", "zstd"),
        ("sdbox", "RSA", "gz"),
        ("mdbox", "RSA", "none"),
    ],
)
async def test_dovecot_reads_back_exactly_what_was_stored_encrypted(
    dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch, driver: str, curve: str, method: str
) -> None:
    monkeypatch.setattr(coded, "KEPT", 4096)  # of more the bytes are made once again
    keys = global_keys(dovecot, curve)
    account = dovecot.account(f"{driver}:{{home}}/mail", **keys.settings)
    account.save(TEXT)
    sealing = Sealing(load_public_key(keys.public.read_bytes()))
    refused = {name for name in LIKE_CODED if method == "none" and name != "crypted"}
    for name in refused:
        with pytest.raises(RefusedMessage, match="begins with the magic of"):
            await save(account, [LIKE_CODED[name]], WriteOptions(encrypt=sealing))
    messages = {
        **corpus.nasty(),
        **{name: text for name, text in LIKE_CODED.items() if name not in refused},
        "large": b"Subject: large\n\n" + b"0123456789abcde\n" * 80_000,
    }
    await save(account, messages.values(), WriteOptions(compress=parse_method(method), encrypt=sealing))
    fetched = account.fetch()[1:]
    for (name, text), message in zip(messages.items(), fetched, strict=True):
        assert message.text == text, name
        assert message.virtual_size == len(text) + text.count(b"\n") - text.count(b"\r\n"), name
    found = stored(account)
    assert found.count(MAGIC) == 1 + sum(bool(text) or method != "none" for text in messages.values())
    assert b"Subject: large" not in found
    ring = KeyRing([load_key(keys.private.read_bytes())])
    location = replace(parse_location(account.location), keys=ring)
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
        box = box_of(store)
        for uid, text in zip(box.uids.tolist()[1:], messages.values(), strict=True):
            body = await box.open(uid)
            assert await body.read(body.size, 0) == text
            body.close()
    done = dboxfs("check", account.location)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("0 errors, 0 warnings,")


@pytest.mark.mount
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_a_mount_of_a_user_encrypts_as_the_user_s_dovecot_does(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    keys = global_keys(dovecot)
    account = dovecot.account(f"{driver}:{{home}}/mail", **keys.settings)
    account.save(TEXT)
    user = ("--user", account.name, "-c", str(dovecot.config), "--log-file")
    mnt = mounts.mountpoint()
    done = dboxfs("mount", *user, mounts.log_file(mnt), "-o", f"rw,crypt_key={keys.private}", mnt)
    assert (done.returncode, done.stderr) == (0, "")
    (mnt / "INBOX/new").write_bytes(TEXT * 2)
    assert (mnt / "INBOX/new").read_bytes() == TEXT * 2
    with (mnt / "INBOX/1.eml").open("ab") as file:
        file.write(b"and a line\n")
    assert (mnt / "INBOX/1.eml").stat().st_size == len(TEXT) + 11
    assert xattrs(mnt / "INBOX/1.eml")["virtual_size"] == str(len(TEXT) + 11 + 4)
    mounts.umount(mnt)
    assert sorted(message.text for message in account.fetch()) == sorted([TEXT * 2, TEXT + b"and a line\n"])
    assert b"the body of it" not in stored(account)
    for said, wanted in ((f"encrypt={keys.public}", 0), ("encrypt=none", 1)):
        mnt = mounts.mount(account.location, f"rw,{said}")
        (mnt / f"INBOX/{wanted}").write_bytes(TEXT)
        mounts.umount(mnt)
        assert stored(account).count(b"the body of it") == wanted
    assert [message.text for message in account.fetch()[-2:]] == [TEXT, TEXT]


@pytest.mark.mount
def test_nothing_is_stored_plain_where_dovecot_encrypts_in_another_way(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    other = {"mail_crypt_save_version": "1"} if dovecot.dialect.version < (2, 4) else OTHER_ALGORITHM
    account = dovecot.account("sdbox:{home}/mail", **{**global_keys(dovecot).settings, **other})
    account.save(TEXT)
    user = ("--user", account.name, "-c", str(dovecot.config), "-o")
    done = dboxfs("mount", *user, "rw", mounts.mountpoint())
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "Dovecot encrypts new messages " + (
        "in version 1" if other is not OTHER_ALGORITHM else "with"
    ) in (done.stderr)
    mnt = mounts.mountpoint()
    done = dboxfs("mount", *user, "rw,encrypt=none", "--log-file", mounts.log_file(mnt), mnt)
    assert (done.returncode, done.stderr) == (0, "")
    no_key, version3 = tmp_path / "no.key", tmp_path / "version3"
    no_key.write_bytes(TEXT)
    done = dboxfs("mount", "-o", f"rw,encrypt={no_key}", account.location, mounts.mountpoint())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no public key" in done.stderr
    assert dboxfs("init", "--format", "sdbox", "--dbox-version=3", version3).returncode == 0
    public = global_keys(dovecot).public
    done = dboxfs("mount", "-o", f"rw,encrypt={public}", f"sdbox:{version3}", mounts.mountpoint())
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "does not encrypt" in done.stderr


def test_a_public_key_in_dovecot_s_own_form_is_the_one_that_it_says() -> None:
    assert load_public_key(FOLDER_KEY).key_size == 256
    assert load_public_key(FOLDER_KEY.replace(b":", b"\t") + b"\n").key_size == 256
    for wrong in (FOLDER_KEY[:-1] + b"1", FOLDER_KEY[:-70], b"", b"-----BEGIN PUBLIC KEY-----"):
        with pytest.raises(BadKey):
            load_public_key(wrong)
