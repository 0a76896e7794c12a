"""What people do through a writable mount, each as a shell script, and what a store was before and is after.

A script ends with status 0 if and only if every one of its steps was acknowledged.
"""

from __future__ import annotations

import os
import subprocess
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.points import Key, Template, clone, contents, counted
from tests.live.dovecot import Account, Dovecot
from tests.store.write.stores import body
from tests.through.daemons import Daemons, Served

NEW, MORE, OTHER = body(100), b"and more\n", body(101)
LARGE = body(102, 700_000)
"""More than an upload has in memory: it streams through a temporary file."""

CHANGING = "create append copy_range truncate sync publish sync_dir rename link unlink mkdir rmdir"
"""The operations that change something on the disk, or make it last."""


@dataclass(frozen=True, slots=True)
class Change:
    """A script.

    ``whole``: one transaction; an error that is reported means that nothing has changed.
    ``together``: sets of places of which one at least must hold the message at any time.
    ``alone``: done where no Dovecot is beside, too.
    ``ours_first``: after a crash dboxfs opens the store before Dovecot does.
    ``atomic``: mailboxes that are as a whole as they were, or as they will be.
    ``twin``: a message that is replaced by one with the same bytes: Dovecot's rebuild after a crash finds the
    file of the new one, too (PROTOCOL section 3).
    ``says``: what a program says in place of the error that it was told.
    """

    name: str
    script: str
    whole: bool = False
    together: tuple[frozenset[Key], ...] = ()
    alone: bool = False
    ours_first: bool = False
    twin: Key | None = None
    atomic: tuple[str, ...] = ()
    says: str = "cannot stat"  # mv, which asks again: the message may be there without its name by then


def _either(*keys: Key) -> tuple[frozenset[Key], ...]:
    return (frozenset(keys),)


FIRST: Key = ("INBOX", body(0))
SEDDED = body(0).replace(b"a ", b"b ", 1)
_CLEAN = " || { status=$?; rm -f INBOX/.new; exit $status; }"

CHANGES = [
    Change("cp", "cp $T/new INBOX/new", whole=True),
    Change("cp_a", "cp -a $T/new INBOX/new"),
    Change("cp_large", "cp $T/large INBOX/large", whole=True),
    Change(
        "cp_together",
        "pids=; for n in 0 1 2; do cp $T/together$n INBOX/t$n & pids=$pids\\ $!; done; cp $T/new Work/new & "
        "pids=$pids\\ $!; for pid in $pids; do wait $pid; done",
    ),
    Change(
        "append", "cat $T/more >> INBOX/1.eml", together=_either(FIRST, ("INBOX", body(0) + MORE)), alone=True
    ),
    Change("write_over", "cat $T/new > INBOX/1.eml", together=_either(FIRST, ("INBOX", NEW))),
    Change(
        "inplace",
        "rsync -t --inplace $T/new INBOX/1.eml",  # which gives it its date in a second step
        together=_either(FIRST, ("INBOX", NEW)),
        twin=("INBOX", NEW),
    ),
    Change("rsync", "rsync -tO $T/new $T/large INBOX/"),
    Change("temporary", "{ cp $T/new INBOX/.new && mv -T INBOX/.new INBOX/new; }" + _CLEAN, whole=True),
    Change(
        "temporary_over",
        "{ cp $T/new INBOX/.new && mv -fT INBOX/.new INBOX/1.eml; }" + _CLEAN,
        together=_either(FIRST, ("INBOX", NEW)),
        alone=True,
    ),
    Change(
        "temporary_elsewhere", "{ cp $T/large INBOX/.new && mv -T INBOX/.new Work/new; }" + _CLEAN, whole=True
    ),
    Change("name", "mv INBOX/1.eml INBOX/name"),
    Change("over", "mv -f INBOX/2.eml INBOX/1.eml", together=_either(("INBOX", body(1))), atomic=("INBOX",)),
    Change("move", "mv INBOX/1.eml Work/moved", together=_either(FIRST, ("Work", body(0))), alone=True),
    Change("move_over", "mv -f INBOX/1.eml Work/1.eml", together=_either(FIRST, ("Work", body(0)))),
    Change("link", "ln INBOX/1.eml Work/copy", whole=True),
    Change("unlink", "rm INBOX/1.eml", whole=True, alone=True),
    Change("unlink_many", "rm Many/*.eml && sync Many", alone=True),
    Change("flags", r"setfattr -n user.dbox.flags -v '\Flagged \Seen' INBOX/1.eml", whole=True),
    Change("keywords", "setfattr -n user.dbox.keywords -v 'one $Two' INBOX/2.eml", whole=True),
    Change("date", "touch -d @1689000000 INBOX/1.eml", together=_either(FIRST), twin=FIRST),
    Change("sed", "sed -i 's/a /b /' INBOX/1.eml", together=_either(FIRST, ("INBOX", SEDDED))),
    Change("mkdir", "mkdir -p New/Deep && cp $T/new New/Deep/new"),
    Change("mailbox", "mkdir New", whole=True),
    Change("rmdir", "rmdir Empty", ours_first=True, alone=True),
    Change(
        "rename_directory",
        "mv Old Else",
        whole=True,
        together=(
            frozenset({("Old", body(12)), ("Else", body(12))}),
            frozenset({("Old/Sub", body(13)), ("Else/Sub", body(13))}),
        ),
    ),
    Change("subscribed", "setfattr -n user.dbox.subscribed -v 1 Work", whole=True),
    Change("tar", "tar -xf $T/some.tar", says="Cannot open: No such file or directory"),
]

EVERY = os.environ.get("DBOXFS_THROUGH") == "all"
SCENARIOS = [
    (change, driver, options)
    for change in CHANGES
    for driver in ("sdbox", "mdbox")
    for options in (["rw", "rw,alone"] if change.alone else ["rw"])
]


def ids(scenario: tuple[Change, str, str]) -> str:
    """What a test with this parameter is called."""
    change, driver, options = scenario
    return f"{change.name}-{driver}{'-alone' if 'alone' in options else ''}"


def chosen(offset: int) -> list[tuple[Change, str, str]]:
    """All scenarios in the long run; in the short one every sixth."""
    return SCENARIOS if EVERY else SCENARIOS[offset::6]


def some(points: list[int], seed: str) -> list[int]:
    """All points in the long run; in the short one two of them, others for each *seed*."""
    if EVERY or len(points) <= 2:
        return points
    first = zlib.crc32(seed.encode()) % (len(points) // 2)
    return [points[first], points[first + len(points) // 2]]


def files(directory: Path) -> dict[str, str]:
    """The files that the scripts take; gives the environment that names them."""
    directory.mkdir(exist_ok=True)
    together = {f"together{n}": body(110 + n) for n in range(3)}
    for name, data in {"new": NEW, "more": MORE, "large": LARGE, "last": OTHER, **together}.items():
        (directory / name).write_bytes(data)
        os.utime(directory / name, (1_689_000_000, 1_689_000_000))
    sources = ["--transform=s,^,Tarred/,", "new", "large"]
    subprocess.run(["tar", "-cf", "some.tar", *sources], cwd=directory, check=True)
    return {"T": str(directory)}


def prepare(account: Account) -> None:
    """What all scripts begin with, made by Dovecot."""
    for n in range(3):
        account.save(body(n))
    account.doveadm("flags add", r"\Seen $Label1", "mailbox", "INBOX", "uid", "2")
    for name in ("Work", "Old", "Old/Sub", "Empty", "Many"):
        account.doveadm("mailbox create", name)
    for number, name in enumerate(("Work", "Old", "Old/Sub")):
        account.save(body(11 + number), name)
    account.doveadm("copy", "Many", "mailbox", "INBOX")
    for _ in range(2):
        account.doveadm("copy", "Many", "mailbox", "Many")


def view(mnt: Path) -> set[tuple[str, int, bytes]]:
    """Mailbox, uid and text of every message, as the mount shows them."""
    found = set()
    for top, _, names in os.walk(mnt):
        for path in (Path(top, name) for name in names):
            uid = int(os.getxattr(path, "user.dbox.uid"))
            found.add((str(Path(top).relative_to(mnt)), uid, path.read_bytes()))
    return found


def names(mnt: Path) -> list[str]:
    """All that is listed."""
    return sorted(str(path.relative_to(mnt)) for path in mnt.rglob("*"))


def agrees(served: Served, account: Account, where: str, seconds: float = 2.0) -> None:
    """The mount shows what Dovecot has, at once or soon."""
    deadline = time.monotonic() + seconds
    while True:  # what was acknowledged and put off may still be carried out
        shown = contents(account)
        expected = {(name, uid, text) for name, rows in shown.items() for text, uid, _, _ in rows}
        found = view(served.mnt)
        if found == expected or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    missing, extra = sorted(expected - found), sorted(found - expected)
    assert found == expected, (
        f"{where}: the mount does not show {[(name, uid) for name, uid, _ in missing]}, "
        f"but shows {[(name, uid) for name, uid, _ in extra]}"
    )


@dataclass(frozen=True, slots=True)
class Made:
    """A change that was made once, undisturbed."""

    change: Change
    options: str
    template: Template
    on: list[str]
    mailboxes: tuple[list[str], list[str]]
    names: list[str]
    subscribed: list[str]

    def operation(self, nth: int) -> str:
        """What the nth operation is, for people."""
        return f"{nth} of {len(self.on)} ({self.template.operations[nth - 1]} {self.on[nth - 1]})"

    @property
    def changing(self) -> int:
        """How many of its operations change something."""
        return sum(kind in CHANGING.split() for kind in self.template.operations)


@dataclass(slots=True)
class Workshop:
    """Prepares stores, and makes each change once."""

    dovecot: Dovecot
    daemons: Daemons
    env: dict[str, str]
    _prepared: dict[str, Account] = field(default_factory=dict)

    def prepared(self, driver: str) -> Account:
        if driver not in self._prepared:
            account = self._prepared[driver] = self.dovecot.account(f"{driver}:{{home}}/mail")
            prepare(account)
        return self._prepared[driver]

    def make(self, change: Change, driver: str, options: str) -> Made:
        account = self.prepared(driver)
        before = contents(account)
        copy = clone(self.dovecot, account)
        with self.daemons.mounted(copy.location, options) as served:
            os.walk(served.mnt)
            served.plan()
            done = served.run(change.script, self.env)
            assert (done.returncode, done.stderr) == (0, b""), done
            operations, on = served.operations()
        after = contents(copy)
        with self.daemons.mounted(copy.location, options) as served:
            listed = names(served.mnt)
        first = {(name, row[0]): row[1:] for name, rows in before.items() for row in rows}
        last = {(name, row[0]): row[1:] for name, rows in after.items() for row in rows}
        kept = {key: row for key, row in first.items() if last.get(key) == row}
        template = Template(account, counted(before), counted(after), kept, (first, last), operations)
        mailboxes = account.mailboxes(), copy.mailboxes()
        return Made(change, options, template, on, mailboxes, listed, copy.subscriptions())

    def last_words(self, served: Served, extra: Counter[Key], name: str) -> Counter[Key]:
        """The next operation succeeds."""
        done = served.run(f"cp $T/last INBOX/{name}", self.env)
        assert (done.returncode, done.stderr) == (0, b""), done
        return extra + Counter([("INBOX", OTHER)])
