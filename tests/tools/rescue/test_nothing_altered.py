"""A rescue gives nothing up that is there, and alters nothing that it saves."""

from __future__ import annotations

import base64
import gzip
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, parse_location
from dboxfs.store.write import Coded, NewMessage, StoreWriter
from dboxfs.tools.rescue import find_source
from dboxfs.tools.rescue.sources import WHOLE_TEXT, Texts
from tests.live.dovecot import Dovecot
from tests.live.mounts import dboxfs
from tests.store.salvage.files import HEADER, record
from tests.store.write.stores import RESYNC, everything
from tests.tools.check.stores import DRIVERS
from tests.tools.rescue.direct import ALONE, files, lines_of, make, rescue, shown
from tests.tools.rescue.rescued import rescue as rescue_for_dovecot

both = pytest.mark.parametrize("driver", DRIVERS)
TEXTS = [b"Subject: %d\n\nsome words\n" % number for number in range(4)]
LIKE_GZIP = b"\x1f\x8b begins like a compressed one\n"


def attached(root: Path, size: int) -> tuple[bytes, Path, Location]:
    """INBOX/2 of an sdbox gets an attachment of *size* bytes in a file of its own; gives its whole text."""
    raw = bytes(range(256)) * (size // 256)
    part = base64.b64encode(raw)
    before, behind = b"Subject: with an attachment\n\n", b"\n--end\n"
    location = replace(parse_location(str(root)), attachments=str(root.parent / "attachments"))
    guid = next((root / "mailboxes/INBOX/dbox-Mails").glob("dovecot.index.log")).read_bytes()
    assert guid
    ref = b"X%d %d B%d aa/bb/cc-dd\n" % (len(before), len(part), len(part) + 4 - len(part) % 4)
    whole = before + part + behind
    virtual = len(whole) + whole.count(b"\n")
    data = record(2, before + behind, extra=ref)
    data = data.replace(b"\nV%x\n" % (len(before + behind) + 4), b"\nV%x\nZ%x\n" % (virtual, len(whole)))
    (root / "mailboxes/INBOX/dbox-Mails/u.2").write_bytes(HEADER + data)
    directory = root.parent / "attachments/aa/bb"
    directory.mkdir(parents=True)
    return whole, directory, location


async def attachment_name(root: Path) -> str:
    """What the file of INBOX/2's attachment is called."""
    from dboxfs.store import open_store

    async with (
        FileSystem(ThreadsDriver()) as fs,
        open_store(fs, parse_location(str(root)), follow=False) as store,
    ):
        box = store.folders["INBOX"].mailbox
        assert box is not None
        assert box.guid is not None
        return f"cc-dd-{box.guid.hex()}-2"


@pytest.mark.parametrize("what", ["missing", "short", "unreadable"])
async def test_an_attachment_that_is_not_whole_costs_its_message_alone(tmp_path: Path, what: str) -> None:
    await make(tmp_path / "old", "sdbox", [NewMessage(text) for text in TEXTS])
    whole, directory, location = attached(tmp_path / "old", 3072)
    file = directory / await attachment_name(tmp_path / "old")
    raw = bytes(range(256)) * 12
    file.write_bytes(raw)
    healthy = await rescue(location, tmp_path / "healthy")
    assert (healthy.codes, (await shown(healthy.root))["INBOX"][2]) == ([], whole)
    file.unlink()
    if what == "short":
        file.write_bytes(raw[:300])
    if what == "unreadable":
        file.mkdir()
    done = await rescue(location, tmp_path / "new")
    assert (done.codes, done.events[0].uid) == (["damaged"], 2)
    assert str(file) in done.events[0].what
    assert (await shown(done.root))["INBOX"] == {1: TEXTS[0], 3: TEXTS[2], 4: TEXTS[3]}
    partly = await rescue(location, tmp_path / "partial", partial=True)
    there = base64.b64encode(raw[:300]) if what == "short" else b""
    (piece,) = (await shown(partly.root))["Rescued-Damaged"].values()
    assert piece == whole[: whole.index(b"\n\n") + 2] + there + b"\n--end\n"
    assert partly.rescued.damaged == 1
    unknown = await rescue(replace(location, attachments=None), tmp_path / "unknown")
    assert unknown.codes == ["refused"]
    assert "--attachments DIR" in unknown.events[0].what


async def test_a_text_that_fails_while_it_is_saved_costs_its_message_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(tmp_path / "old", "sdbox", [NewMessage(text) for text in TEXTS])
    _, directory, location = attached(tmp_path / "old", 2 * WHOLE_TEXT)
    (directory / await attachment_name(tmp_path / "old")).write_bytes(b"short")

    async def nothing(self: Texts, file: object, row: object) -> list[str]:
        return []

    monkeypatch.setattr(Texts, "missing", nothing)
    for kind in Kind:
        done = await rescue(location, tmp_path / kind.value, kind=kind)
        assert done.codes == ["damaged"]
        assert (await shown(done.root))["INBOX"] == {1: TEXTS[0], 3: TEXTS[2], 4: TEXTS[3]}


@both
async def test_a_text_that_begins_like_a_compressed_one_is_compressed_where_others_are(
    tmp_path: Path, driver: str
) -> None:
    compressed = gzip.compress(TEXTS[0], mtime=0)
    sizes = Coded(len(TEXTS[0]), len(TEXTS[0]) + TEXTS[0].count(b"\n"))
    twice = gzip.compress(LIKE_GZIP, mtime=0)
    messages = [
        NewMessage(compressed, coded=sizes),
        NewMessage(twice, coded=Coded(len(LIKE_GZIP), len(LIKE_GZIP) + 1)),
        NewMessage(LIKE_GZIP, coded=Coded(len(LIKE_GZIP), len(LIKE_GZIP) + 1)),  # as a Dovecot without plugin
    ]
    await make(tmp_path / "old", driver, messages)
    done = await rescue(tmp_path / "old", tmp_path / "new")
    assert done.codes == []
    assert (await shown(done.root))["INBOX"] == {1: TEXTS[0], 2: LIKE_GZIP, 3: LIKE_GZIP}
    assert lines_of(done.root, b"Z") == [b"%x" % len(LIKE_GZIP)] * 2
    data = b"".join(path.read_bytes() for path in files(done.root))
    assert LIKE_GZIP not in data
    without = [file for file in files(tmp_path / "old") if driver == "sdbox" and file.name != "u.3"]
    if driver == "sdbox":
        for file in without:
            file.write_bytes(HEADER + record(0, b"plain\n"))
        kept = await rescue(tmp_path / "old", tmp_path / "kept")
        assert (await shown(kept.root))["INBOX"][3] == LIKE_GZIP
        assert b"\n" + LIKE_GZIP in (kept.root / "mailboxes/INBOX/dbox-Mails/u.3").read_bytes()


@both
async def test_guids_of_any_text_are_kept(tmp_path: Path, driver: str) -> None:
    names = [b"1234.M5P6.host,S=7", b"ABCDEF00112233445566778899AABBCC", b"x" * 300]
    await make(tmp_path / "old", driver, [NewMessage(TEXTS[0], guid_text=name) for name in names])
    done = await rescue(tmp_path / "old", tmp_path / "new")
    assert done.codes == []
    assert lines_of(done.root, b"G") == names


@both
async def test_encrypted_messages_are_kept_to_the_byte_with_their_sizes(tmp_path: Path, driver: str) -> None:
    secret = b"CRYPTED\x03\x07" + bytes(range(256)) * 3
    await make(tmp_path / "old", driver, [NewMessage(secret, coded=Coded(500, 520)), NewMessage(TEXTS[0])])
    done = await rescue(tmp_path / "old", tmp_path / "new")
    assert done.codes == []
    assert lines_of(done.root, b"Z") == [b"%x" % 500]
    assert lines_of(done.root, b"V")[0] == b"%x" % 520
    assert any(secret in path.read_bytes() for path in files(done.root))


@both
def test_the_new_store_belongs_to_whom_the_old_one_does(tmp_path: Path, driver: str) -> None:
    assert dboxfs("init", tmp_path / "old", "--format", driver).returncode == 0
    (tmp_path / "old").chmod(0o2750)
    for directory, _, names in os.walk(tmp_path / "old"):
        for path in (directory, *(os.path.join(directory, name) for name in names)):
            os.chown(path, 12345, 23456)
    done = dboxfs("rescue", tmp_path / "old", tmp_path / "new")
    assert done.returncode == 0
    for directory, _, names in os.walk(tmp_path / "new"):
        for path in (directory, *(os.path.join(directory, name) for name in names)):
            assert (os.stat(path).st_uid, os.stat(path).st_gid) == (12345, 23456), path
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o2750
    assert f"mail_location = {driver}:{tmp_path}/new" in done.stdout
    assert f"mail_path = {tmp_path}/new" in done.stdout


@pytest.mark.parametrize("what", ["m.N", "u.N", "storage", "u.N.broken"])
async def test_message_files_without_a_store_around_them_are_rescued(tmp_path: Path, what: str) -> None:
    driver = "sdbox" if what.startswith("u.N") else "mdbox"
    await make(tmp_path / "old", driver, [NewMessage(text) for text in TEXTS])
    loose = tmp_path / "loose"
    loose.mkdir()
    for file in files(tmp_path / "old"):
        shutil.copy(file, loose / (file.name + (".broken" if what.endswith("broken") else "")))
    if what == "storage":
        for file in (tmp_path / "old/storage").glob("dovecot.map*"):
            shutil.copy(file, loose)
    done = await rescue(
        find_source(lambda: parse_location(str(loose), damaged=True), str(loose)), tmp_path / "new"
    )
    assert sorted((await shown(done.root))["INBOX"].values()) == TEXTS
    assert not done.rescued.complete
    assert done.rescued.messages == len(TEXTS)


def test_files_of_both_formats_in_one_directory_are_refused_with_one_line(tmp_path: Path) -> None:
    for name in ("m.1", "u.1"):
        (tmp_path / name).write_bytes(HEADER)
    done = dboxfs("rescue", tmp_path, tmp_path.parent / "new")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "both formats" in done.stderr


@both
async def test_the_text_of_an_incomplete_message_ends_before_the_zeros_behind_it(
    tmp_path: Path, driver: str
) -> None:
    await make(tmp_path / "old", driver, [NewMessage(text) for text in TEXTS])
    path = files(tmp_path / "old")[-1]
    data = path.read_bytes()
    at = data.index(TEXTS[3])
    for name, kept in (("metadata", len(TEXTS[3])), ("text", 10)):
        path.write_bytes(data[: at + kept] + bytes(100_000))
        done = await rescue(tmp_path / "old", tmp_path / name, partial=True)
        assert list((await shown(done.root))["Rescued-Damaged"].values()) == [TEXTS[3][:kept]]
    if driver == "mdbox":  # the message behind is damaged, too, but for its metadata
        at, behind = data.index(TEXTS[2]), data.index(TEXTS[3])
        size = len(TEXTS[2])
        path.write_bytes(data[: at + size] + bytes(behind + 5 - at - size) + data[behind + 5 :])
        done = await rescue(tmp_path / "old", tmp_path / "both", partial=True)
        assert TEXTS[2] in (await shown(done.root))["Rescued-Damaged"].values()


async def moved(root: Path, *lost: str) -> None:
    """A store whose first message was moved from INBOX to Work; the indexes of *lost* are gone."""
    await make(root, "mdbox", [NewMessage(text) for text in TEXTS], "Work", "Other")
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, parse_location(str(root)), os.stat(root), ALONE)
        await writer.move("INBOX", [1], "Work")
    for name in lost:
        for path in (root / "mailboxes" / name / "dbox-Mails").glob("dovecot.index*"):
            path.unlink()


async def test_a_moved_message_does_not_go_back_to_a_mailbox_whose_index_does_not_list_it(
    tmp_path: Path,
) -> None:
    await moved(tmp_path / "one", "Work")
    done = await rescue(tmp_path / "one", tmp_path / "new")
    assert await shown(done.root) == {
        "INBOX": {2: TEXTS[1], 3: TEXTS[2], 4: TEXTS[3]}, "Work": {1: TEXTS[0]}, "Other": {},
    }  # fmt: skip
    assert "it goes to Work" in next(e.what for e in done.events if e.code == "unplaced")
    await moved(tmp_path / "two", "Work", "Other")
    done = await rescue(tmp_path / "two", tmp_path / "unknown")
    found = await shown(done.root)
    assert list(found["Rescued-Unplaced"].values()) == [TEXTS[0]]
    assert (list(found["INBOX"]), found["Work"], found["Other"]) == ([2, 3, 4], {}, {})
    await moved(tmp_path / "home", "INBOX", "Work")
    found = await shown((await rescue(tmp_path / "home", tmp_path / "back")).root)
    assert sorted(found["INBOX"].values()) == TEXTS


async def test_the_mailbox_of_the_first_save_is_kept(tmp_path: Path) -> None:
    await moved(tmp_path / "old")
    done = await rescue(tmp_path / "old", tmp_path / "new")
    assert (done.codes, len((await shown(done.root))["Work"])) == ([], 1)
    assert lines_of(done.root, b"B") == [b"INBOX"] * 4


@both
async def test_names_that_messages_were_written_under_are_kept(tmp_path: Path, driver: str) -> None:
    await make(tmp_path / "old", driver, [NewMessage(text) for text in TEXTS])
    directory = tmp_path / "old/dboxfs-names"
    directory.mkdir()
    name = (await attachment_name(tmp_path / "old")).split("-")[2]
    (directory / name).write_bytes(b"whatever is in it\n")
    (directory / ("0" * 32)).write_bytes(b"of no mailbox\n")
    done = await rescue(tmp_path / "old", tmp_path / "new")
    assert done.codes == []
    assert [path.name for path in (done.root / "dboxfs-names").iterdir()] == [name]
    assert (done.root / "dboxfs-names" / name).read_bytes() == b"whatever is in it\n"


async def test_messages_that_an_older_index_does_not_have_get_a_uid_each_and_the_names_are_kept(
    tmp_path: Path,
) -> None:
    old = tmp_path / "old"
    await make(old, "mdbox", [NewMessage(text) for text in TEXTS[:2]])
    box = old / "mailboxes/INBOX/dbox-Mails"
    before = {path: path.read_bytes() for path in box.glob("dovecot.index*")}
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, parse_location(str(old)), os.stat(old), ALONE)
        await writer.save("INBOX", [NewMessage(text) for text in TEXTS[2:]])
    for path in box.glob("dovecot.index*"):
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)
    (old / "dboxfs-names").mkdir()
    name = (await attachment_name(old)).split("-")[2]
    (old / "dboxfs-names" / name).write_bytes(b"whatever is in it\n")
    done = await rescue(old, tmp_path / "new")
    found = (await shown(done.root))["INBOX"]
    assert (sorted(found), sorted(found.values())) == ([1, 2, 3, 4], sorted(TEXTS))
    assert [path.name for path in (done.root / "dboxfs-names").iterdir()] == [name]


@both
async def test_a_message_that_is_in_a_file_put_aside_too_is_taken_once(tmp_path: Path, driver: str) -> None:
    await make(tmp_path / "old", driver, [NewMessage(text) for text in TEXTS])
    for path in files(tmp_path / "old"):
        shutil.copy(path, f"{path}.broken")
    done = await rescue(tmp_path / "old", tmp_path / "new")
    assert (done.codes, done.rescued.complete) == ([], True)
    assert (await shown(done.root))["INBOX"] == dict(enumerate(TEXTS, 1))
    for path in files(tmp_path / "old"):
        path.unlink()
    done = await rescue(tmp_path / "old", tmp_path / "aside")
    assert done.codes == ["put-aside"] * 4
    assert (await shown(done.root))["INBOX"] == dict(enumerate(TEXTS, 1))


async def test_of_two_messages_with_one_uid_both_are_kept(tmp_path: Path) -> None:
    await make(tmp_path / "old", "sdbox", [NewMessage(text) for text in TEXTS])
    box = tmp_path / "old/mailboxes/INBOX/dbox-Mails"
    (box / "u.2.broken").write_bytes(HEADER + record(7, b"Subject: another\n\n"))
    (box / "u.3.broken").write_bytes((box / "u.3").read_bytes()[:60])
    done = await rescue(tmp_path / "old", tmp_path / "new")
    assert (await shown(done.root))["INBOX"] == {
        **dict(enumerate(TEXTS, 1)), 5: b"Subject: another\n\n",
    }  # fmt: skip
    assert done.rescued.unplaced == 1
    assert not done.rescued.complete


@pytest.mark.expected_log(*RESYNC, "Corrupted dbox file", "Copy of the broken file saved")
def test_what_force_resync_has_dropped_comes_back_from_the_file_that_it_put_aside(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    for text in TEXTS * 2:
        account.save(text)
    path = account.root / "storage/m.1"
    data = bytearray(path.read_bytes())
    at = data.rindex(b"\x01\x02N", 0, data.index(TEXTS[2]))
    data[at + 14 : at + 29] = b"z" * 15
    path.write_bytes(data)
    account.doveadm("force-resync", "*")
    left = everything(account)["INBOX"].texts
    assert len(left) < len(TEXTS * 2)
    done = rescue_for_dovecot(dovecot, account.location, "mdbox")
    assert done.status == 1
    found = sorted(text for shown in everything(done.account).values() for text in shown.texts)
    assert found == sorted(TEXTS * 2)


def test_mailboxes_are_told_by_the_names_that_people_know(tmp_path: Path) -> None:
    assert dboxfs("init", tmp_path / "old", "--format", "sdbox").returncode == 0
    box = tmp_path / "old/mailboxes/Entw&APw-rfe/dbox-Mails"
    box.mkdir(parents=True)
    (box / "u.1").write_bytes(HEADER + record(1, TEXTS[0])[:60])
    done = dboxfs("rescue", tmp_path / "old", tmp_path / "new")
    assert done.returncode == 1
    assert "Entwürfe" in done.stdout
    assert "&APw-" not in done.stdout.replace(str(box), "")


_IMPOSSIBLE = (
    b"x" * 5000, b"../../up", b"a//b", b"/", b".", b"a/dbox-Mails", b"inbox", b"\xff\0", b"&bad", b"\r",
)  # fmt: skip


@pytest.mark.parametrize("name", _IMPOSSIBLE, ids=lambda name: repr(name[:12]))
async def test_a_mailbox_name_that_can_not_be_costs_no_message(tmp_path: Path, name: bytes) -> None:
    stand_in = b"Q" * len(name)  # some of these names our writer refuses: others may have written them
    await make(tmp_path / "old", "mdbox", [NewMessage(text, orig_mailbox=stand_in) for text in TEXTS])
    for path in (tmp_path / "old" / "storage").glob("m.*"):
        data = path.read_bytes()
        assert data.count(b"\nB" + stand_in + b"\n") > 0
        path.write_bytes(data.replace(b"\nB" + stand_in + b"\n", b"\nB" + name + b"\n"))
    for path in (tmp_path / "old").rglob("dovecot*index*"):
        path.unlink()
    done = await rescue(tmp_path / "old", tmp_path / "new")
    found = await shown(done.root)
    assert sorted(text for texts in found.values() for text in texts.values()) == TEXTS
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]
    assert "inbox" not in found
