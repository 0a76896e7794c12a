"""A store that was put back is held against the original: by what ``doveadm`` says of both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.live.dovecot import Account, Fetched
from tests.live.mounts import Mounts, dboxfs
from tests.restores.programs import Run


@dataclass(frozen=True, slots=True)
class Portrait:
    """What Dovecot says of a store: its messages by mailbox; guid, UIDVALIDITY, next uid; subscriptions."""

    messages: dict[str, list[Fetched]]
    identities: dict[str, tuple[str, int, int]]
    subscriptions: list[str]

    @classmethod
    def of(cls, account: Account) -> Portrait:
        """All of a store, as it is now."""
        status = account.status()
        return cls(
            {name: account.fetch(name) for name in status},
            {name: (some.guid, some.uidvalidity, some.uidnext) for name, some in status.items()},
            account.subscriptions(),
        )

    @property
    def count(self) -> int:
        """Messages."""
        return sum(map(len, self.messages.values()))


def row(message: Fetched, received: int | None = None) -> tuple[object, ...]:
    """All that has to come back of a message."""
    return (
        message.uid,
        message.guid,
        message.flags,
        message.keywords,
        message.received if received is None else received,
        message.saved,
        message.text,
    )


def differences(before: Portrait, after: Portrait, *, directories: bool = True) -> list[str]:
    """What of a store has not come back; some of the messages are named.

    :param directories: what a mailbox is has to come back, too.
    """
    found = []
    if directories:
        found += _wrong_mailboxes(before, after)
    if directories and before.subscriptions != after.subscriptions:
        found.append(f"subscriptions: {before.subscriptions} != {after.subscriptions}")
    for name in before.messages.keys() | after.messages.keys():
        had = {message.uid: row(message) for message in before.messages.get(name, ())}
        has = {message.uid: row(message) for message in after.messages.get(name, ())}
        wrong = [uid for uid in had.keys() | has.keys() if had.get(uid) != has.get(uid)]
        found += [f"{name}, uid {uid}: {_short(had.get(uid))} != {_short(has.get(uid))}" for uid in wrong[:3]]
        if wrong:
            found.append(f"{name}: {len(wrong)} messages differ")
    return found


def _wrong_mailboxes(before: Portrait, after: Portrait) -> list[str]:
    """Mailboxes that are not what they were; a parent that was none comes back as an empty one."""
    found = []
    for name in before.identities.keys() | after.identities.keys():
        had, has = before.identities.get(name), after.identities.get(name)
        was_parent = had is None and any(other.startswith(f"{name}/") for other in before.identities)
        if had != has and not (was_parent and not after.messages[name]):
            found.append(f"{name}: {had} != {has}")
    return found


def _short(values: tuple[object, ...] | None) -> str:
    if values is None:
        return "nothing"
    *others, text = values
    return f"{others}, {len(text) if isinstance(text, bytes) else text} bytes"


def plain_differences(before: Portrait, after: Portrait) -> list[str]:
    """The same where only plain files came back: texts and received dates, by mailbox, and uids."""
    found = []
    for name in before.messages.keys() | after.messages.keys():
        had = Counter((m.uid, m.received, m.text) for m in before.messages.get(name, ()))
        has = Counter((m.uid, m.received, m.text) for m in after.messages.get(name, ()))
        if had != has:
            found.append(f"{name}: {(had - has).total()} messages have not come back as they were")
    return found


def damage(account: Account, after: Portrait) -> list[str]:
    """What ``dboxfs check`` and a rebuild by Dovecot find wrong in a store that was put back."""
    found = []
    check = dboxfs("check", "--unused", account.root, timeout=600)
    if check.returncode or "0 errors, 0 warnings" not in check.stdout:
        found.append(f"check: {check.stdout}{check.stderr}")
    found += _stored_twice(account, after)
    account.force_resync()
    now = Portrait.of(account)
    cached = account.dovecot.dialect.cached_date
    for name, messages in after.messages.items():
        had = [row(message, cached(message.received)) for message in messages]
        has = [row(message, cached(message.received)) for message in now.messages.get(name, ())]
        if had != has:
            found.append(f"{name}: changed by force-resync")
    if now.identities != after.identities:
        found.append("identities of mailboxes were changed by force-resync")
    return found


def _stored_twice(account: Account, after: Portrait) -> list[str]:
    """Records (mdbox: one for all copies), or files, that are more than the messages."""
    if account.location.startswith("sdbox"):
        count, wanted = len([*account.root.rglob("u.[0-9]*")]), after.count
    else:
        count = sum(
            path.read_bytes().count(b"\n\x01\x03\n") for path in (account.root / "storage").glob("m.*")
        )
        wanted = len({message.guid for messages in after.messages.values() for message in messages})
    return [] if count == wanted else [f"{count} stored, {wanted} wanted"]


def put_back(account: Account, mounts: Mounts, put: Run, options: str = "restore,alone") -> str:
    """Put a backup back into an empty store of this account; gives what ``dboxfs umount`` says.

    :param put: does it, into the mountpoint.
    """
    driver = account.location.partition(":")[0]
    made = dboxfs("init", "--format", driver, "--owner", account.dovecot.mail_user, account.root)
    assert made.returncode == 0, made.stderr
    mnt: Path = mounts.mount(account.location, options)
    put(mnt)
    done = dboxfs("umount", mnt, timeout=1200)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()
