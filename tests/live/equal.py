"""The comparison that most live tests end with: everything a mount shows against what Dovecot reports.

The mount is read as any program would read it: ``os.scandir``, ``os.stat``, ``os.getxattr``, ``read``.
"""

from __future__ import annotations

import datetime
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.dovecot import Account, Fetched, Status
from tests.live.mounts import xattrs

VISIBLE_WITHIN = 1.0  # seconds: how soon the mount shows what Dovecot did


@dataclass(slots=True)
class Tally:
    """How much was compared in this test run; printed at its end."""

    messages: int = 0
    mailboxes: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Expected:
    """All that Dovecot says about one store, by mailbox name."""

    status: dict[str, Status]
    messages: dict[str, list[Fetched]]
    names: list[str]
    subscribed: list[str]
    shown: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, account: Account, shown: Mapping[str, str] | None = None) -> Expected:
        """Ask Dovecot.  ``shown`` gives the path in the mount for names that can't be shown as they are.

        The messages come first: fetching may write to the index, and the status shall be that of after.
        """
        selectable = list(account.status())
        messages = {name: account.fetch(name) for name in selectable}
        status = account.status()
        assert sorted(status) == sorted(selectable)
        return cls(status, messages, account.mailboxes(), account.subscriptions(), shown or {})

    def path(self, name: str) -> str:
        return self.shown.get(name, name)


def rfc3339(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def assert_shows(
    mnt: Path, expected: Expected, tally: Tally | None = None, *, saved_may_lag: bool = False
) -> None:
    """The tree below ``mnt`` is exactly what Dovecot reports: names, attributes and bytes."""
    for name in sorted({parent for full in expected.names for parent in _with_parents(full)}):
        messages = expected.messages.get(name, [])
        path = mnt / expected.path(name)
        _assert_listing(path, messages, _direct(name, expected))
        if name in expected.status:
            _assert_mailbox(path, expected.status[name], name in expected.subscribed)
        for message in messages:
            assert_message(path / f"{message.uid}.eml", message, saved_may_lag=saved_may_lag)
        if tally is not None:
            tally.mailboxes += 1
            tally.messages += len(messages)
            tally.bytes += sum(m.physical_size for m in messages)
    tops = {expected.path(parents[0]) for parents in map(_with_parents, expected.names)}
    assert set(os.listdir(mnt)) == tops


def assert_shows_soon(
    account: Account, mnt: Path, tally: Tally, shown: Mapping[str, str] | None = None
) -> None:
    """:func:`assert_shows`, true at the latest one second after now, the moment Dovecot was done.

    Single-dbox only: Dovecot takes the saved date from the file's ctime until somebody asks for it, and
    a hard link made or removed by COPY or EXPUNGE elsewhere moves that ctime on without any event in the
    mailbox.  A mount that looked earlier goes on showing the earlier, true date.
    """
    done = time.monotonic()
    lag = account.location.startswith("sdbox:")
    expected = Expected.of(account, shown)
    while True:
        began = time.monotonic()
        try:
            assert_shows(mnt, expected, tally, saved_may_lag=lag)
        except (AssertionError, OSError):
            if began - done > VISIBLE_WITHIN:
                raise
            time.sleep(0.02)
        else:
            return


def assert_message(path: Path, message: Fetched, *, saved_may_lag: bool = False) -> None:
    """One file shows one message: stat, extended attributes, bytes.

    ``saved_may_lag``: the saved date may be earlier than the one that Dovecot reports.
    """
    where = str(path)
    st = path.stat()
    assert stat.S_ISREG(st.st_mode), where
    assert st.st_size == message.physical_size, where
    assert st.st_mtime == message.received, where
    saved = int(st.st_ctime) if saved_may_lag and st.st_ctime < message.saved else message.saved
    assert int(st.st_ctime) == saved, where
    assert st.st_nlink == 1, where
    assert st.st_blocks == -(-message.physical_size // 512), where
    attributes = xattrs(path)
    assert Path(attributes.pop("location").rpartition(":")[0] or "/").is_absolute(), where
    expected = {
        "uid": str(message.uid),
        "guid": message.guid,
        "flags": message.flags,
        "keywords": message.keywords,
        "received": rfc3339(message.received),
        "saved": rfc3339(saved),
        "virtual_size": str(message.virtual_size),
        "modseq": str(message.modseq),
    }
    attributes.pop("orig_mailbox", None)
    attributes.pop("pop3_uidl", None)
    assert attributes == expected, where
    data = path.read_bytes()
    # Not one assertion: pytest would spend minutes on the difference of two long texts.
    if data != message.text:
        at = next((n for n, (a, b) in enumerate(zip(data, message.text, strict=False)) if a != b), -1)
        raise AssertionError(
            f"{where}: {len(data)} bytes, expected {len(message.text)}, first difference at {at}"
        )


def _with_parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _direct(name: str, expected: Expected) -> set[str]:
    """The last path parts, as shown, of the children of a mailbox."""
    every = {parent for full in expected.names for parent in _with_parents(full)}
    return {expected.path(child).rpartition("/")[2] for child in every if child.rpartition("/")[0] == name}


def _assert_listing(path: Path, messages: list[Fetched], children: set[str]) -> None:
    with os.scandir(path) as entries:
        found = {(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries}
    wanted = {(f"{message.uid}.eml", False) for message in messages} | {(child, True) for child in children}
    assert found == wanted, (
        f"{path}: missing {sorted(wanted - found)[:5]}, extra {sorted(found - wanted)[:5]}"
    )


def _assert_mailbox(path: Path, status: Status, subscribed: bool) -> None:
    attributes = xattrs(path)
    wanted = {
        "mailbox": status.mailbox,
        "guid": status.guid,
        "uidvalidity": str(status.uidvalidity),
        "uidnext": str(status.uidnext),
        "messages": str(status.messages),
        "unseen": str(status.unseen),
        "highestmodseq": str(status.highestmodseq),
        "subscribed": "1" if subscribed else "0",
    }
    assert attributes == wanted, str(path)
