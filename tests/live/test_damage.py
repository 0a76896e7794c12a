"""A damaged file costs the messages that it really damages, and nothing else.

Each test lets Dovecot report everything first, then damages files of the (now quiet) store, mounts it,
and expects: EIO on the damaged messages, everything else as reported, one log line for each damaged
message that names file and offset, and a daemon that goes on.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import corpus
from tests.live.dovecot import Account, Dovecot
from tests.live.equal import Expected, assert_message, assert_shows
from tests.live.mounts import Mounts

pytestmark = pytest.mark.expected_log("damaged")

Damage = Callable[[Path, int, int], None]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, bit: int = 0x40) -> None:
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ bit]))


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


# What is done to a message's record: (file, offset of the record's header, size of header and body).
DAMAGES: dict[str, Damage] = {
    "cut in the body": lambda path, at, size: cut(path, at + size - 20),
    "cut in the header": lambda path, at, _: cut(path, at + 12),
    "cut to nothing": lambda path, _at, _size: cut(path, 0),
    "missing": lambda path, _at, _size: path.unlink(),
    "header magic flipped": lambda path, at, _: flip(path, at),
    "header type flipped": lambda path, at, _: flip(path, at + 2),
    "header size not hex": lambda path, at, _: overwrite(path, at + 20, b"zz"),
    "header size far too large": lambda path, at, _: overwrite(path, at + 13, b"7FFFFFFFFFFFFFFF"),
    "header torn to NULs": lambda path, at, _: overwrite(path, at, bytes(30)),
    "metadata magic flipped": lambda path, at, size: flip(path, at + size + 1),
    "metadata cut": lambda path, at, size: cut(path, at + size + 6),
}


def record_at(path: Path, body: bytes) -> tuple[int, int]:
    """Where the record of an uncompressed body is in a file: dbox-files sections 1.1 and 1.2."""
    data = path.read_bytes()
    start = data.index(body)
    assert data.count(body) == 1
    return start - 30, 30 + len(body)


def damaged(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError as exc:
        if exc.errno == errno.EIO:
            return True
        raise
    return False


def assert_only_damaged(mounts: Mounts, mnt: Path, expected: Expected, uids: set[int]) -> None:
    """In INBOX exactly these messages give EIO, each with one log line; the rest is as expected."""
    for message in expected.messages["INBOX"]:
        path = mnt / "INBOX" / f"{message.uid}.eml"
        if message.uid in uids:
            assert damaged(path), path
            assert damaged(path), path
        else:
            assert_message(path, message)
    listed = {path.name for path in (mnt / "INBOX").iterdir()}
    assert listed == {f"{message.uid}.eml" for message in expected.messages["INBOX"]}
    lines = mounts.log_lines()
    assert len(lines) == len(uids), lines
    for line in lines:
        assert re.search(r"/\S*[um]\.\d+: damaged at offset \d+: ", line), line
    stats = json.loads((mnt / ".dboxfs" / "stats.json").read_text())
    assert stats["damaged_messages"] == len(uids)


def quiet_account(dovecot: Dovecot, driver: str, **settings: str) -> tuple[Account, Expected]:
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    account.append(corpus.with_flags(corpus.real()))
    return account, Expected.of(account)


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_single_dbox_file(dovecot: Dovecot, mounts: Mounts, what: str) -> None:
    account, expected = quiet_account(dovecot, "sdbox")
    message = expected.messages["INBOX"][49]
    path = account.root / "mailboxes" / "INBOX" / "dbox-Mails" / "u.50"
    DAMAGES[what](path, *record_at(path, message.text))
    assert_only_damaged(mounts, mounts.mount(account.location), expected, {50})


@pytest.mark.parametrize(
    "what", [name for name in DAMAGES if not name.startswith(("cut", "missing", "metadata c"))]
)
def test_a_damaged_record_of_a_multi_dbox_file(dovecot: Dovecot, mounts: Mounts, what: str) -> None:
    account, expected = quiet_account(dovecot, "mdbox")
    message = expected.messages["INBOX"][49]
    path = account.root / "storage" / "m.1"
    DAMAGES[what](path, *record_at(path, message.text))
    assert_only_damaged(mounts, mounts.mount(account.location), expected, {50})


def in_file(expected: Expected, path: Path) -> set[int]:
    """The uids of the messages whose bytes are in a file of an uncompressed multi-dbox store."""
    data = path.read_bytes()
    guids = {message.uid: message.guid.encode() for message in expected.messages["INBOX"]}
    return {uid for uid, guid in guids.items() if b"\nG" + guid + b"\n" in data}


def test_a_missing_multi_dbox_file(dovecot: Dovecot, mounts: Mounts) -> None:
    account, expected = quiet_account(dovecot, "mdbox", mdbox_rotate_size="64k")
    path = account.root / "storage" / "m.2"
    uids = in_file(expected, path)
    assert 5 < len(uids) < 90
    path.unlink()
    assert_only_damaged(mounts, mounts.mount(account.location), expected, uids)


def test_a_cut_multi_dbox_file(dovecot: Dovecot, mounts: Mounts) -> None:
    account, expected = quiet_account(dovecot, "mdbox", mdbox_rotate_size="64k")
    path = account.root / "storage" / "m.2"
    uids = in_file(expected, path)
    cut(path, path.stat().st_size // 2)
    gone = uids - in_file(expected, path)
    assert 3 < len(gone) < len(uids)
    assert_only_damaged(mounts, mounts.mount(account.location), expected, gone)


@pytest.mark.parametrize("algorithm", ["gz", "bz2", "zstd", "lz4"])
def test_a_damaged_compressed_body(dovecot: Dovecot, mounts: Mounts, algorithm: str) -> None:
    account, expected = quiet_account(dovecot, "sdbox", zlib_save=algorithm)
    path = account.root / "mailboxes" / "INBOX" / "dbox-Mails" / "u.50"
    body_end = path.read_bytes().index(b"\n\x01\x03\n")
    overwrite(path, body_end - 60, bytes(60))
    assert_only_damaged(mounts, mounts.mount(account.location), expected, {50})


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_a_file_damaged_while_mounted(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account, expected = quiet_account(dovecot, driver)
    message = expected.messages["INBOX"][49]
    mnt = mounts.mount(account.location)
    name = "mailboxes/INBOX/dbox-Mails/u.50" if driver == "sdbox" else "storage/m.1"
    path = account.root / name
    overwrite(path, record_at(path, message.text)[0], bytes(30))
    assert_only_damaged(mounts, mnt, expected, {50})


def make_index_file(account: Account, box: Path) -> None:
    """Dovecot writes ``dovecot.index`` once the log has grown enough since the last time."""
    for n in range(500):
        imap = account.imap()
        imap.select()
        imap.uid("store", "1:*", "+-"[n % 2] + "FLAGS", r"(\Flagged)")
        imap.logout()
        if (box / "dovecot.index").exists():
            return
    raise AssertionError("Dovecot wrote no index file")


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
@pytest.mark.parametrize("how", ["bytes flipped", "cut", "empty", "log missing"])
def test_a_damaged_index_costs_its_own_mailbox_alone(
    dovecot: Dovecot, mounts: Mounts, driver: str, how: str
) -> None:
    """Whatever can still be said about the mailbox: the others are whole, and nothing wrong is shown."""
    account, _ = quiet_account(dovecot, driver)
    account.doveadm("mailbox create", "Other")
    account.doveadm("copy", "Other", "mailbox", "INBOX", "all")
    box = account.root / "mailboxes" / "INBOX" / "dbox-Mails"
    make_index_file(account, box)
    expected = Expected.of(account)
    if how == "bytes flipped":
        for offset in (0, 8, 16, 40):
            flip(box / "dovecot.index", offset)
            flip(box / "dovecot.index.log", offset)
    elif how == "cut":
        for name in ("dovecot.index", "dovecot.index.log"):
            cut(box / name, 50)
    elif how == "empty":
        for name in ("dovecot.index", "dovecot.index.log"):
            cut(box / name, 0)
    else:
        (box / "dovecot.index.log").unlink()
    (box / "dovecot.index.backup").unlink(missing_ok=True)
    mnt = mounts.mount(account.location)
    assert {path.name for path in mnt.iterdir()} >= {"Other"}
    for message in expected.messages["Other"]:
        assert_message(mnt / "Other" / f"{message.uid}.eml", message)
    known = {message.uid: message for message in expected.messages["INBOX"]}
    try:
        shown = [path for path in (mnt / "INBOX").iterdir() if path.is_file()]
    except OSError as exc:
        if exc.errno != errno.EIO:
            raise
        shown = []
    for path in shown:
        assert path.read_bytes() == known[int(path.stem)].text
    if not shown:
        assert len([line for line in mounts.log_lines() if "INBOX" in line]) == 1


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_a_torn_tail_of_the_log_costs_nothing(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account, expected = quiet_account(dovecot, driver)
    log = account.root / "mailboxes" / "INBOX" / "dbox-Mails" / "dovecot.index.log"
    with log.open("ab") as file:
        file.write(b"\x80\x00\x00\x20\x00\x00")
    assert_shows(mounts.mount(account.location), expected)
    assert mounts.log_lines() == []


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_a_damaged_cache_file_costs_nothing(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account, expected = quiet_account(dovecot, driver)
    cache = account.root / "mailboxes" / "INBOX" / "dbox-Mails" / "dovecot.index.cache"
    data = bytearray(cache.read_bytes())
    for offset in range(0, len(data), 7):
        data[offset] ^= 0xFF
    cache.write_bytes(data)
    assert_shows(mounts.mount(account.location), expected)
