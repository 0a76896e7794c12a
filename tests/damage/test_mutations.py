"""Stores of Dovecot's, damaged by chance: check and rescue.

Check reports and never writes, crashes or hangs; rescue finds every message whose record is whole, and
everything that Dovecot's own repair finds.  ``DBOXFS_MUTATIONS=300`` runs that many seeds instead of the few
of the suite; ``DBOXFS_RESYNCS`` says how many of them Dovecot repairs too.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, parse_location
from dboxfs.store.write import Fsync, Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.tools.check import CheckOptions, Finding, Severity, check_store
from dboxfs.tools.rescue import Event, RescueOptions, rescue_store
from tests.damage.mutations import mutate
from tests.live import corpus
from tests.live.dovecot import Account, DoveadmError, Dovecot
from tests.store.write.stores import body, everything
from tests.tools.check.stores import DRIVERS, tree
from tests.tools.rescue.rescued import hand_over

T = TypeVar("T")

SEEDS = int(os.environ.get("DBOXFS_MUTATIONS", "40"))
RESYNCS = int(os.environ.get("DBOXFS_RESYNCS", "4"))
PATIENCE = 60.0
FAST = WriteOptions(neighbour=Neighbour.ALONE, fsync=Fsync.NEVER)


@dataclass(frozen=True, slots=True)
class Original:
    """A message as it was: what Dovecot shows of it, and the bytes of its record."""

    guid: str
    text: bytes
    record: bytes


@dataclass(frozen=True, slots=True)
class Template:
    """A store that was never damaged.  ``expunged``: guids of messages that wait for a purge."""

    root: Path
    driver: str
    messages: tuple[Original, ...]
    expunged: frozenset[str]

    def whole(self, root: Path) -> list[Original]:
        """The messages whose record is still there, byte for byte, in the damaged store at *root*."""
        files = [path.read_bytes() for path in root.rglob("[um].*") if re.fullmatch(r"[um]\.\d+", path.name)]
        if self.driver == "mdbox":
            return [one for one in self.messages if any(one.record in data for data in files)]
        return [one for one in self.messages if any(0 <= data.find(one.record) < 512 for data in files)]


def make_template(dovecot: Dovecot, driver: str) -> Template:
    account = dovecot.account(f"{driver}:{{home}}/mail", mdbox_rotate_size="32k")
    account.append(corpus.with_flags(dict(list(corpus.real().items())[:16])))
    nasty = corpus.nasty()
    names = ("metadata-block", "record-header", "dbox-file", "starts-with-record-header", "mixed-line-ends")
    for name in names:
        account.save(nasty[name])
    account.doveadm("mailbox create", "Work/Sub", "Other")
    account.doveadm("copy", "Work/Sub", "mailbox", "INBOX", "uid", "1:6")
    account.doveadm("move", "Other", "mailbox", "INBOX", "uid", "7:9")
    gone = [message.guid for message in account.fetch("INBOX", "uid 10:12")]
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "10:12")
    for number in range(6):
        account.save(body(number, 700), "Other")
    files = [path.read_bytes() for path in account.root.rglob("[um].*")]
    shown = everything(account)
    messages = {m.guid: m.text for box in shown.values() for m in box.messages}
    found = [Original(guid, text, _record(files, text, guid)) for guid, text in messages.items()]
    return Template(account.root, driver, tuple(found), frozenset(gone) - messages.keys())


def _record(files: list[bytes], text: bytes, guid: str) -> bytes:
    """The bytes of a record: dbox-files section 1."""
    for data in files:
        at = -1
        while (at := data.find(b"%016X\n%s\n\x01\x03\n" % (len(text), text), at + 1)) >= 0:
            end = data.index(b"\n\n", at + 17 + len(text)) + 2
            if b"G" + guid.encode() in data[at:end]:
                return data[at - 13 : end]
    raise AssertionError(f"no record of {guid}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What check and rescue said; the new store is an sdbox, so that its files can be looked at directly."""

    findings: list[Finding]
    events: list[Event]
    texts: dict[str, set[bytes]]
    pieces: list[bytes]


async def examine(store: Path, target: Path) -> Outcome:
    location = parse_location(str(store), damaged=True)
    findings: list[Finding] = []
    events: list[Event] = []
    before = tree(store)
    with trio.fail_after(PATIENCE):
        async with FileSystem(ThreadsDriver()) as fs:
            await check_store(fs, location, findings.append, CheckOptions(patience=()))
            assert tree(store) == before
            options = RescueOptions(Kind.SDBOX, 2, partial=True, writing=FAST)
            await rescue_store(fs, location, str(target), options, events.append)
            assert tree(store) == before
    texts: dict[str, set[bytes]] = {}
    pieces = []
    for path in target.rglob("u.*"):
        data = path.read_bytes()
        size = int(data[29:45], 16)
        match = re.search(
            rb"\nG([^\n]+)\n", data[46 + size :]
        )  # a damaged one is kept as the text that it is
        assert match is not None
        pieces.append(data[46 : 46 + size])
        if "Rescued-Damaged" not in path.parts:
            texts.setdefault(match[1].decode("latin-1"), set()).add(pieces[-1])
    return Outcome(findings, events, texts, pieces)


def assert_found(outcome: Outcome, whole: list[Original], what: str) -> None:
    for one in whole:
        assert one.guid in outcome.texts or one.text in outcome.pieces, f"{what}: {one.guid} is missing"
        if one.guid in outcome.texts:
            assert one.text in outcome.texts[one.guid], f"{what}: {one.guid} is another text"
    bad = {event.code for event in outcome.events} & {"damaged", "lost", "index-lost", "unreadable"}
    loud = [f for f in outcome.findings if f.severity is not Severity.NOTE]
    assert not bad or loud, f"{what}: check has nothing to say, rescue lost something"


def assert_dovecot_finds_no_more(account: Account, template: Template, outcome: Outcome, what: str) -> None:
    """Whatever Dovecot can show after its repair, rescue has, or the piece that Dovecot has of it.

    But not what Dovecot brings back although it was expunged: repairing a file it forgets what the map says.
    """
    for name in patiently(account.mailboxes) or []:
        patiently(partial(account.force_resync, name))
    for name in patiently(account.mailboxes) or []:
        for uid, guid in shown_guids(account, name):
            if guid in outcome.texts or guid in template.expunged:
                continue
            text = patiently(partial(account.fetch_body, name, uid))
            if text is None or not text.strip(b"\0"):
                continue  # Dovecot lists it, but can't show it either
            there = any(text in piece or piece in text for piece in outcome.pieces if piece)
            assert there, f"{what}: Dovecot has {name} {uid} {guid}"


def shown_guids(account: Account, name: str) -> list[tuple[int, str]]:
    """uid and guid of every message that Dovecot can open."""
    pattern = r"uid: (\d+)\nguid: (\S+)"
    uids = patiently(partial(account.doveadm, "fetch", "--", "uid", "mailbox", name, "all"))
    found = []
    for uid in re.findall(r"uid: (\d+)", (uids or b"").decode("utf-8", "replace")):
        search = ("mailbox", name, "uid", uid)
        listed = patiently(partial(account.doveadm, "fetch", "--", "uid guid", *search))
        found += [
            (int(one), guid) for one, guid in re.findall(pattern, (listed or b"").decode("utf-8", "replace"))
        ]
    return found


def patiently(ask: Callable[[], T]) -> T | None:
    """Ask a Dovecot that repairs what it stumbles over: again, if it failed; None: it can't."""
    for _ in range(4):
        try:
            return ask()
        except (DoveadmError, ValueError):
            continue
    return None


async def make_template3(root: Path, driver: str) -> Template:
    """The same in version 3, which no Dovecot can read; made by dboxfs."""
    nasty = corpus.nasty()
    names = ("metadata-block", "dbox-file", "starts-with-record-header", "mixed-line-ends", "all-bytes")
    texts = [*list(corpus.real().values())[:14], *(nasty[name] for name in names)]
    options = WriteOptions(Neighbour.ALONE, Fsync.NEVER, dbox_version=3, rotate_size=32 << 10)
    location = Location(Kind(driver), str(root))
    async with FileSystem(ThreadsDriver()) as fs:
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, root.stat(), options)
        await writer.create_mailbox("Other")
        saved = await writer.save("INBOX", [NewMessage(text) for text in texts])
        await writer.save("Other", [NewMessage(body(number, 700)) for number in range(6)])
        await writer.copy("INBOX", saved.uids[:4], "Other")
    files = [path.read_bytes() for path in root.rglob("[um].*")]
    found = [
        Original(guid.hex(), text, _record3(files, text, guid.hex()))
        for guid, text in zip(saved.guids, texts, strict=True)
    ]
    return Template(root, driver, tuple(found), frozenset())


def _record3(files: list[bytes], text: bytes, guid: str) -> bytes:
    """The bytes of a record of version 3 (dbox/FORMAT3.md)."""
    for data in files:
        at = -1
        while (at := data.find(text, at + 1)) >= 0:
            separator = data[at - 17 : at - 1]
            if not data.startswith(b"\x01\x03" + separator, at + len(text)):
                continue
            end = data.index(b"\n\n", at + len(text) + 34) + 2
            if b"G" + guid.encode() in data[at + len(text) : end]:
                return data[at - 19 : end]
    raise AssertionError(f"no record of {guid}")


@pytest.mark.parametrize("driver", DRIVERS)
async def test_whatever_is_whole_of_version_3_is_found(tmp_path: Path, driver: str) -> None:
    template = await make_template3(tmp_path / "template", driver)
    for seed in range(0, SEEDS, 4):
        store, target = tmp_path / f"store{seed}", tmp_path / f"new{seed}"
        shutil.copytree(template.root, store, symlinks=True)
        what = f"seed {seed}, {driver} of version 3: {'; '.join(mutate(store, seed))}"
        outcome = await examine(store, target)
        assert_found(outcome, template.whole(store), what)
        shutil.rmtree(store)
        shutil.rmtree(target)


@pytest.fixture(scope="module")
def templates(dovecot_daemon: Dovecot) -> dict[str, Template]:
    return {driver: make_template(dovecot_daemon, driver) for driver in DRIVERS}


@pytest.mark.expected_log("")
@pytest.mark.parametrize("seeds", [range(at, min(at + 10, SEEDS)) for at in range(0, SEEDS, 10)], ids=str)
async def test_whatever_is_whole_is_found(
    dovecot: Dovecot, templates: dict[str, Template], tmp_path: Path, seeds: range
) -> None:
    for seed in seeds:
        template = templates[DRIVERS[seed % 2]]
        account = dovecot.account(f"{template.driver}:{{home}}/mail")
        shutil.copytree(template.root, account.root, symlinks=True)
        what = f"seed {seed}, {template.driver}: {'; '.join(mutate(account.root, seed))}"
        outcome = await examine(account.root, tmp_path / f"new{seed}")
        assert_found(outcome, template.whole(account.root), what)
        if seed < RESYNCS:
            hand_over(dovecot, account.root)
            assert_dovecot_finds_no_more(account, template, outcome, what)
        shutil.rmtree(account.root)
        shutil.rmtree(tmp_path / f"new{seed}")
