"""Messages that the real Dovecot has encrypted (``mail_crypt``, global keys), read with their key.

Expected texts, sizes and dates are what Dovecot itself reports.  A wrong key, a cut or altered ciphertext is
an error of that message alone.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from dboxfs.dbox.crypt import BadKey, KeyRing, load_key
from dboxfs.dbox.dcrypt_keys import load_keys, needs_password
from dboxfs.errors import CorruptFile, EncryptedMessage
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Mailbox, open_store, parse_location
from tests.live import corpus
from tests.live.crypt_keys import Keys, global_keys
from tests.live.dovecot import Account, Append, Dovecot
from tests.store.opened import box_of

both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
MAGIC = b"CRYPTED\x03\x07\x02"


@pytest.fixture(scope="module")
def keys(dovecot_daemon: Dovecot) -> Keys:
    return global_keys(dovecot_daemon)


async def texts_of(account: Account, keys: KeyRing | None) -> list[bytes | Exception]:
    """What a mount would give of each message of INBOX: its text, or the error."""
    found: list[bytes | Exception] = []
    location = replace(parse_location(account.location), keys=keys)
    async with FileSystem(ThreadsDriver(workers=4)) as fs, open_store(fs, location, follow=False) as store:
        box = box_of(store)
        for uid in box.uids.tolist():
            try:
                found.append(await _text(box, uid))
            except (CorruptFile, EncryptedMessage) as error:
                found.append(error)
    return found


async def _text(box: Mailbox, uid: int) -> bytes:
    body = await box.open(uid)
    try:
        facts = await box.facts_of(uid)
        assert facts.size == body.size
        halves = [await body.read(body.size, body.size // 2), await body.read(body.size // 2, 0)]
        assert await body.read(10, body.size) == b""
        return halves[1] + halves[0]
    finally:
        body.close()


def ring(*keys: Keys) -> KeyRing:
    return KeyRing(load_key(one.private.read_bytes()) for one in keys)


@both
@pytest.mark.parametrize("zlib", ["", "gz", "zstd"])
async def test_every_message_is_the_text_that_dovecot_gives(
    dovecot: Dovecot, driver: str, zlib: str, keys: Keys
) -> None:
    settings = keys.settings | ({"zlib_save": zlib} if zlib else {})
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    account.append(corpus.with_flags(corpus.real() | corpus.nasty()))
    plain = dovecot.account(account.location)
    plain.save(b"Subject: plain\n\nbetween encrypted ones\n")
    expected = account.fetch()
    assert len(expected) > 110
    stored = b"".join(path.read_bytes() for path in account.root.rglob("[um].*"))
    empty = 0 if zlib else sum(not message.text for message in expected)  # stored as they are
    assert stored.count(MAGIC) == len(expected) - 1 - empty
    assert await texts_of(account, ring(keys)) == [message.text for message in expected]


@pytest.mark.parametrize("curve", ["P-384", "P-521", "secp256k1", "RSA"])
async def test_keys_of_other_kinds_do_as_well(dovecot: Dovecot, curve: str, keys: Keys) -> None:
    other = global_keys(dovecot, curve)
    account = dovecot.account("sdbox:{home}/mail", **other.settings)
    account.save(b"Subject: secret\n\n" + b"line\n" * 30_000)
    (message,) = account.fetch()
    assert MAGIC in next(account.root.rglob("u.1")).read_bytes()
    assert await texts_of(account, ring(keys, other)) == [message.text]


@both
async def test_without_the_right_key_the_message_alone_is_refused(
    dovecot: Dovecot, driver: str, keys: Keys
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail", **keys.settings)
    account.save(b"Subject: secret\n\ntext\n")
    dovecot.account(account.location).save(b"Subject: plain\n\ntext\n")
    for given, words in (
        (None, "give its key"),
        (ring(global_keys(dovecot)), "for another key than was given"),
    ):
        refused, text = await texts_of(account, given)
        assert isinstance(refused, EncryptedMessage)
        assert words in str(refused)
        assert text == b"Subject: plain\n\ntext\n"


async def test_a_cut_or_altered_ciphertext_is_damage_of_that_message_alone(
    dovecot: Dovecot, keys: Keys
) -> None:
    account = dovecot.account("sdbox:{home}/mail", **keys.settings)
    long = b"Subject: secret\n\n" + b"line\n" * 50_000
    account.append([Append(long), Append(b"Subject: other\n\ntext\n")])
    first, other = (message.text for message in account.fetch())
    (path,) = account.root.rglob("u.1")
    whole = path.read_bytes()
    start = whole.index(MAGIC)
    end = whole.rindex(b"\n\x01\x03\n")
    header = int.from_bytes(whole[start + 14 : start + 18], "big")
    places = [start + 10, start + 14, start + 20, start + 43, start + 60, start + 90, start + header - 100]
    places += [start + header, start + header + 100_000, end - 17, end - 1]
    proof = range(start + header - 36, start + header)
    assert not set(places) & set(proof), "the proof of the secret needs no look, the tag covers the message"
    for at in places:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        wrong, right = await texts_of(account, ring(keys))
        assert isinstance(wrong, CorruptFile | EncryptedMessage), at - start
        assert right == other
    for cut in (1, 16, 17, 100_000, end - start - header, end - start - header + 1, end - start - 20):
        size = b"%016X" % (end - start - cut)
        head = whole[: start - 17] + size + whole[start - 1 : start]
        path.write_bytes(head + whole[start : end - cut] + whole[end:])
        wrong, right = await texts_of(account, ring(keys))
        assert isinstance(wrong, CorruptFile), cut
        assert right == other
    path.write_bytes(whole)
    assert await texts_of(account, ring(keys)) == [first, other]


async def test_the_key_may_be_in_any_order_and_one_of_several(dovecot: Dovecot, keys: Keys) -> None:
    account = dovecot.account("mdbox:{home}/mail", **keys.settings)
    account.save(b"Subject: secret\n\ntext\n")
    others = [global_keys(dovecot), global_keys(dovecot, "P-384")]
    assert await texts_of(account, ring(*others, keys)) == [b"Subject: secret\n\ntext\n"]
    assert await texts_of(account, ring(keys, *others)) == [b"Subject: secret\n\ntext\n"]


@pytest.mark.parametrize("password", ["", "geheim"])
@pytest.mark.parametrize("curve", ["prime256v1", "secp521r1"])
async def test_folder_keys_are_found_where_dovecot_keeps_them(
    dovecot: Dovecot, keys: Keys, curve: str, password: str
) -> None:
    settings = dovecot.dialect.folder_keys(curve, password)
    account = dovecot.account("mdbox:{home}/mail", **settings)
    account.save(b"Subject: secret\n\ntext\n")
    account.doveadm("mailbox create", "Work")
    account.save(b"Subject: other\n\ntext\n", "Work")
    attributes = (account.home / "dovecot-attributes").read_bytes()
    assert needs_password(attributes) == bool(password)
    found = load_keys(attributes, password.encode() or None)
    assert len(found) == 3, "the user's, and one for each folder"
    assert await texts_of(account, KeyRing(found)) == [b"Subject: secret\n\ntext\n"]
    if password:
        for wrong in (b"other", None):
            with pytest.raises(BadKey, match="password"):
                load_keys(attributes, wrong)
    (refused,) = await texts_of(account, ring(keys))
    assert isinstance(refused, EncryptedMessage)


def test_keys_that_are_damaged_are_one_line() -> None:
    for data in (
        b"2:1.2.840.10045.3.1.7:0:00:00",
        b"2:1.2.3:0:00000001aa:00",
        b"2:1.2.840.10045.3.1.7:1:aes-256-ctr:00:sha256:2048:00:04:aa:bb",
        b"2:1.2.840.10045.3.1.7:0:zz:00",
        b"2:1.2.840.10045.3.1.7:0:00000020" + b"ff" * 32 + b":00",
        b"2:1.2.840.10045.3.1.7:2:aes-256-ctr:00:sha256:99999999999:00:00",
        b"nothing",
    ):
        with pytest.raises(BadKey) as caught:
            load_keys(data, b"x")
        assert "\n" not in str(caught.value)
