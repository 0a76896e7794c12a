"""The whole check of a store.

The order: the tree; leftovers; sdbox: each mailbox with its files; mdbox: each ``m.N`` with the map, then all
mailboxes with the map.  The check reads the indexes again before each comparison, the mailboxes before the
map, as every reader does.  While other processes change the store, it looks again at each apparent problem
(``findings``).

The check writes nothing and takes no lock.  Memory: index states and guids, together some 450 bytes a
message, and a few chunks of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from dboxfs.errors import NoSuchStore
from dboxfs.fsapi import FileSystem
from dboxfs.store.location import Kind, Location
from dboxfs.store.tree import scan_tree
from dboxfs.tools.check.broken import broken_findings
from dboxfs.tools.check.check_mdbox import StorageCheck
from dboxfs.tools.check.check_sdbox import SinglesCheck, Text, twin_findings
from dboxfs.tools.check.findings import Finding, Look, Severity, settled
from dboxfs.tools.check.hiding import hidden_findings
from dboxfs.tools.check.indexes import (
    Index,
    cache_findings,
    list_index_findings,
    mailbox_index,
    map_index,
    read_index,
    version_findings,
)
from dboxfs.tools.check.leftovers import leftover_findings
from dboxfs.tools.check.owners import Owners
from dboxfs.tools.check.progress import Tally, touched
from dboxfs.tools.check.references import ReferencesCheck
from dboxfs.tools.check.tree import tree_findings
from dboxfs.util.uid_ranges import uid_ranges

LOOK_AGAIN_AFTER = (0.5, 1.0, 2.0)
"""Seconds to wait before each further look at an apparent problem, while the store is in use."""

_ROUNDS = 8


class CheckOptions(Struct, frozen=True):
    """How to check.

    :param texts: read and decompress every text; if False, compare only sizes and metadata.
    :param patience: seconds to wait before each further look at an apparent problem in a store in use.
    """

    texts: bool = True
    patience: Sequence[float] = LOOK_AGAIN_AFTER


class Checked(Struct, frozen=True):
    """Numbers of mailboxes and messages that were checked, and of bytes that were read.

    ``messages``: those that mailboxes have.  ``unowned``: records of an mdbox that no mailbox has: expunged
    messages that are not purged.  ``external``: messages whose attachments are files of their own.
    """

    mailboxes: int
    messages: int
    bytes: int
    external: int
    unowned: int = 0


Emit = Callable[[Finding], None]


async def check_store(
    fs: FileSystem,
    location: Location,
    emit: Emit,
    options: CheckOptions | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> Checked:
    """Check everything; *emit* gets every finding as soon as it is certain.

    :param progress: called now and then with the number of messages that were checked, the approximate number
        of all messages, and the number of bytes that were read.
    :raises NoSuchStore: the root can't be read.
    """
    return await _Check(fs, location, emit, options or CheckOptions(), progress).run()


class _Check:
    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        emit: Emit,
        options: CheckOptions,
        progress: Callable[[int, int, int], None] | None,
    ) -> None:
        def report(tally: Tally) -> None:
            if progress is not None:
                progress(tally.messages, max(tally.of, tally.messages), tally.bytes)

        self._fs = fs
        self._location = location
        self._emit = emit
        self._options = options
        self._tally = Tally(options.texts, report)
        self._owned: int | None = None
        self._unowned = 0

    async def run(self) -> Checked:
        try:
            await self._fs.listdir(self._location.root)
        except OSError as exc:
            raise NoSuchStore(f"{self._location.root}: {exc.strerror}") from exc
        tree = await scan_tree(self._fs, self._location, lambda _: None)
        names = [folder.name for folder in tree.walk() if folder.selectable]
        self._emit_all(await tree_findings(self._fs, self._location, tree))
        self._emit_all(await leftover_findings(self._fs, self._location, names))
        self._emit_all(await list_index_findings(self._fs, self._location))
        self._emit_all(await version_findings(self._fs, self._location))
        boxes = [mailbox_index(self._fs, self._location, name) for name in names]
        if self._location.kind is Kind.SDBOX:
            guids = await self._singles(boxes)
        else:
            guids = await self._storage(boxes)
        self._emit_all(await broken_findings(self._fs, self._location, boxes, guids))
        self._emit_all(await self._hidden(boxes, guids))
        for box in boxes:
            self._emit_all(await cache_findings(self._fs, self._location, box))
        self._emit_all(_same_guid(boxes))
        self._note_external()
        self._note_encrypted(Owners(boxes))
        tally, messages = self._tally, self._tally.messages if self._owned is None else self._owned
        return Checked(len(boxes), messages, tally.bytes, tally.external, self._unowned)

    def _emit_all(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self._emit(finding)

    async def _singles(self, boxes: Sequence[Index]) -> set[bytes]:
        """Check an sdbox; returns the guids of all messages that were found."""
        texts: list[Text] = []
        for box in boxes:
            await read_index(self._fs, box)
            self._tally.of += 0 if box.state is None else len(box.state)
        for box in boxes:
            check = SinglesCheck(self._fs, self._location, box, self._tally)
            assert box.mailbox is not None
            paths = [box.files.log_path, self._location.mailbox_path(box.mailbox)]
            self._emit_all(await self._settled(check.look, paths))
            texts += check.texts.values()
        self._emit_all(twin_findings(texts))
        return {text.guid for text in texts}

    async def _storage(self, boxes: Sequence[Index]) -> set[bytes]:
        """Check an mdbox; returns the guids of all messages that the map has and that were read."""
        index = map_index(self._fs, self._location)
        live = bool(self._options.patience)
        for box in boxes:
            await read_index(self._fs, box)
        owners = Owners(boxes)
        check = StorageCheck(self._fs, self._location, index, self._tally, live, owners)
        paths = [index.files.log_path, self._location.storage]
        done: set[int] = set()
        await read_index(self._fs, index)
        self._tally.of = 0 if index.state is None else len(index.state)
        for _ in range(_ROUNDS):  # a purge makes new files while we read
            files, findings = await check.files()
            if not done:
                self._emit_all(findings)
            new = sorted((files.keys() | check.named()) - done)
            if not new:
                break
            for file_id in new:

                async def look(file_id: int = file_id) -> list[Finding]:
                    return await check.look(file_id)

                found = await self._settled(look, paths)
                self._emit_all([owners.named(one) for one in found])
                done.add(file_id)
        references = ReferencesCheck(
            self._fs, self._location, index, boxes, check.guids, check.encrypted, check.unmapped
        )
        logs = [box.files.log_path for box in boxes]
        found = await self._settled(references.look, [*paths, *logs])
        owners = Owners(boxes)
        self._emit_all([owners.named(one) for one in found])
        groups = owners.groups(check.guids.keys() | check.counted)
        self._owned = sum(len(group.uids) for group in groups if group.box is not None)
        self._unowned = sum(len(group.uids) for group in groups if group.box is None)
        return set(check.guids.values())

    async def _settled(self, look: Look, paths: list[str]) -> list[Finding]:
        async def changing() -> bool:
            return await touched(self._fs, paths)

        return await settled(look, self._options.patience, changing)

    async def _hidden(self, boxes: Sequence[Index], guids: set[bytes]) -> list[Finding]:
        mapping: Index | None = None
        if self._location.kind is Kind.MDBOX:
            mapping = map_index(self._fs, self._location)

        async def look() -> list[Finding]:
            for box in boxes:
                await read_index(self._fs, box)
            if mapping is not None:
                await read_index(self._fs, mapping)
            return await hidden_findings(self._fs, self._location, boxes, mapping, mail=bool(guids))

        return await self._settled(look, [box.files.log_path for box in boxes])

    def _note_external(self) -> None:
        if self._tally.external and self._location.attachments is None:
            what = f"{self._tally.external} messages have attachments in files of their own: not looked at"
            todo = "give their directory with --attachments"
            self._emit(Finding(Severity.NOTE, "external", self._location.root, what, todo))

    def _note_encrypted(self, owners: Owners) -> None:
        """One note for each mailbox that has encrypted messages."""
        found: dict[str, tuple[str | None, list[int]]] = {}
        for group in owners.groups(one.map_uid for one in self._tally.encrypted if one.map_uid is not None):
            if group.box is not None:
                found[group.box.what] = (group.box.mailbox, group.uids)
        for one in sorted(self._tally.encrypted, key=lambda who: who.uid or 0):
            if one.uid is not None:
                shown = self._location.display_name(one.mailbox or "")
                found.setdefault(shown, (one.mailbox, []))[1].append(one.uid)
        for shown, (mailbox, uids) in sorted(found.items()):
            what = f"{shown}: {len(uids)} messages are encrypted (mail_crypt), a mount gives EACCES: "
            what += f"uid {uid_ranges(uids)}"
            todo = "read them through Dovecot; dboxfs convert and rescue keep them as they are"
            root, note = self._location.root, Severity.NOTE
            self._emit(Finding(note, "encrypted", root, what, todo, mailbox=mailbox, count=len(uids)))


def _same_guid(boxes: Sequence[Index]) -> list[Finding]:
    """Mailboxes that share a guid: the directory of one is a copy of the other's."""
    first: dict[bytes, Index] = {}
    findings = []
    for box in boxes:
        header = box.header
        if header is None or not any(header.guid):
            continue
        other = first.setdefault(header.guid, box)
        if other is not box:
            what = f"it has the same guid as {other.what}: a directory was copied"
            todo = (
                "delete neither of them while the map's counts are wrong; then make a new mailbox and move "
                "the messages of the copy there with a mail client"
            )
            findings.append(box.found(Severity.ERROR, "mailbox-guid", what, todo))
    return findings
