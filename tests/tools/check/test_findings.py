"""Each kind of damage is found, named, and told where it is; and nothing else is said."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.write import log_records
from dboxfs.tools.check import CheckOptions, Finding, Severity, check_store
from dboxfs.tools.check.advice import (
    DROPS_BEHIND,
    DROPS_DAMAGED,
    DROPS_FLAGS,
    DROPS_MISSING,
    REVIVES,
    recount,
    rescue_first,
    restore_first,
)
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import DBOXFS, dboxfs
from tests.store.write.stores import RESYNC, body, writing
from tests.tools.check.stores import DRIVERS, tree

Damage = Callable[[Path], object]

BOX = "mailboxes/INBOX/dbox-Mails"
LOG = f"{BOX}/dovecot.index.log"


def change(path: Path, at: int, data: bytes) -> None:
    old = path.read_bytes()
    path.write_bytes(old[:at] + data + old[at + len(data) :])


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def age(path: Path, seconds: int) -> None:
    path.write_bytes(b"x")
    then = time.time() - seconds
    os.utime(path, (then, then))


def new_size(path: Path) -> None:
    """Another V than the text has."""
    data = path.read_bytes()
    at = data.index(b"\nV", data.index(b"\n\x01\x03\n")) + 2
    change(path, at, b"9" if data[at : at + 1] != b"9" else b"8")


def new_guid(path: Path) -> None:
    data = path.read_bytes()
    at = data.index(b"\nG") + 2
    change(path, at, b"0" if data[at : at + 1] != b"0" else b"1")


def lose_indexes(directory: Path) -> None:
    for path in directory.rglob("dovecot.*index*"):
        path.unlink()


SINGLE: dict[str, tuple[Damage, set[str]]] = {
    "a file is missing": (lambda root: (root / BOX / "u.2").unlink(), {"no-file"}),
    "a file is cut": (lambda root: os.truncate(root / BOX / "u.2", 90), {"message-damaged"}),
    "a file is empty": (lambda root: os.truncate(root / BOX / "u.2", 0), {"file-header", "message-damaged"}),
    "a header is damaged": (lambda root: change(root / BOX / "u.2", 16, b"xx"), {"record-damaged"}),
    "a header line is damaged": (lambda root: change(root / BOX / "u.2", 0, b"x"), {"file-header"}),
    "a file goes on": (lambda root: append(root / BOX / "u.2", b"garbage"), {"garbage"}),
    "a size is wrong": (lambda root: new_size(root / BOX / "u.2"), {"message-doubtful"}),
    "a file without a record": (
        lambda root: shutil.copy(root / BOX / "u.2", root / BOX / "u.77"), {"no-record"},
    ),
    "no index": (lambda root: lose_indexes(root / BOX), {"no-index"}),
    "a damaged index": (lambda root: change(root / LOG, 30, b"xxxx" * 40), {"index-unreadable"}),
    "a log with a torn end": (lambda root: append(root / LOG, b"\x80\x80"), {"torn-log"}),
    "an old temporary file": (lambda root: age(root / BOX / ".temp.1.P2Q3M4.host", 200_000), {"temporary"}),
    "a new temporary file": (lambda root: age(root / BOX / ".temp.1.P2Q3M4.host", 5), set()),
    "an old lock": (lambda root: age(root / BOX / "dovecot.index.log.newlock", 500), {"stale-lock"}),
    "a copied mailbox": (
        lambda root: shutil.copytree(root / BOX, root / "mailboxes/Copy/dbox-Mails"),
        {"mailbox-guid"},
    ),
    "a renamed directory": (
        lambda root: (root / BOX).rename(root / "mailboxes/INBOX/old"), {"stray", "no-inbox"},
    ),
    "a mailbox that Dovecot takes for INBOX": (
        lambda root: (root / "mailboxes/Other").rename(root / "mailboxes/inbox"), {"hidden"},
    ),
    "a mailbox below such a one": (
        lambda root: shutil.move(root / "mailboxes/Other", root / "mailboxes/Inbox/Other"), {"hidden"},
    ),
    "no INBOX": (lambda root: shutil.rmtree(root / "mailboxes/INBOX"), {"no-inbox"}),
    "messages with one guid": (
        lambda root: twin(root), {"same-guid"},
    ),
}  # fmt: skip


def twin(root: Path) -> None:
    """The message of Other gets the guid of one in INBOX."""
    path = root / "mailboxes/Other/dbox-Mails/u.1"
    guid = (root / BOX / "u.2").read_bytes().split(b"\nG")[1][:32]
    data = path.read_bytes()
    change(path, data.index(b"\nG") + 2, guid)


MULTI: dict[str, tuple[Damage, set[str]]] = {
    "a file is missing": (lambda root: (root / "storage/m.1").unlink(), {"no-file"}),
    "a header is damaged": (lambda root: change(root / "storage/m.1", 16, b"xx"), {"record-damaged"}),
    "a header line is damaged": (lambda root: change(root / "storage/m.1", 0, b"x"), {"file-header"}),
    "a size is wrong": (lambda root: new_size(root / "storage/m.1"), {"message-doubtful"}),
    "a guid is wrong": (lambda root: new_guid(root / "storage/m.1"), {"guid"}),
    "a whole record without map": (
        lambda root: append(root / "storage/m.1", (root / "storage/m.1").read_bytes()[16:]), {"not-in-map"},
    ),
    "a torn record": (
        lambda root: append(root / "storage/m.1", (root / "storage/m.1").read_bytes()[16:90]), {"torn"},
    ),
    "garbage at the end": (lambda root: append(root / "storage/m.1", b"garbage"), {"garbage"}),
    "a file that the map doesn't have": (
        lambda root: shutil.copy(root / "storage/m.1", root / "storage/m.9"), {"not-in-map"},
    ),
    "no map": (lambda root: lose_indexes(root / "storage"), {"no-map"}),
    "no index at all": (lambda root: lose_indexes(root), {"no-map"}),
    "a mailbox that Dovecot takes for INBOX": (
        lambda root: (root / "mailboxes/Other").rename(root / "mailboxes/inbox"), {"hidden"},
    ),
    "a mailbox is gone": (
        lambda root: shutil.rmtree(root / "mailboxes/Other"),
        {"in-no-mailbox", "refcount-high", "no-mailbox"},
    ),
    "a copied mailbox": (
        lambda root: shutil.copytree(root / BOX, root / "mailboxes/Copy/dbox-Mails"),
        {"mailbox-guid", "refcount-low"},
    ),
    "a mailbox without an index": (
        lambda root: lose_indexes(root / BOX), {"in-no-mailbox", "refcount-high", "no-index"},
    ),
    "no INBOX": (
        lambda root: shutil.rmtree(root / "mailboxes/INBOX"), {"in-no-mailbox", "refcount-high", "no-inbox"},
    ),
    "no storage": (lambda root: shutil.rmtree(root / "storage"), {"other-format", "no-file"}),
}  # fmt: skip


async def findings(store: Path) -> list[Finding]:
    found: list[Finding] = []
    before = tree(store)
    async with FileSystem(ThreadsDriver()) as fs:
        location = parse_location(str(store), damaged=True)
        await check_store(fs, location, found.append, CheckOptions(patience=()))
    assert tree(store) == before
    return [finding for finding in found if finding.severity is not Severity.NOTE]


ADVICE = {
    "torn-log": "which may drop all changes in the log; a writable dboxfs mount drops the torn end only",
    "refcount-low": "don't expunge or purge before this is mended: ",
    "refcount-high": "it only costs space; to get that back, ",
    "same-guid": "both can be read; a program that goes by guid (dsync) may show one for the other",
    "highest-file-id": "let no program save mail before this is mended: ",
}


def small_account(dovecot: Dovecot, driver: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.doveadm("mailbox create", "Other")
    for number in range(3):
        account.save(body(number, 300))
    account.save(body(7, 2000), "Other")
    account.doveadm("copy", "Other", "mailbox", "INBOX", "uid", "3")
    return account


@pytest.fixture(scope="module")
def templates(dovecot_daemon: Dovecot) -> dict[str, Path]:
    return {driver: small_account(dovecot_daemon, driver).root for driver in DRIVERS}


@pytest.mark.parametrize(
    ("driver", "what"), [*(("sdbox", what) for what in SINGLE), *(("mdbox", what) for what in MULTI)]
)
async def test_damage_is_found_and_named(
    templates: dict[str, Path], tmp_path: Path, driver: str, what: str
) -> None:
    store = tmp_path / "mail"
    shutil.copytree(templates[driver], store)
    assert await findings(store) == []
    damage, codes = (SINGLE if driver == "sdbox" else MULTI)[what]
    damage(store)
    found = await findings(store)
    assert {finding.code for finding in found} == codes
    for finding in found:
        assert finding.path.startswith(str(store))
        assert_costs_in_order(finding.todo)
        assert "\n" not in finding.what
        assert finding.mailbox is None or finding.mailbox in finding.what
        assert ADVICE.get(finding.code, "") in finding.todo


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_message_that_is_looked_at_again_is_counted_once(
    templates: dict[str, Path], tmp_path: Path, driver: str
) -> None:
    store = tmp_path / "store"
    shutil.copytree(templates[driver], store)
    for path in (store / BOX / "u.2", store / "storage/m.1"):
        if path.exists():
            data = path.read_bytes()
            path.write_bytes(re.sub(rb"\nG[0-9a-f]{32}\n", b"\nX" + b"0" * 32 + b"\n", data, count=1))
    async with FileSystem(ThreadsDriver()) as fs:
        location = parse_location(f"{driver}:{store}")
        seen: list[list[Finding]] = []
        counts = []
        for patience in ((), (0.0, 0.0, 0.0)):
            seen.append([])
            done = await check_store(fs, location, seen[-1].append, CheckOptions(patience=patience))
            counts.append(done.messages)
    assert {one.code for one in seen[0]} == {one.code for one in seen[1]} != set()
    assert counts[0] == counts[1]


def assert_costs_in_order(todo: str) -> None:
    """Before anything that may lose mail the advice says what to do first, and then what it may lose."""
    assert todo
    before, resync, behind = todo.partition("doveadm force-resync")
    if resync:
        assert any(word in before for word in ("copy the store", "restore", "avoid")), todo
        assert ": it " in behind or "rescue or " in before, todo
    assert re.search(r"(?<!then )\bremove\b", before) is None, todo


def test_advice_is_in_the_order_of_what_it_can_cost() -> None:
    """A copy and what only reads first, what changes the store behind it, force-resync last, with what it
    drops.
    """
    drops = (DROPS_BEHIND, DROPS_DAMAGED, DROPS_MISSING, DROPS_FLAGS, REVIVES)
    for what in drops:
        for todo in (rescue_first(what), restore_first("u.7", what)):
            assert_costs_in_order(todo)
            said, _, cost = todo.partition("doveadm force-resync")
            assert cost.endswith(f": {what}"), todo
            assert said.startswith(("copy the store", "restore u.7 from a backup")), todo
    steps = ("copy the store", "dboxfs rescue", "doveadm force-resync")
    places = [rescue_first(DROPS_BEHIND).index(step) for step in steps]
    assert places == sorted(places)
    assert recount("counts").index("copy the store") < recount("counts").index("doveadm force-resync")


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_mailbox_inbox_in_other_letters_beside_INBOX_is_named(dovecot: Dovecot, driver: str) -> None:
    """Dovecot takes both for one, and shows nothing of the second one's mail."""
    account = small_account(dovecot, driver)
    (account.root / "mailboxes/Other").rename(account.root / "mailboxes/Inbox")
    assert [name for name in account.mailboxes() if name.upper() == "INBOX"] == ["INBOX"]
    assert len(account.fetch()) == 3  # those of INBOX alone
    (found,) = await findings(account.root)
    assert (found.code, found.severity) == ("hidden", Severity.ERROR)
    assert "Inbox" in found.what
    assert "rename the directory Inbox" in found.todo


@pytest.mark.parametrize("utf8", [False, True])
async def test_a_mailbox_is_called_as_people_read_it(dovecot: Dovecot, utf8: bool) -> None:
    account = dovecot.account(f"sdbox:{{home}}/mail{':UTF-8' if utf8 else ''}")
    account.doveadm("mailbox create", "Entwürfe")
    account.save(body(1), "Entwürfe")
    (box,) = [path for path in account.root.rglob("dbox-Mails") if path.parent.name.startswith("Entw")]
    (box / "u.1").unlink()
    age(box / ".temp.1.P2Q3M4.host", 200_000)
    done = dboxfs("check", "--unused", account.location)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("error", "warning"))]
    assert len(lines) == 2
    assert all("Entwürfe" in line.split(" (")[0] for line in lines), lines


def damage_sizes(path: Path) -> None:
    """The third record of a file has a size field that is no number."""
    data = path.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(b"\x01\x02N ", at)]
    change(path, starts[2] + 14, b"z" * 15)


@pytest.mark.expected_log(*RESYNC, "m.1.broken", "Corrupted dbox file")
async def test_what_a_repair_dropped_is_told_as_long_as_its_copy_is_there(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(body(number)) for number in range(8)])
    damage_sizes(account.root / "storage/m.1")
    (finding,) = await findings(account.root)
    assert (finding.code, finding.mailbox, finding.uid) == ("record-damaged", "INBOX", 3)
    first, second, third = finding.todo.split("; ")
    assert first.startswith("copy the store")
    assert second.startswith("dboxfs rescue")
    assert third.startswith("doveadm force-resync only at the very end: it can drop every message behind")
    account.force_resync("INBOX")
    left = len(account.fetch())
    (told,) = [one for one in await findings(account.root) if one.code == "broken-copy"]
    assert (told.count, told.path) == (8 - left, str(account.root / "storage/m.1.broken"))
    assert left == 2  # what the advice is about


async def test_a_copy_of_a_damaged_file_that_has_nothing_else_is_a_note(dovecot: Dovecot) -> None:
    account = small_account(dovecot, "sdbox")
    for name in ("u.2", "u.3"):
        path = account.root / BOX / name
        shutil.copy(path, path.with_name(f"{name}.broken"))
    assert await findings(account.root) == []
    (account.root / BOX / "u.3.broken").write_bytes((account.root / BOX / "u.1").read_bytes())
    assert await findings(account.root) == []
    new_guid(account.root / BOX / "u.3.broken")
    (told,) = await findings(account.root)
    assert (told.code, told.mailbox, told.count) == ("broken-copy", "INBOX", 1)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_log_that_lost_its_end_is_an_error_and_nothing_is_said_to_be_unimportant(
    dovecot: Dovecot, driver: str
) -> None:
    account = small_account(dovecot, driver)
    log = account.root / LOG
    size = log.stat().st_size
    os.truncate(log, size - 3)
    torn = [one for one in await findings(account.root) if one.code == "torn-log"]
    (finding,) = torn
    assert (finding.severity, finding.mailbox, finding.path) == (Severity.ERROR, "INBOX", str(log))
    assert finding.offset is not None
    assert finding.offset < size - 3
    assert "acknowledged messages" in finding.what
    assert finding.todo.startswith("copy the store")


async def test_a_map_that_a_dead_writer_left_is_found(dovecot: Dovecot) -> None:
    account = small_account(dovecot, "mdbox")
    async with writing(account.location) as writer, writer._work.map.locked() as index:
        await index.append(log_records.change_refcounts(index.state, [(1, 1)]))
    assert {finding.code for finding in await findings(account.root)} == {"map-tail", "refcount-high"}


async def test_the_map_of_another_store_is_found(dovecot: Dovecot) -> None:
    account = small_account(dovecot, "mdbox")
    time.sleep(1.1)  # a map is known by the second of its creation
    other = small_account(dovecot, "mdbox")
    shutil.rmtree(account.root / "storage")
    shutil.copytree(other.root / "storage", account.root / "storage")
    codes = {finding.code for finding in await findings(account.root)}
    assert codes == {"other-map", "guid"}


def test_the_command_says_what_and_where_and_what_to_do(dovecot: Dovecot) -> None:
    account = small_account(dovecot, "sdbox")
    (account.root / BOX / "u.2").unlink()
    done = dboxfs("check", "--unused", account.location)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    path = account.root / BOX / "u.2"
    assert lines[0] == f"error: INBOX/2: the index has this message, its file is missing ({path})"
    assert lines[1].startswith("    restore the file from a backup before any doveadm force-resync: it drops")
    assert lines[-1] == "1 errors, 0 warnings, 0 notes"
    done = dboxfs("check", "--unused", "--json", account.location)
    (finding, summary) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (finding["code"], finding["mailbox"], finding["uid"]) == ("no-file", "INBOX", 2)
    assert summary["summary"]["errors"] == 1


def test_what_cannot_be_checked_is_status_2(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    for store in (tmp_path / "mail", tmp_path / "nothing"):
        done = dboxfs("check", store)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
    assert dboxfs("check").returncode == 2


def test_progress_is_shown_on_a_terminal_only(dovecot: Dovecot) -> None:
    account = small_account(dovecot, "mdbox")
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [DBOXFS, "check", account.location], stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.stdout.decode().splitlines()[-1].startswith("0 errors, 0 warnings")
    assert dboxfs("check", account.location).stderr == ""


def test_an_index_or_inbox_elsewhere_is_named_as_the_cause(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail:INDEX={home}/index")
    account.save(body(1))
    done = dboxfs("check", "--unused", account.root)
    assert done.returncode == 1
    assert "\n    if the indexes lie elsewhere, give INDEX=DIR (Dovecot 2.4: mail_index_path)" in done.stdout
    assert dboxfs("check", "--unused", account.location).returncode == 0
    other = dovecot.account("sdbox:{home}/mail:INBOX={home}/inbox")
    other.save(body(1))
    other.doveadm("mailbox create", "Work")
    other.save(body(2), "Work")
    done = dboxfs("check", "--unused", other.root)
    assert done.returncode == 1
    assert "error: there is no INBOX" in done.stdout
    assert "    if it lies elsewhere, give INBOX=DIR (Dovecot 2.4: mail_inbox_path" in done.stdout
    assert dboxfs("check", "--unused", other.location).returncode == 0


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_empty_store_without_an_inbox_is_healthy(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.doveadm("mailbox create", "Work")
    assert await findings(account.root) == []
