"""What Dovecot itself says of its mailboxes, and whether it takes what is written here for its own."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dboxfs.index import mailbox, payload
from dboxfs.index.base import encode_index, parse_index
from dboxfs.index.cachefile import CacheFile
from dboxfs.index.describe import describe_cache, describe_index, describe_log
from dboxfs.index.log import RecordType, encode_record, encode_transaction, parse_log_header
from dboxfs.index.mapindex import MapIndex
from dboxfs.index.reader import Action, decide, load
from dboxfs.index.state import FLAG_BACKEND, FLAG_DIRTY, IndexState
from tests.live.dovecot import Account, Append, Dovecot

FLAGS = {0x01: "\\Answered", 0x02: "\\Flagged", 0x04: "\\Deleted", 0x08: "\\Seen", 0x10: "\\Draft"}
BOXES = ("INBOX", "Work", "Archive")


def message(number: int) -> bytes:
    return f"From: a@example.org\r\nSubject: message {number}\r\n\r\n{'body ' * number}\r\n".encode()


def directory(account: Account, name: str) -> Path:
    return account.root / "mailboxes" / name / "dbox-Mails"


def state_of(where: Path, name: str = "dovecot.index") -> IndexState:
    """The current state of an index that nobody writes right now."""
    index, log = where / name, where / f"{name}.log"
    snapshot = parse_index(index.read_bytes()) if index.exists() else None
    log_data = log.read_bytes()
    header = parse_log_header(log_data)
    log2 = where / f"{name}.log.2"
    log2_data = log2.read_bytes() if log2.exists() else None
    log2_header = parse_log_header(log2_data) if log2_data else None
    plan = decide(snapshot, header, log2_header, log_size=len(log_data), log2_read=True)
    return load(plan, snapshot, log_data, log2_data)


def flag_text(flags: int) -> str:
    return " ".join(sorted(name for bit, name in FLAGS.items() if flags & bit))


def check_messages(account: Account, name: str) -> IndexState:
    """Every message of a mailbox as ``doveadm fetch`` and ``doveadm mailbox status`` report it."""
    expected = account.fetch(name)
    status = account.status()[name]
    state = state_of(directory(account, name))
    assert state.uids.tolist() == [m.uid for m in expected]
    for row, one in enumerate(expected):
        assert flag_text(int(state.flags[row])) == " ".join(sorted(one.flags.split()))
        assert sorted(state.keywords(row)) == sorted(one.keywords.split())
    assert state.modseqs().tolist() == [m.modseq for m in expected]
    header = mailbox.mailbox_header(state)
    assert header is not None
    assert (state.next_uid, state.uid_validity) == (status.uidnext, status.uidvalidity)
    assert (header.guid.hex(), state.highest_modseq) == (status.guid, status.highestmodseq)
    assert (len(state), state.unseen_count) == (status.messages, status.unseen)
    guids, saved = mailbox.guids(state), mailbox.save_dates(state)
    if guids is not None:
        assert [g.tobytes().hex() for g in guids] == [m.guid for m in expected]
    if saved is not None:
        assert saved.tolist() == [m.saved for m in expected]
    return state


def check_plain(account: Account, name: str) -> None:
    """The same without asking for modseqs, which changes the index."""
    args = ("fetch", "-u", account.name, "uid flags", "mailbox", name, "all")
    rows = json.loads(account.dovecot.doveadm("-f", "json", *args))
    state = state_of(directory(account, name))
    assert [int(r["uid"]) for r in rows] == state.uids.tolist()
    for row, one in enumerate(rows):
        names = [f for f in one["flags"].split() if f != "\\Recent"]
        found = flag_text(int(state.flags[row])).split() + list(state.keywords(row))
        assert sorted(found) == sorted(names)


def check_map(account: Account) -> None:
    """Map records point at the messages' bytes; refcounts are what the mailboxes add up to."""
    storage = account.root / "storage"
    index = MapIndex(state_of(storage, "dovecot.map.index"))
    uses: Counter[int] = Counter()
    for name in BOXES:
        state = state_of(directory(account, name))
        header = mailbox.mailbox_header(state)
        assert header is not None
        assert header.map_uid_validity == index.uid_validity
        map_uids = mailbox.map_uids(state)
        assert map_uids is not None or len(state) == 0
        if map_uids is None:
            continue
        uses.update(map_uids.tolist())
        assert (index.rows_of(map_uids) >= 0).all()
        for one, map_uid in zip(account.fetch(name), map_uids.tolist(), strict=True):
            record = index.lookup(map_uid)
            assert record is not None
            data = (storage / f"m.{record.file_id}").read_bytes()
            start = record.offset + 30
            assert data[record.offset : record.offset + 2] == b"\x01\x02"
            assert data[start : start + one.physical_size] == one.text
            assert data[record.offset + record.size - 2 : record.offset + record.size] == b"\n\n"
    assert dict(zip(index.map_uids.tolist(), index.refcounts.tolist(), strict=True)) == {
        uid: uses[uid] for uid in index.map_uids.tolist()
    }
    assert index.highest_file_id == max(int(p.name[2:]) for p in storage.glob("m.*"))
    assert index.state.tail_offset == index.state.head_offset


def fill(account: Account) -> None:
    """Saves, flags, keywords, copies, moves and expunges over three mailboxes."""
    for name in BOXES[1:]:
        account.doveadm("mailbox create", name)
    account.append(Append(message(i), ("\\Seen", "", "\\Flagged $Label1")[i % 3]) for i in range(30))
    client = account.imap()
    client.select("INBOX")
    client.uid("STORE", "3:9", "+FLAGS", "(\\Answered Work urgent)")
    client.uid("STORE", "5:6", "-FLAGS", "(\\Answered WORK)")
    client.uid("STORE", "12", "FLAGS", "(\\Draft)")
    for i in range(20):
        client.uid("STORE", str(i + 1), "+FLAGS", f"(keyword-{i})")
    client.uid("COPY", "1:10", "Work")
    client.uid("MOVE", "20:24", "Archive")
    client.uid("STORE", "2,4,6", "+FLAGS", "(\\Deleted)")
    client.expunge()
    client.uid("STORE", "30", "+FLAGS", "(\\Deleted)")
    client.logout()
    account.append([Append(message(77), "\\Seen", "01-Jan-2020 10:00:00 +0000")], "Work")


@pytest.fixture(params=["sdbox", "mdbox"])
def account(dovecot: Dovecot, request: pytest.FixtureRequest) -> Account:
    made = dovecot.account(f"{request.param}:{{home}}/mail", mdbox_rotate_size="4k")
    fill(made)
    return made


def test_every_mailbox_is_what_dovecot_says(account: Account) -> None:
    for name in BOXES:
        check_plain(account, name)
    for name in BOXES:
        check_messages(account, name)
    account.doveadm("index", "*")
    account.doveadm("flags add", "\\Seen $Label2", "mailbox", "INBOX", "uid", "7:20")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "8:9")
    for name in BOXES:
        check_messages(account, name)
    if account.location.startswith("mdbox"):
        check_map(account)
        account.purge()
        check_map(account)


def test_following_a_log_gives_what_loading_anew_gives(account: Account) -> None:
    where = directory(account, "INBOX")
    account.status()  # starts the tracking of modseqs
    state = state_of(where)
    gone = set(state.uids.tolist())
    account.append([Append(message(5), "\\Seen")])
    account.doveadm("flags add", "\\Deleted $New", "mailbox", "INBOX", "uid", "10:12")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "11,13")
    log = (where / "dovecot.index.log").read_bytes()
    changes = state.apply_log(log[state.head_offset :], state.head_offset)
    fresh = state_of(where)
    assert state.uids.tolist() == fresh.uids.tolist()
    assert state.flags.tolist() == fresh.flags.tolist()
    assert state.modseqs().tolist() == fresh.modseqs().tolist()
    assert changes.appended.tolist() == [31]
    assert changes.expunged.tolist() == [11, 13]
    assert {10, 12} <= set(changes.updated.tolist()) <= gone
    check_messages(account, "INBOX")


def grow(account: Account) -> bytes:
    """More than 1 MiB of log in INBOX, so that it is rotated and the index rewritten; the snapshot before."""
    client = account.imap()
    client.select("INBOX")
    while int(client.select("INBOX")[1][0] or b"0") < 1500:
        client.copy("1:*", "INBOX")
    where = directory(account, "INBOX")
    account.doveadm("flags add", "\\Flagged", "mailbox", "INBOX", "all")
    first = parse_log_header((where / "dovecot.index.log").read_bytes()).file_seq
    before = b""
    uids = client.uid("SEARCH", "ALL")[1][0].split()
    half = b",".join(uids[::2]).decode()
    for i in range(60):
        client.uid("STORE", half, "+-"[i % 2] + "FLAGS", "(\\Answered rotated)")
        index = where / "dovecot.index"
        if parse_log_header((where / "dovecot.index.log").read_bytes()).file_seq > first + (before == b""):
            break
        before = index.read_bytes() if index.exists() else before
    client.logout()
    assert parse_log_header((where / "dovecot.index.log").read_bytes()).file_seq > first
    return before


def test_a_rotated_log_and_a_rewritten_index(account: Account) -> None:
    check_messages(account, "INBOX")
    old = grow(account)
    where = directory(account, "INBOX")
    header = parse_log_header((where / "dovecot.index.log").read_bytes())
    assert header.prev_file_seq == header.file_seq - 1
    state = check_messages(account, "INBOX")
    assert len(state) >= 1500

    snapshot = parse_index(old)
    log, log2 = (where / "dovecot.index.log").read_bytes(), (where / "dovecot.index.log.2").read_bytes()
    plan = decide(snapshot, header, parse_log_header(log2), log2_read=True)
    assert plan.action is Action.REPLAY_LOG2
    older = load(plan, snapshot, log, log2)
    assert older.uids.tolist() == state.uids.tolist()
    assert older.flags.tolist() == state.flags.tolist()
    assert older.modseqs().tolist() == state.modseqs().tolist()


@pytest.mark.parametrize("rotated", [False, True])
def test_dovecot_takes_our_snapshot_for_its_own(account: Account, rotated: bool) -> None:
    if rotated:
        grow(account)
    expected = {name: account.fetch(name) for name in BOXES}
    status = account.status()
    for name in BOXES:
        where = directory(account, name)
        index = where / "dovecot.index"
        log = where / "dovecot.index.log"
        state = state_of(where)
        data = encode_index(state)
        (where / "dovecot.index.tmp").write_bytes(data)
        owner = log.stat()
        os.chown(where / "dovecot.index.tmp", owner.st_uid, owner.st_gid)
        (where / "dovecot.index.tmp").rename(index)
        (where / "dovecot.index.log.2").unlink(missing_ok=True)
        (where / "dovecot.index.cache").unlink(missing_ok=True)
        dump = account.dovecot.doveadm("dump", "-t", "index", str(where)).decode()
        assert re.search(rf"^messages count[ .]*= {len(state)}$", dump, re.M), dump
    if account.location.startswith("mdbox"):
        storage = account.root / "storage"
        state = state_of(storage, "dovecot.map.index")
        owner = (storage / "dovecot.map.index.log").stat()
        (storage / "dovecot.map.index").write_bytes(encode_index(state))
        os.chown(storage / "dovecot.map.index", owner.st_uid, owner.st_gid)
    assert {name: account.fetch(name) for name in BOXES} == expected
    assert account.status() == status
    account.append([Append(message(1))])
    account.doveadm("flags add", "\\Seen afterwards", "mailbox", "INBOX", "all")
    for name in BOXES:
        check_messages(account, name)


def test_cached_sizes_and_dates(account: Account) -> None:
    account.doveadm("index", "*")
    account.fetch("INBOX")
    where = directory(account, "INBOX")
    data = (where / "dovecot.index.cache").read_bytes()
    cache = CacheFile(data)
    state = state_of(where)
    assert cache.header.indexid == state.indexid
    offsets = mailbox.cache_offsets(state, cache.header.file_seq)
    assert offsets is not None
    compared = 0
    for one, offset in zip(account.fetch("INBOX"), offsets.tolist(), strict=True):
        values = cache.lookup(offset)
        expected = {
            "size.physical": one.physical_size,
            "size.virtual": one.virtual_size,
            "date.received": one.received,
            "date.save": one.saved,
            "guid": one.guid,
        }
        for name in values.keys() & expected.keys():
            assert values[name] == expected[name]
            compared += 1
    assert compared >= len(state)
    sizes = mailbox.virtual_sizes(state)
    if sizes is not None:
        known = [
            (s - 1, m.virtual_size) for s, m in zip(sizes.tolist(), account.fetch("INBOX"), strict=True) if s
        ]
        assert all(size == virtual for size, virtual in known)


def test_flags_of_dovecots_own_are_told_apart(account: Account) -> None:
    state = state_of(directory(account, "INBOX"))
    assert not np.any(state.flags & np.uint8(FLAG_BACKEND | FLAG_DIRTY))


def test_every_file_can_be_dumped(account: Account) -> None:
    account.doveadm("index", "*")
    found = 0
    for path in sorted(account.root.rglob("dovecot.*index*")):
        if path.is_dir() or path.suffix == ".tmp":
            continue
        if ".log" in path.name:
            lines = list(describe_log(path.read_bytes()))
        elif path.suffix == ".cache":
            lines = list(describe_cache(path.read_bytes()))
        else:
            lines = list(describe_index(path.read_bytes()))
        assert not any(line.startswith(("damaged", "incomplete")) for line in lines), path
        found += 1
    assert found >= 4


def test_dovecot_obeys_records_written_here(account: Account) -> None:
    before = {m.uid: m for m in account.fetch("INBOX")}
    where = directory(account, "INBOX")
    state = state_of(where)
    changes = encode_transaction(
        [
            encode_record(RecordType.FLAG_UPDATE, payload.flag_update([(1, 3), (10, 10)], 0x12, 0x08)),
            encode_record(RecordType.KEYWORD_UPDATE, payload.keyword_update("Written", [(3, 12)])),
            encode_record(
                RecordType.KEYWORD_UPDATE, payload.keyword_update("work", [(7, 7)], payload.KEYWORD_REMOVE)
            ),
            encode_record(RecordType.KEYWORD_RESET, payload.keyword_reset([(9, 9)])),
        ]
    )
    request = encode_record(RecordType.EXPUNGE_GUID, payload.expunge_guid([(11, bytes(16)), (13, bytes(16))]))
    with (where / "dovecot.index.log").open("ab") as log:
        log.write(changes + request)
    ours = state_of(where)
    assert ours.pending_expunges.tolist() == [11, 13]
    after = check_messages(account, "INBOX")
    assert after.pending_expunges.tolist() == []
    assert after.uids.tolist() == [uid for uid in state.uids.tolist() if uid not in (11, 13)]
    now = {m.uid: m for m in account.fetch("INBOX")}
    assert set(now[1].flags.split()) == {*before[1].flags.split(), "\\Flagged", "\\Draft"} - {"\\Seen"}
    assert "Written" in now[3].keywords.split()
    assert "Work" not in now[7].keywords.split()
    assert now[9].keywords == ""
    assert now[5] == replace(before[5], keywords=now[5].keywords, modseq=now[5].modseq)
