"""Messages that are stored compressed: the real Dovecot reads back exactly what was saved, with its sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from dboxfs.dbox import Compression
from dboxfs.dbox.encoders import parse_method
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.write import Eol, NewMessage, StoreWriter, WriteOptions
from dboxfs.store.write import coding as compressing
from tests.live import corpus
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import Mounts, dboxfs
from tests.store.opened import box_of, opened

both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
MAGICS = {
    Compression.GZIP: b"\x1f\x8b",
    Compression.BZIP2: b"BZh",
    Compression.ZSTD: b"\x28\xb5\x2f\xfd",
    Compression.LZ4: b"Dovecot-LZ4",
}
LIKE_CODED = {
    "gzip": b"\x1f\x8b\x08 looks compressed\n" * 3,
    "bzip2": b"BZh9 so does this\r\n",
    "zstd": b"\x28\xb5\x2f\xfd and this\n",
    "lz4": b"Dovecot-LZ4\r\x2a\x9b\xc5\n\n",
    "xz": b"\xfd7zXZ\0 and that",
    "crypted": b"CRYPTED\x03\x07\x02 is how it begins\n",
}


async def save(account: Account, texts: Iterable[bytes], options: WriteOptions) -> None:
    async with FileSystem(ThreadsDriver(workers=4)) as fs:
        writer = StoreWriter(fs, parse_location(account.location), account.root.stat(), options)
        await writer.save("INBOX", [NewMessage(text) for text in texts])


def using(dovecot: Dovecot, driver: str) -> Account:
    """A store with an INBOX, of a user whose Dovecot reads compressed messages."""
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(b"Subject: first\n\n")
    return account


@both
@pytest.mark.parametrize("method", ["zstd", "lz4", "gz:9", "bz2:1"])
async def test_dovecot_reads_back_exactly_what_was_stored_compressed(
    dovecot: Dovecot, driver: str, method: str
) -> None:
    account = using(dovecot, driver)
    messages = corpus.real() | corpus.nasty() | LIKE_CODED
    chosen = parse_method(method)
    assert chosen is not None
    await save(account, messages.values(), WriteOptions(compress=chosen))
    fetched = account.fetch()[1:]
    assert len(fetched) == len(messages) > 110
    for (name, text), message in zip(messages.items(), fetched, strict=True):
        assert message.text == text, name
        assert message.virtual_size == len(text) + text.count(b"\n") - text.count(b"\r\n"), name
    stored = b"".join(path.read_bytes() for path in account.root.rglob("[um].*"))
    assert stored.count(b"\n" + MAGICS[chosen.kind]) >= len(messages)
    async with opened(account, follow=False) as (store, _):
        box = box_of(store)
        for message in fetched[:20]:
            body = await box.open(message.uid)
            assert await body.read(body.size, 0) == message.text
            body.close()
    assert dboxfs("check", account.location).returncode == 0


@both
async def test_a_text_whose_compressed_form_is_not_kept_in_memory_is_the_same(
    dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    monkeypatch.setattr(compressing, "KEPT", 1000)
    account = using(dovecot, driver)
    noise = os.urandom(700_000).replace(b"\r", b"x")
    texts = [b"Subject: long\n\n" + noise, b"Subject: short\n\n", b"Subject: crlf\r\n\r\n" + noise[:90_000]]
    await save(account, texts, WriteOptions(compress=parse_method("zstd"), memory_limit=5000, eol=Eol.LF))
    expected = [text.replace(b"\r\n", b"\n") for text in texts]
    assert [message.text for message in account.fetch()[1:]] == expected


async def test_line_ends_are_changed_before_compression(dovecot: Dovecot) -> None:
    account = using(dovecot, "sdbox")
    text = b"Subject: x\r\n\r\none\r\ntwo\rthree\n\r"
    for eol in Eol:
        await save(account, [text], WriteOptions(compress=parse_method("gz"), eol=eol))
    kept, lf = account.fetch()[1:]
    assert (kept.text, lf.text) == (text, b"Subject: x\n\none\ntwo\rthree\n")
    assert kept.virtual_size == len(text) + 1


@both
def test_a_mount_stores_compressed_what_it_would_refuse_otherwise(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    account = using(dovecot, driver)
    mnt = mounts.mount(account.location, "rw,compress=zstd:5")
    long = b"Subject: long\n\n" + b"a line that comes again\n" * 40_000
    for name, text in {**LIKE_CODED, "long": long}.items():
        (mnt / "INBOX" / name).write_bytes(text)
        assert (mnt / "INBOX" / name).read_bytes() == text
        assert (mnt / "INBOX" / name).stat().st_size == len(text)
    with (mnt / "INBOX" / "long").open("ab") as file:
        file.write(b"and more\n")
    texts = [*LIKE_CODED.values(), long + b"and more\n"]
    assert [message.text for message in account.fetch()[1:]] == texts
    stored = [path.stat().st_size for path in account.root.rglob("[um].*")]
    assert sum(stored) < len(long) / 2


@both
@pytest.mark.parametrize("command", ["convert", "rescue"])
def test_convert_and_rescue_store_compressed(dovecot: Dovecot, driver: str, command: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(corpus.with_flags(corpus.real()))
    account.doveadm("mailbox create", "Copies")
    account.doveadm("copy", "Copies", "mailbox", "INBOX", "uid", "1:9")
    expected = account.fetch(), account.fetch("Copies")
    for target in ("sdbox", "mdbox"):
        to = dovecot.account(f"{target}:{{home}}/mail")
        verify = ["--verify"] if command == "convert" else []
        done = dboxfs(command, *verify, "--format", target, "--compress=zstd", account.location, to.root)
        assert done.returncode == 0, done.stdout + done.stderr
        hand_over(dovecot, to.root)
        found = to.fetch(), to.fetch("Copies")
        for before, after in zip(expected, found, strict=True):
            for what in ("uid", "text", "guid", "flags", "physical_size", "virtual_size", "received"):
                assert [getattr(m, what) for m in after] == [getattr(m, what) for m in before], what
        # Each record begins behind the end of a header line: of the file (sdbox: two), of the message.
        files = [path.read_bytes() for path in to.root.rglob("[um].*")]
        assert sum(data.count(b"\n\x28\xb5\x2f\xfd") for data in files) >= len(expected[0])
    done = dboxfs(command, "--compress=zstd", "--dbox-version=3", account.location, account.home / "three")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = dboxfs(command, "--compress=xz", account.location, account.home / "xz")
    assert done.returncode == 2
    assert "known are zstd, lz4, gz, bz2 and none" in done.stderr


def hand_over(dovecot: Dovecot, root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.chown(path, dovecot.mail_uid, root.parent.stat().st_gid)


def test_a_store_of_version_3_refuses_compression(mounts: Mounts, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert dboxfs("init", "--format=mdbox", "--dbox-version=3", store).returncode == 0
    done = dboxfs("mount", "-o", "rw,compress=gz", store, mounts.mountpoint())
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "which dboxfs does not compress" in done.stderr
    done = dboxfs("mount", "-o", "compress=gz", store, mounts.mountpoint())
    assert "needs -o rw" in done.stderr


def test_a_user_whose_dovecot_compresses_gets_it_from_a_mount_as_well(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account = dovecot.account("sdbox:~/mail", zlib_save="gz")
    account.save(b"Subject: first\n\n")
    mnt = mounts.mountpoint()
    done = dboxfs("mount", "-o", "rw", "--user", account.name, "-c", dovecot.config, mnt)
    assert done.returncode == 0, done.stderr
    (mnt / "INBOX" / "new").write_bytes(LIKE_CODED["gzip"] * 100)
    assert account.fetch()[1].text == LIKE_CODED["gzip"] * 100
    stored = (account.home / "mail/mailboxes/INBOX/dbox-Mails/u.2").read_bytes()
    assert b"\n\x1f\x8b\x08\x00\x00\x00\x00\x00" in stored
