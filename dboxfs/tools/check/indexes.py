"""One index by itself: whether it can be read, and its problems that show without any other file."""

from __future__ import annotations

import os

from msgspec import Struct, field

from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.cachefile import CacheFile
from dboxfs.index.mailbox import MDBOX_HEADER, SDBOX_HEADER, MailboxHeader, mailbox_header
from dboxfs.index.state import HEADER_FSCKED, IndexState
from dboxfs.store.dbox_version import recorded_version, version_path
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.location import Kind, Location, TreeLayout
from dboxfs.tools.check.advice import COPY, DROPS_FLAGS, rescue_first
from dboxfs.tools.check.findings import Finding, Severity

_LARGEST_CACHE = 64 << 20


class Index(Struct):
    """An index of the store.  ``mailbox``: its storage name; None: the map, or the list of mailboxes.

    ``what``: its name in messages.  ``state``: None: there is no index, or it can't be read (then ``error``
    says why).  ``log_size``: bytes.
    """

    files: IndexFiles
    mailbox: str | None
    what: str
    state: IndexState | None = None
    error: CorruptFile | OSError | None = None
    log_size: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def header(self) -> MailboxHeader | None:
        """The dbox header; None if there is none."""
        return mailbox_header(self.state) if self.state is not None else None

    def found(
        self, severity: Severity, code: str, what: str, todo: str = "", offset: int | None = None
    ) -> Finding:
        """A finding about this index; *offset*: in its log."""
        what = f"{self.what}: {what}"
        return Finding(severity, code, self.files.log_path, what, todo, offset, self.mailbox)


def mailbox_index(fs: FileSystem, location: Location, name: str) -> Index:
    """The index of a mailbox, not read yet."""
    return Index(IndexFiles(fs, location.index_path(name)), name, location.display_name(name))


def map_index(fs: FileSystem, location: Location) -> Index:
    """The map, not read yet."""
    return Index(IndexFiles(fs, location.map_dir, "dovecot.map.index"), None, "the map of the storage")


async def read_index(fs: FileSystem, index: Index) -> None:
    """Bring *index* up to date: state or error."""
    try:
        await index.files.refresh()
    except (CorruptFile, OSError) as exc:
        index.state, index.error = None, exc
        return
    index.state, index.error = index.files.state, None
    (found,) = await fs.peek([Peek(index.files.log_path, ())])
    index.log_size = found.stat.st_size if isinstance(found, PeekResult) else 0


def index_findings(index: Index) -> list[Finding]:
    """Problems of an index, of a mailbox or the map, that :func:`read_index` has read or could not read."""
    state, found = index.state, index.found
    if index.error is not None:
        offset = index.error.offset if isinstance(index.error, CorruptFile) else None
        path = index.error.path if isinstance(index.error, CorruptFile) else index.files.log_path
        reason = index.error.reason if isinstance(index.error, CorruptFile) else str(index.error.strerror)
        what = f"{index.what}: the index can't be read: {reason}"
        todo = rescue_first(DROPS_FLAGS)
        error = Severity.ERROR
        return [Finding(error, "index-unreadable", path, what, todo, offset, index.mailbox)]
    if state is None:
        return []
    findings = []
    if index.log_size > state.head_offset:
        what = (
            f"{index.log_size - state.head_offset} bytes behind the last whole transaction of the log: "
            "a write that died, or the log lost bytes: then acknowledged messages and flags are not shown"
        )
        todo = (
            f"{COPY}, which may drop all changes in the log; a writable dboxfs mount drops the torn end only"
        )
        findings.append(found(Severity.ERROR, "torn-log", what, todo, state.head_offset))
    if state.header_flags & HEADER_FSCKED:
        what = "Dovecot has marked the index as damaged, and rebuilds it when it opens it next"
        findings.append(found(Severity.WARNING, "fscked", what, rescue_first(DROPS_FLAGS)))
    if state.uid_validity == 0 and len(state):
        what = f"it has {len(state)} messages and no UIDVALIDITY"
        findings.append(found(Severity.ERROR, "no-uidvalidity", what, rescue_first(DROPS_FLAGS)))
    return findings


def mailbox_findings(index: Index, kind: Kind) -> list[Finding]:
    """The findings of :func:`index_findings`, and those that only the index of a mailbox can have."""
    findings = index_findings(index)
    state, header, found = index.state, index.header, index.found
    if state is None:
        return findings
    if state.deleted:
        what = f"it is marked as deleted and still there, with {len(state)} messages"
        todo = "Dovecot, or the next writable dboxfs mount, finishes the deletion"
        findings.append(found(Severity.NOTE, "deleted", what, todo))
    wanted = MDBOX_HEADER if kind is Kind.MDBOX else SDBOX_HEADER
    if header is None or not any(header.guid):
        severity = Severity.ERROR if len(state) else Severity.NOTE
        what = f"the index has no dbox header, and {len(state)} messages"
        findings.append(found(severity, "no-dbox-header", what, rescue_first(DROPS_FLAGS)))
    elif header.kind != wanted:
        what = f"this is the index of a mailbox of another format ({header.kind.removesuffix('-hdr')})"
        todo = f"give the mail location that Dovecot has: this was read as {kind.value}"
        findings.append(found(Severity.ERROR, "other-format", what, todo))
    asked = len(state.pending_expunges)
    if asked:
        what = f"{asked} messages are to be expunged at Dovecot's next look"
        findings.append(found(Severity.NOTE, "pending-expunges", what))
    return findings


async def cache_findings(fs: FileSystem, location: Location, index: Index) -> list[Finding]:
    """Whether ``dovecot.index.cache`` can be read.  It is only a cache."""
    assert index.mailbox is not None
    path = location.cache_path(index.mailbox)
    (found,) = await fs.peek([Peek(path, ((0, None),), limit=_LARGEST_CACHE)])
    if isinstance(found, OSError) or found.stat.st_size > _LARGEST_CACHE:
        return []
    try:
        CacheFile(found.chunks[0])
    except FormatError as exc:
        what = f"{index.what}: the cache file can't be read: {exc.reason}"
        dates = ", and with it when messages were saved" if location.kind is Kind.SDBOX else ""
        todo = f"no message is lost: Dovecot drops it{dates}, and makes a new one"
        return [
            Finding(Severity.WARNING, "cache", path, what, todo, offset=exc.offset, mailbox=index.mailbox)
        ]
    return []


async def list_index_findings(fs: FileSystem, location: Location) -> list[Finding]:
    """Whether ``dovecot.list.index`` can be read.  With LAYOUT=fs it is only a cache."""
    directory = location.index or location.root
    index = Index(IndexFiles(fs, directory, location.list_index_name), None, "the list of mailboxes")
    await read_index(fs, index)
    if index.error is None:
        return []
    name = os.path.basename(index.files.base_path)
    todo = f"nothing is lost: stop Dovecot and remove {name}, {name}.log"
    if location.layout is TreeLayout.INDEX:
        todo = "restore it from a backup; else Dovecot makes a new one from the mailboxes' own names"
    what = f"the list of mailboxes can't be read: {index.error}"
    severity = Severity.ERROR if location.layout is TreeLayout.INDEX else Severity.WARNING
    return [Finding(severity, "list-index", index.files.log_path, what, todo)]


async def version_findings(fs: FileSystem, location: Location) -> list[Finding]:
    """Whether the record of the dbox version for new messages can be read."""
    try:
        await recorded_version(fs, location)
    except (CorruptFile, OSError) as exc:
        what = f"which dbox version new messages get can't be read: {exc}"
        todo = "write 2 into the file if Dovecot uses the store, 3 if dboxfs init or convert made it with 3"
        return [Finding(Severity.ERROR, "version", version_path(location), what, todo)]
    return []
