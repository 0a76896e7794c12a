"""Names in files: whatever operation a writer dies at, each name means what it did or what it was to mean."""

from __future__ import annotations

import copy
import errno
import shutil
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dboxfs.fsapi import Driver, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.store import Delta, Folder, Listener, Location, Store
from dboxfs.store import Kind as Format
from dboxfs.store.names import of_mailbox as names_module
from dboxfs.store.names.codec import Line, LineKind, encode_line
from dboxfs.store.names.files import NameFiles
from dboxfs.store.names.of_mailbox import There
from dboxfs.store.names.read import NameReader, Writers
from dboxfs.store.names.table import WrittenNames
from dboxfs.store.write import NewMessage, StoreWriter, Superseded, Wanted, WriteOptions, init_store
from dboxfs.store.write.meaning import called as only_if_called
from tests.crash.points import Point
from tests.store.opened import opened
from tests.vfs.test_draft import Recorder

Change = Callable[[NameFiles, Folder], Awaitable[None]]
Shown = dict[int, bytes]


async def add(files: NameFiles, folder: Folder) -> None:
    await files.record(folder, 3, b"three")


async def take_over(files: NameFiles, folder: Folder) -> None:
    assert await files.begin("INBOX", [Wanted(b"two", 2, 1)], having(folder)) == [None]


async def announce(files: NameFiles, folder: Folder) -> None:
    assert await files.begin("INBOX", [Wanted(b"four", None, 4)], having(folder)) == [None]


def having(folder: Folder) -> There:
    """Which of some uids a mailbox has."""
    box = folder.mailbox
    assert box is not None
    return lambda uids: [uid for uid in uids if uid in box]


async def rename(files: NameFiles, folder: Folder) -> None:
    await files.rename(folder, 1, b"eins", having(folder))


async def mend(files: NameFiles, folder: Folder) -> None:
    await files.mend()


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    """A store with three messages."""
    root = tmp_path / "mail"
    location = Location(Format.SDBOX, str(root))
    async with FileSystem(ThreadsDriver(1), sync=False) as fs:
        await init_store(fs, location)
        messages = [NewMessage(b"Subject: %d\n\n" % number) for number in range(3)]
        await StoreWriter(fs, location, root.stat()).save("INBOX", messages)
    return root


async def shown(root: Path, *, without: int = 0) -> Shown:
    """What a new mount shows of messages that are there; *without*: after that message was expunged."""
    async with opened(f"sdbox:{root}", follow=False) as (store, _):
        reader = NameReader(store)
        await reader.load()
        folder = store.folders["INBOX"]
        if without:
            box = folder.mailbox
            assert box is not None
            names = reader.names.of(box)
            names.has = lambda uid: uid in box and uid != without
            names.gone = lambda uid: uid == without
            names.update([without])
        return {uid: name for uid, name in reader.names.unusual(folder).items() if uid < 4}


async def change(root: Path, work: Change, driver: Driver | None = None) -> None:
    async with opened(f"sdbox:{root}", follow=False, driver=driver) as (store, _):
        reader = NameReader(store)
        await reader.load()
        if isinstance(driver, Recorder):
            driver.kinds.clear()
        await work(NameFiles(reader, WriteOptions()), store.folders["INBOX"])


async def prepare(files: NameFiles, folder: Folder) -> None:
    await files.record(folder, 1, b"one")
    await files.record(folder, 2, b"two")


async def none(files: NameFiles, folder: Folder) -> None:
    """Nothing has a name yet."""


@pytest.mark.parametrize(
    ("before", "work", "anew"),
    [
        (none, add, False),
        (prepare, add, False),
        (prepare, announce, False),
        (prepare, take_over, False),
        (prepare, mend, False),
        (prepare, rename, True),
        (prepare, take_over, True),
    ],
)
async def test_a_crash(
    root: Path, before: Change, work: Change, anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = root / "dboxfs-names"
    await change(root, before)
    if work is mend:
        await change(root, take_over)
        monkeypatch.setattr(Writers, "lives", lambda writers, token: False)  # it was killed
    kept = root.parent / "kept"
    if directory.exists():
        shutil.copytree(directory, kept)
    if anew:
        monkeypatch.setattr(names_module, "NAMES_FOLLOWED", -100)
    old = await shown(root), await shown(root, without=2)
    recorder = Recorder()
    await change(root, work, recorder)
    new = await shown(root), await shown(root, without=2)
    first = sum(recorder.counts.values()) - len(recorder.kinds)
    points = [Point(first + n) for n in range(len(recorder.kinds))]
    points += [Point(first + n, torn=True) for n, kind in enumerate(recorder.kinds, 1) if kind == "append"]
    assert recorder.kinds, "nothing was tested"
    assert (old != new) == (work is not announce), "it says what it should, and no more"
    for point in points:
        shutil.rmtree(directory, ignore_errors=True)
        if kept.exists():
            shutil.copytree(kept, directory)
        driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
        try:
            await change(root, work, driver)
        except* OSError:
            assert driver.crashed
        found = await shown(root), await shown(root, without=2)
        assert found in (old, new), f"{point} of {recorder.kinds}"
        await change(root, add)
        assert (await shown(root))[3] == b"three", "the next mount can write"


async def test_an_error_leaves_names_as_they_were(root: Path) -> None:
    await change(root, prepare)
    recorder = Recorder()
    await change(root, rename, recorder)
    assert await shown(root) == {1: b"eins", 2: b"two"}
    shutil.rmtree(root / "dboxfs-names")
    await change(root, prepare)
    first = sum(recorder.counts.values()) - len(recorder.kinds)
    for nth in (n for n, kind in enumerate(recorder.kinds, 1) if kind in ("append", "sync")):
        plan = [fault for fault in Point(first + nth, torn=True).plan() if fault.crash is None]
        async with opened(
            f"sdbox:{root}", follow=False, driver=FaultsDriver(ThreadsDriver(1), plan, depth=1)
        ) as (
            store,
            _,
        ):
            reader = NameReader(store)
            await reader.load()
            folder = store.folders["INBOX"]
            with pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EIO):
                await rename(NameFiles(reader, WriteOptions()), folder)
            assert reader.names.unusual(folder) == {1: b"one", 2: b"two"}
        assert await shown(root) == {1: b"one", 2: b"two"}


async def test_two_writers_of_one_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "NAMES_FOLLOWED", 7)  # so that it is written anew again and again
    async with (
        opened(f"sdbox:{root}", follow=False) as (one, _),
        opened(f"sdbox:{root}", follow=False) as (two, _),
    ):
        readers = [NameReader(store) for store in (one, two)]
        files = [NameFiles(reader, WriteOptions()) for reader in readers]
        folders = [store.folders["INBOX"] for store in (one, two)]
        for number in range(60):
            folder = folders[number % 2]
            await files[number % 2].rename(folder, 1 + number % 3, b"n%d" % number, having(folder))
        await readers[0].look(folders[0])
        expected = {1: b"n57", 2: b"n58", 3: b"n59"}
        assert [dict(r.names.unusual(f)) for r, f in zip(readers, folders, strict=True)] == [
            expected,
            expected,
        ]
    assert await shown(root) == expected


@asynccontextmanager
async def two_mounts(root: Path) -> AsyncIterator[list[tuple[NameReader, NameFiles, Folder]]]:
    """The names of one store as two mounts have them."""
    async with (
        opened(f"sdbox:{root}", follow=False) as (one, _),
        opened(f"sdbox:{root}", follow=False) as (two, _),
    ):
        found = []
        for store in (one, two):
            reader = NameReader(store)
            await reader.load()
            found.append((reader, NameFiles(reader, WriteOptions()), store.folders["INBOX"]))
        yield found


async def test_a_name_is_announced_before_its_message_comes(root: Path) -> None:
    async with two_mounts(root) as ((_, files, folder), (other, _, there)):
        wanted = Wanted(b"four", None, 4)
        assert await files.begin("INBOX", [wanted], having(folder)) == [None]
        await other.look(there)
        assert called(other, there, 4) == b"four"
        await files.withdraw(folder, wanted)
        await other.look(there)
        assert called(other, there, 4) == b"4.eml"


def called(reader: NameReader, folder: Folder, uid: int) -> bytes:
    """What a message will be called, if it comes now."""
    box = folder.mailbox
    assert box is not None
    names = copy.deepcopy(reader.names.of(box), {id(box): box})
    names.has = lambda some: some in box or some == uid
    names.update([], [uid])
    return names.name(uid)


async def test_what_a_dead_writer_has_announced_names_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead: set[str] = set()
    monkeypatch.setattr(Writers, "lives", lambda writers, token: token not in dead)
    async with two_mounts(root) as ((reader, files, folder), (other, _, there)):
        await files.begin("INBOX", [Wanted(b"four", None, 4)], having(folder))
        await other.look(there)
        assert called(other, there, 4) == b"four"
        dead.add(reader.writers.token)
        assert called(other, there, 4) == b"4.eml"
    assert 4 not in await shown(root)


async def test_a_name_belongs_to_one_message_whatever_two_mounts_do(root: Path) -> None:
    async with two_mounts(root) as ((_, files, folder), (_, others, there)):
        await files.rename(folder, 1, b"x", having(folder))
        (refused,) = await others.begin("INBOX", [Wanted(b"x", None, 2)], having(there))
        assert isinstance(refused, Superseded)
        assert await others.begin("INBOX", [Wanted(b"x", 1, 2)], having(there)) == [None]
        with pytest.RaisesExc(Superseded):
            await files.rename(folder, 3, b"x", having(folder))
        await files.rename(folder, 1, b"y", having(folder))
        await files.rename(folder, 3, b"x", having(folder))
        (refused,) = await others.begin("INBOX", [Wanted(b"x", 1, 2)], having(there))
        assert isinstance(refused, Superseded), "message 1 is called otherwise"
    assert await shown(root) == {1: b"y", 3: b"x"}


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount, as far as names go: it saves messages, and follows what it reads."""

    store: Store
    reader: NameReader
    files: NameFiles
    folder: Folder
    writer: StoreWriter

    async def save(self, name: bytes, over: int | None = None) -> int:
        """A message that is there, and whose name is announced; its uid."""
        message = NewMessage(b"Subject: x\n\n", replaces=over, wanted=Wanted(name, over))
        (uid,) = (await self.writer.save("INBOX", [message])).uids
        return uid

    async def look(self) -> None:
        """See what others have done."""
        await self.store.refresh_mailbox(self.folder)
        await self.reader.look(self.folder)

    def name(self, uid: int) -> bytes:
        assert self.folder.mailbox is not None
        assert uid in self.folder.mailbox
        return self.reader.names.name(self.folder, uid)


@asynccontextmanager
async def two_that_write(root: Path) -> AsyncIterator[list[Mounted]]:
    async with two_mounts(root) as both:
        found = []
        for reader, files, folder in both:
            writer = StoreWriter(reader.store.fs, reader.store.location, root.stat())
            writer.tell_names(files)

            def follow(folder: Folder, delta: Delta, names: WrittenNames = reader.names) -> None:
                names.update(folder, delta.expunged.tolist(), delta.appended.tolist())

            reader.store.listen(Listener(follow, lambda folder: None, lambda folder: None))
            found.append(Mounted(reader.store, reader, files, folder, writer))
        yield found


@pytest.mark.parametrize("kind", list(Format))
async def test_the_jobs_that_make_a_message_durable_also_confirm_its_name(
    kind: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "mail"
    async with FileSystem(ThreadsDriver(1), sync=False) as fs:
        await init_store(fs, Location(kind, str(root)))
    driver = ThreadsDriver(1)
    async with opened(f"{kind.value}:{root}", follow=False, driver=driver) as (store, _):
        files = NameFiles(NameReader(store), WriteOptions())
        writer = StoreWriter(store.fs, store.location, root.stat())
        writer.tell_names(files)
        for number in range(2):
            before, wanted = driver.stats()["jobs"], Wanted(b"name %d" % number)
            await writer.save("INBOX", [NewMessage(b"Subject: x\n\n", wanted=wanted)])
            assert wanted.confirmed
        assert driver.stats()["jobs"] - before == 3, "the announcement is one"
    monkeypatch.setattr(Writers, "lives", lambda writers, token: False)  # an announcement counts no more
    async with opened(f"{kind.value}:{root}", follow=False) as (store, _):
        reader = NameReader(store)
        await reader.load()
        assert reader.names.unusual(store.folders["INBOX"]) == {1: b"name 0", 2: b"name 1"}


async def test_a_job_confirms_no_name_that_another_mount_has_written_about_meanwhile(root: Path) -> None:
    async with two_that_write(root) as (one, two):
        wanted = Wanted(b"x", None, 4)
        assert await one.files.begin("INBOX", [wanted], having(one.folder)) == [None]
        with one.files.confirming("INBOX", [wanted]) as steps:
            assert steps is not None
            await two.reader.look(two.folder)
            await two.files.rename(two.folder, 1, b"y", having(two.folder))
            steps.over(await one.store.fs.run_chain(steps.steps))
        assert not wanted.confirmed
        assert one.name(1) == b"y", "its line was read"
        with one.files.confirming("INBOX", [wanted]) as steps:
            assert steps is not None
            steps.over(await one.store.fs.run_chain(steps.steps))
        assert wanted.confirmed


async def test_a_name_that_is_about_something_else_too_is_not_confirmed_ahead(root: Path) -> None:
    async with two_that_write(root) as (one, _):
        uid = await one.save(b"x")
        await one.look()
        for wanted in (Wanted(b"x", uid, 5), Wanted(b"6.eml", None, 6)):
            assert await one.files.begin("INBOX", [wanted], having(one.folder)) == [None]
            with one.files.confirming("INBOX", [wanted]) as steps:
                assert steps is None, "it replaces a message, or needs no line"
        wanted = Wanted(b"z", None, 7)
        assert await one.files.begin("INBOX", [wanted], having(one.folder)) == [None]
        assert one.folder.mailbox is not None
        async with one.reader.place(one.folder.mailbox).lock:
            with one.files.confirming("INBOX", [wanted]) as steps:
                assert steps is None, "no task waits for the file with the mailbox locked"


@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
async def test_the_last_word_about_a_message_takes_no_name_from_what_has_replaced_it(
    root: Path, seen: bool
) -> None:
    """Another mount replaces a message between the save and the durable line of its name."""
    async with two_that_write(root) as (one, two):
        uid = await one.save(b"x")
        await one.look()
        await two.look()
        heir = await two.save(b"x", uid)
        await two.look()
        await two.files.record(two.folder, heir, b"x")
        if seen:
            await one.look()
        await one.files.record(one.folder, uid, b"x")
        await one.look()
        await two.look()
        assert (one.name(heir), two.name(heir)) == (b"x", b"x")
        last = await one.save(b"x", heir)
        await one.look()
        await one.files.record(one.folder, last, b"x")
        await two.look()
        assert (one.name(last), two.name(last)) == (b"x", b"x")
    async with two_mounts(root) as ((reader, _, folder), _):
        assert reader.names.name(folder, last) == b"x"


async def test_the_last_word_about_a_new_message_changes_no_name_that_it_was_given_since(root: Path) -> None:
    async with two_that_write(root) as (one, two):
        uid = await one.save(b"x")
        await one.look()
        await two.look()
        await two.files.rename(two.folder, uid, b"y", having(two.folder))
        await one.files.record(one.folder, uid, b"x")
        await two.look()
        assert (one.name(uid), two.name(uid)) == (b"y", b"y")
    async with two_mounts(root) as ((reader, _, folder), _):
        assert reader.names.name(folder, uid) == b"y"


async def test_a_message_that_takes_no_place_after_all_keeps_its_name(root: Path) -> None:
    async with two_that_write(root) as (one, two):
        one_, two_ = [await one.save(name) for name in (b"one", b"two")]
        await one.look()
        for uid, name in ((one_, b"one"), (two_, b"two")):
            await one.files.record(one.folder, uid, name)
        named = Wanted(b"one", one_, two_)
        assert await one.files.begin("INBOX", [named], having(one.folder)) == [None]
        await one.files.keep(one.folder, one_, named)
        await two.look()
        for mount in (one, two):
            assert (mount.name(one_), mount.name(two_)) == (b"one", b"two")
        await two.writer.expunge("INBOX", [one_])
        for mount in (one, two):
            await mount.look()
            assert mount.name(two_) == b"two"
    async with two_mounts(root) as ((reader, _, folder), _):
        assert reader.names.name(folder, two_) == b"two"


async def test_what_was_taken_back_names_no_other_message_that_gets_the_uid(root: Path) -> None:
    async with two_that_write(root) as (one, two):
        await one.files.begin("INBOX", [Wanted(b"x", None, 4)], having(one.folder))
        await one.files.withdraw(one.folder, Wanted(b"x", None, 4))
        (uid,) = (await two.writer.save("INBOX", [NewMessage(b"Subject: y\n\n")])).uids
        assert uid == 4
        for mount in (one, two):
            await mount.look()
            assert mount.name(uid) == b"4.eml"
        async with two_mounts(root) as ((reader, _, folder), _):  # while the writer runs
            assert reader.names.name(folder, uid) == b"4.eml"


async def test_lines_that_can_not_be_are_skipped_and_counted(root: Path) -> None:
    await change(root, prepare)
    (file,) = (root / "dboxfs-names").iterdir()
    validity = int(file.read_bytes().split()[1])
    bad = [b"no line\n", b"\n", b"00000000 1 2 x\n", b"\xff\xfe\n"]
    bad += [_checked(b"%d " % validity + text) for text in (b"x name", b"2", b"2 name x", b"2 name 0 ~dead",
            b"2 name 2", b"0 name", b"4294967296 name", b"-2 name", b"2 name 1 +p q")]  # fmt: skip
    bad += [encode_line(Line(validity, 2, name)) for name in (b"a/b", b"..", b".", b"", b"\0", b"x" * 5000)]
    bad += [_checked(b"x 2 name"), _checked(b"0 2 name")]
    with file.open("ab") as names:
        names.write(b"".join(bad) + encode_line(Line(validity, 3, b"three")) + b"torn end, no line")
    async with opened(f"sdbox:{root}", follow=False) as (store, _):
        reader = NameReader(store)
        await reader.load()
        folder = store.folders["INBOX"]
        assert reader.names.unusual(folder) == {1: b"one", 2: b"two", 3: b"three"}
        assert reader.skipped == len(bad)
        await NameFiles(reader, WriteOptions()).rename(folder, 2, b"zwei", having(folder))
    assert await shown(root) == {1: b"one", 2: b"zwei", 3: b"three"}
    assert b"torn" not in file.read_bytes()


def _checked(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


async def test_mending_takes_out_what_never_came_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await change(root, prepare)
    (file,) = (root / "dboxfs-names").iterdir()
    validity = int(file.read_bytes().split()[1])
    alive, dead = "17-0123abcd-4-5", "18-0123abcd-4-5"
    monkeypatch.setattr(Writers, "lives", lambda writers, token: token == alive)
    lines = [
        Line(validity, 1, b"two", 2, LineKind.PLACED, dead),
        Line(validity, 3, b"one", 1, LineKind.PLACED, alive),
        Line(validity, 4, b"lost"),
        Line(validity, 5, b"coming", 0, LineKind.ANNOUNCED, alive),
        Line(validity, 6, b"never", 0, LineKind.ANNOUNCED, dead),
    ]
    with file.open("ab") as names:
        names.write(b"".join(map(encode_line, lines)))
    await change(root, mend)
    kept = file.read_bytes()
    assert all(word not in kept for word in (dead.encode(), b"lost", b"never"))
    assert encode_line(lines[1]) in kept
    assert encode_line(lines[3]) in kept
    assert await shown(root) == {1: b"one", 2: b"two"}
    assert await shown(root, without=1) == {2: b"two", 3: b"one"}


async def test_all_mounts_call_a_message_alike_whose_writer_died_before_its_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mount has seen the announcement and the message, another comes when the writer is dead."""
    await change(root, prepare)
    (file,) = (root / "dboxfs-names").iterdir()
    validity, dead = int(file.read_bytes().split()[1]), "18-0123abcd-4-5"
    living = {dead}
    monkeypatch.setattr(Writers, "lives", lambda writers, token: token in living)
    async with opened(f"sdbox:{root}", follow=False) as (store, _):
        folder, reader = store.folders["INBOX"], NameReader(store)
        with file.open("ab") as names:
            names.write(encode_line(Line(validity, 3, b"three", 0, LineKind.ANNOUNCED, dead)))
        await reader.load()
        assert reader.names.name(folder, 3) == b"three"
        living.clear()
        await change(root, mend)
        await reader.look(folder)
        assert {3: reader.names.name(folder, 3), **await shown(root)} == {1: b"one", 2: b"two", 3: b"3.eml"}
        assert reader.names.name(folder, 1) == b"one"
    mended = file.stat().st_ino
    await change(root, mend)
    assert file.stat().st_ino == mended, "what is mended is not written again"


async def test_a_mount_that_ended_in_order_leaves_nothing_to_mend(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await change(root, prepare)
    (file,) = (root / "dboxfs-names").iterdir()
    validity, ended = int(file.read_bytes().split()[1]), "18-0123abcd-4-5"
    monkeypatch.setattr(Writers, "lives", lambda writers, token: token != ended)
    with file.open("ab") as names:
        names.write(encode_line(Line(validity, 3, b"three", 0, LineKind.ANNOUNCED, ended)))
        names.write(encode_line(Line(validity, 3, b"three")))
    before = file.stat().st_ino
    await change(root, mend)
    assert file.stat().st_ino == before
    assert await shown(root) == {1: b"one", 2: b"two", 3: b"three"}


async def test_a_message_that_another_mount_has_renamed_is_not_removed_under_its_old_name(root: Path) -> None:
    async with two_that_write(root) as (one, two):
        uid = await one.save(b"x")
        await one.look()
        await two.look()
        await two.files.rename(two.folder, uid, b"y", having(two.folder))
        other = pytest.RaisesExc(Superseded, match=r"is called b'y' by now, and not")
        with only_if_called(one.folder, uid, b"x"), other:
            await one.writer.expunge("INBOX", [uid])
        with only_if_called(one.folder, uid, b"y"):
            assert await one.writer.expunge("INBOX", [uid]) == [uid]


async def test_lines_that_a_mount_has_written_itself_are_not_read_again(root: Path) -> None:
    async with opened(f"sdbox:{root}", follow=False) as (store, _):
        reader = NameReader(store)
        folder = store.folders["INBOX"]
        box = folder.mailbox
        assert box is not None
        files = NameFiles(reader, WriteOptions())
        for name in (b"one", b"eins", b"uno"):
            await files.record(folder, 1, name)
            await files.rename(folder, 1, name + b"s", having(folder))
        await reader.look(folder)
        assert reader.names.of(box).lines == Path(reader.path(box)).read_bytes().count(b"\n")
