"""Whatever a reader refuses, check calls an error, and names its mailbox and uid."""

from __future__ import annotations

import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.write import Fsync, Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.tools.check import CheckOptions, Finding, Severity, check_store
from tests.damage.mutations import mutate
from tests.store.write.stores import body
from tests.tools.check.stores import DRIVERS

SEEDS = range(24)
BOX = "mailboxes/INBOX/dbox-Mails"
GROUPED = re.compile(r"(?:messages of (?P<box>\S+) are in it: uid) (?P<uids>[0-9:,]+)")


async def make_store(root: Path, driver: str, version: int = 2) -> Location:
    """INBOX with six messages, two of them copied to Work."""
    location = Location(Kind(driver), str(root))
    options = WriteOptions(Neighbour.ALONE, Fsync.NEVER, dbox_version=version, rotate_size=4096)
    async with FileSystem(ThreadsDriver()) as fs:
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, root.stat(), options)
        await writer.create_mailbox("Work")
        saved = await writer.save("INBOX", [NewMessage(body(number, 600)) for number in range(6)])
        await writer.copy("INBOX", saved.uids[1:3], "Work")
    return location


async def check(location: Location, *, texts: bool = True) -> list[Finding]:
    found: list[Finding] = []
    async with FileSystem(ThreadsDriver()) as fs:
        await check_store(fs, location, found.append, CheckOptions(texts=texts, patience=()))
    return found


async def refused(location: Location) -> set[tuple[str, int]]:
    """Every message that the store lists and a reader can't read to its end."""
    bad = set()
    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
        for name, folder in store.folders.items():
            box = folder.mailbox
            for uid in box.uids.tolist() if box is not None else ():
                assert box is not None
                try:
                    facts = await box.facts_of(uid)
                    message = await box.open(uid)
                    try:
                        assert len(await message.read(message.size, 0)) == message.size
                    finally:
                        message.close()
                    if facts.damaged:
                        bad.add((name, uid))
                except (DboxfsError, OSError):
                    bad.add((name, uid))
    return bad


def named(findings: list[Finding]) -> set[tuple[str, int]]:
    """The messages that errors are about."""
    found: set[tuple[str, int]] = set()
    for finding in findings:
        if finding.severity is not Severity.ERROR:
            continue
        found |= {(box, int(uid)) for box, uid in re.findall(r"(\w+)/(\d+)(?=[:,])", finding.what)}
        grouped = GROUPED.search(finding.what)
        if grouped is None:
            continue
        for run in grouped["uids"].split(","):
            first, _, last = run.partition(":")
            found |= {(grouped["box"], uid) for uid in range(int(first), int(last or first) + 1)}
    return found


@pytest.mark.expected_log("")
@pytest.mark.parametrize(("driver", "version"), [(driver, v) for driver in DRIVERS for v in (2, 3)])
async def test_what_a_mount_cannot_read_is_an_error_with_mailbox_and_uid(
    tmp_path: Path, driver: str, version: int
) -> None:
    await make_store(tmp_path / "template", driver, version)
    refusals = 0
    for seed in SEEDS:
        root = tmp_path / f"store{seed}"
        shutil.copytree(tmp_path / "template", root, symlinks=True)
        what = f"seed {seed}: {'; '.join(mutate(root, seed))}"
        location = Location(Kind(driver), str(root))
        findings = await check(location)
        unread = {finding.mailbox for finding in findings if finding.code == "index-unreadable"}
        bad = {one for one in await refused(location) if one[0] not in unread and None not in unread}
        codes = {finding.code for finding in findings if finding.severity is Severity.ERROR}
        refusals += len(bad)
        if "no-map" not in codes:
            assert bad <= named(findings), what
        else:
            assert bad, what
        shutil.rmtree(root)
    assert refusals > 8


def another_header_size(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"M1e ", b"M3e ", 1))


@pytest.mark.expected_log("")
@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_wrong_header_size_in_the_file_header_is_an_error_of_every_message(
    tmp_path: Path, driver: str, texts: bool
) -> None:
    location = await make_store(tmp_path / "mail", driver)
    paths = list((tmp_path / "mail").rglob("[um].[0-9]*"))
    for path in paths:
        another_header_size(path)
    findings = await check(location, texts=texts)
    everything = {("INBOX", uid) for uid in range(1, 7)} | {("Work", 1), ("Work", 2)}
    assert await refused(location) == everything == named(findings)
    assert {finding.code for finding in findings} == {"file-header"}
    assert all("M3e" in finding.what for finding in findings)


def compressed(path: Path, claim: int) -> None:
    """The message of *path* compressed, and a Z that is *claim* bytes off."""
    data = path.read_bytes()
    head, rest = data.split(b"\n", 1)
    size = int(rest[13:29], 16)
    text, meta = rest[30 : 30 + size], rest[30 + size :]
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(text) + packer.flush()
    meta = meta.replace(b"\n\x01\x03\n", b"\n\x01\x03\nZ%x\n" % (size + claim), 1)
    path.write_bytes(head + b"\n" + rest[:13] + b"%016X\n" % len(packed) + packed + meta)


@pytest.mark.expected_log("")
@pytest.mark.parametrize("claim", [-3, 3])
async def test_a_wrong_plain_size_of_a_compressed_message_is_an_error(tmp_path: Path, claim: int) -> None:
    location = await make_store(tmp_path / "mail", "sdbox")
    compressed(tmp_path / "mail" / BOX / "u.2", 0)
    assert await check(location) == []
    compressed(tmp_path / "mail" / BOX / "u.4", claim)
    (finding,) = await check(location)
    assert (finding.severity, finding.mailbox, finding.uid) == (Severity.ERROR, "INBOX", 4)
    assert "it can't be read" in finding.what
    assert await refused(location) == {("INBOX", 4)}


@pytest.mark.expected_log("")
async def test_a_missing_storage_file_names_mailboxes_and_uids(tmp_path: Path) -> None:
    location = await make_store(tmp_path / "mail", "mdbox")
    (tmp_path / "mail/storage/m.1").unlink()
    findings = await check(location)
    assert {finding.code for finding in findings} == {"no-file"}
    assert {finding.mailbox for finding in findings} == {"INBOX", "Work"}
    assert sum(finding.count for finding in findings) == len(named(findings)) > 2
    assert named(findings) == await refused(location)


@pytest.mark.expected_log("")
@pytest.mark.parametrize("driver", DRIVERS)
async def test_many_findings_of_a_kind_are_few_lines_and_name_every_uid(tmp_path: Path, driver: str) -> None:
    location = Location(Kind(driver), str(tmp_path / "mail"))
    options = WriteOptions(Neighbour.ALONE, Fsync.NEVER)
    async with FileSystem(ThreadsDriver()) as fs:
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, (tmp_path / "mail").stat(), options)
        await writer.save("INBOX", [NewMessage(body(number)) for number in range(250)])
    for path in (tmp_path / "mail").rglob("[um].[0-9]*"):
        path.unlink()
    findings = await check(location)
    assert {finding.code for finding in findings} == {"no-file"}
    assert len(findings) == (101 if driver == "sdbox" else 1)
    assert sum(finding.count for finding in findings) == 250
    assert findings[-1].what.endswith("uid 101:250" if driver == "sdbox" else "uid 1:250")


@pytest.mark.parametrize(("driver", "messages"), [("sdbox", 8), ("mdbox", 6)])
async def test_a_check_tells_how_far_it_is_and_of_how_many_messages(
    tmp_path: Path, driver: str, messages: int
) -> None:
    location = await make_store(tmp_path / "mail", driver)
    told: list[tuple[int, int, int]] = []
    async with FileSystem(ThreadsDriver()) as fs:
        await check_store(
            fs, location, lambda finding: None, CheckOptions(patience=()), lambda *far: told.append(far)
        )
    assert {of for _, of, _ in told} == {messages}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][0] <= messages


async def test_an_alternative_storage_that_is_not_mounted_is_named(tmp_path: Path) -> None:
    location = replace(await make_store(tmp_path / "mail", "sdbox"), alt=str(tmp_path / "alt"))
    (note,) = await check(location)
    assert (note.severity, note.code, note.path) == (Severity.NOTE, "no-alt", str(tmp_path / "alt"))
