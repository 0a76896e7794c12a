"""A mailbox with more messages than anybody wants to import.

Made from a small mdbox store of the real Dovecot with :data:`SEEDS` messages of 2 KB: the map index is
written again with one record for each of N map uids, which all point to the places of the seeds in ``m.1``,
and the index of INBOX with N messages, uid = map uid, with the seeds' flags and guids in turn.  So the
indexes have the size and the shape of the real thing, each message can be read, and the storage stays
small.  Both are whole ``dovecot.index`` files with an empty log behind them.  Dovecot has to agree: it is
asked how many messages INBOX has.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np

from bench.dovecot import Doveadm
from bench.errors import BenchError
from bench.mail import Corpus
from bench.stores import cached, import_maildir, link_maildir, location_of, write_plain
from dboxfs.index.base import encode_index, parse_index
from dboxfs.index.columns import ByteArray
from dboxfs.index.log import LogHeader, encode_log_header, parse_log_header
from dboxfs.index.reader import decide, load
from dboxfs.index.state import IndexState

SEEDS = 1000
_SEED_SIZE = 2000


def build_giant(work: Path, name: str, count: int, doveadm: Doveadm) -> tuple[Path, float]:
    """A store WORK/NAME-mdbox with *count* messages in INBOX; its path, and seconds that it took."""
    root = work / f"{name}-mdbox"
    recipe: dict[str, object] = {"messages": count, "seeds": SEEDS}
    return root, cached(work, name, recipe, lambda: _make(work, root, count, doveadm))


def _make(work: Path, root: Path, count: int, doveadm: Doveadm) -> None:
    corpus = Corpus(0, sizes=[_SEED_SIZE] * SEEDS)
    plain, maildir = work / "seeds-plain", work / "seeds-maildir"
    write_plain(plain, corpus)
    link_maildir(plain, maildir, corpus, doveadm)
    import_maildir(root, maildir, corpus, doveadm)
    doveadm.run(location_of(root), "purge")  # it writes the map's snapshot, as a store in use has one
    inbox = root / "mailboxes" / "INBOX" / "dbox-Mails" / "dovecot.index"
    _grow(root / "storage" / "dovecot.map.index", count)
    _grow(inbox, count)
    out = doveadm.run(location_of(root), "-f", "tab", "mailbox", "status", "messages", "INBOX")
    if out.split()[-1] != str(count):
        raise BenchError(f"{root}: Dovecot doesn't see {count} messages: {out.strip()}")


def _grow(path: Path, count: int) -> None:
    """Make the index at *path* one of *count* messages: its own, again and again."""
    log_path = path.with_name(path.name + ".log")
    small = _load(path, log_path)
    header = LogHeader(  # as after a rotation: a log that continues none would mean a mailbox made anew
        indexid=small.indexid,
        file_seq=small.log_file_seq + 1,
        prev_file_seq=small.log_file_seq,
        prev_file_offset=small.head_offset,
        create_stamp=int(time.time()),
        initial_modseq=small.highest_modseq,
    )
    state = _repeated(small, count, header)
    owner = log_path.stat()
    log_path.write_bytes(encode_log_header(header))
    for suffix in (".log.2", ".cache"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(encode_index(state))
    os.chown(path, owner.st_uid, owner.st_gid)


def _load(path: Path, log_path: Path) -> IndexState:
    log = log_path.read_bytes()
    base = parse_index(path.read_bytes()) if path.exists() else None
    older_path = log_path.with_name(log_path.name + ".2")
    older = older_path.read_bytes() if older_path.exists() else None
    plan = decide(
        base, parse_log_header(log), parse_log_header(older) if older else None, log_size=len(log),
        log2_read=True,
    )  # fmt: skip
    return load(plan, base, log, older)


def _repeated(small: IndexState, count: int, log: LogHeader) -> IndexState:
    """*small* with *count* rows and uids from 1 on, tied to the beginning of *log*."""
    rows = np.arange(count) % len(small)
    columns: list[ByteArray | None] = []
    for extension in small.extensions:
        column = small.column(extension.name)
        if column is None:
            columns.append(None)
            continue
        grown = np.ascontiguousarray(column[rows])
        if extension.name == "mdbox":  # map_uid u32, save_date u32
            grown[:, :4] = np.arange(1, count + 1, dtype="<u4").view(np.uint8).reshape(-1, 4)
        elif extension.name == "cache":
            grown[:] = 0
        columns.append(grown)
    header = bytearray(small.base_header)
    struct.pack_into("<I", header, 28, count + 1)
    struct.pack_into("<III", header, 60, log.file_seq, log.hdr_size, log.hdr_size)
    uids = np.arange(1, count + 1, dtype=np.uint32)
    return IndexState(header, uids, small.flags[rows], small.extensions, columns, small.record_size)
