"""What Dovecot shows of a store, all of it, to compare two stores with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from tests.live.dovecot import Account, Dovecot, parse_pager
from tests.live.mounts import dboxfs

_FIELDS = (
    "mailbox uid guid seq flags modseq date.received.unixtime date.saved.unixtime pop3.uidl pop3.order "
    "size.virtual size.physical text"
)


@dataclass(slots=True)
class Showing:
    """A store as Dovecot shows it: status and messages by mailbox, subscriptions, all names."""

    status: dict[str, dict[str, object]]
    messages: dict[str, list[tuple[dict[str, str], bytes]]]
    subscriptions: list[str]
    names: list[str]

    @classmethod
    def of(cls, account: Account) -> Showing:
        names = account.mailboxes()
        out = account.dovecot.doveadm("-f", "pager", "fetch", "-u", account.name, _FIELDS, "all")
        messages: dict[str, list[tuple[dict[str, str], bytes]]] = {}
        for values, text in parse_pager(out):
            values["flags"] = " ".join(word for word in values["flags"].split() if word != r"\Recent")
            messages.setdefault(values["mailbox"], []).append((values, text))
        status = {name: asdict(status) for name, status in account.status().items()}
        return cls(status, messages, account.subscriptions(), names)

    def texts(self, name: str) -> list[bytes]:
        return [text for _, text in self.messages[name]]


def assert_shows(account: Account, expected: Showing) -> None:
    """Dovecot shows of *account* what it has shown of another one."""
    found = Showing.of(account)
    assert found.names == expected.names
    assert found.status == expected.status
    assert found.subscriptions == expected.subscriptions
    assert found.messages.keys() == expected.messages.keys()
    for name, messages in expected.messages.items():
        for was, now in zip(messages, found.messages[name], strict=True):
            assert now == was, name


def converted(dovecot: Dovecot, source: str, kind: str, *options: str, suffix: str = "") -> Account:
    """The store at *source* converted with the command; an account that has it."""
    account = dovecot.account(f"{kind}:{{home}}/mail{suffix}")
    done = dboxfs("convert", source, str(account.root), "--format", kind, *options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return account


def assert_consistent(account: Account) -> None:
    """``dboxfs check`` finds nothing: every index record, map record and message fits the others."""
    done = dboxfs("check", account.location)
    assert done.returncode == 0, done.stdout + done.stderr


def tree(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Every file below *root*: inode, mtime and ctime (ns), contents."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, data)
    return found
