"""What Dovecot shows of a store, all of it, to compare two stores with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import dboxfs


@dataclass(slots=True)
class Showing:
    """A store as Dovecot shows it: status and messages by mailbox, subscriptions, all names."""

    status: dict[str, dict[str, object]] = field(default_factory=dict)
    messages: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    subscriptions: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, account: Account) -> Showing:
        names = account.mailboxes()
        found = {name: asdict(status) for name, status in account.status().items()}
        messages = {}
        for name in found:
            orders = account.doveadm("fetch", "pop3.order hdr.subject", "mailbox", name, "all")
            messages[name] = [asdict(message) for message in account.fetch(name)]
            messages[name].append({"orders": orders})
        return cls(found, messages, account.subscriptions(), names)

    def texts(self, name: str) -> list[object]:
        return [message["text"] for message in self.messages[name][:-1]]


def assert_shows(account: Account, expected: Showing) -> None:
    """Dovecot shows of *account* what it has shown of another one."""
    found = Showing.of(account)
    assert found.names == expected.names
    assert found.status == expected.status
    assert found.subscriptions == expected.subscriptions
    for name, messages in expected.messages.items():
        for was, now in zip(messages, found.messages[name], strict=True):
            assert now == was, name


def converted(dovecot: Dovecot, source: str, kind: str, *options: str, suffix: str = "") -> Account:
    """The store at *source* converted with the command; an account that has it."""
    account = dovecot.account(f"{kind}:{{home}}/mail{suffix}")
    done = dboxfs("convert", source, str(account.root), "--format", kind, *options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return account


def tree(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Every file below *root*: inode, mtime and ctime (ns), contents."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, data)
    return found
