"""Findings from the scan of a dbox file: about one message, and about bytes that are no message."""

from __future__ import annotations

import os

from msgspec import Struct

from dboxfs.dbox import ExtRef, parse_ext_refs
from dboxfs.errors import FormatError
from dboxfs.fsapi import FileSystem, Peek
from dboxfs.store.salvage import Found, Gap, Trust
from dboxfs.tools.check.advice import DROPS_BEHIND, DROPS_DAMAGED, rescue_first, restore_first
from dboxfs.tools.check.findings import Finding, Severity

_SAYS = {
    Trust.REPAIRED: ("record-damaged", "the record is damaged, the text is complete"),
    Trust.DOUBTFUL: ("message-doubtful", "the message contradicts itself"),
    Trust.DAMAGED: ("message-damaged", "the message is damaged"),
}


class Who(Struct, frozen=True):
    """Identifies a message: in words, and by its numbers as far as they are known.

    ``needed``: some mailbox has the message.  ``single``: the message has a file of its own (sdbox).
    """

    text: str
    mailbox: str | None = None
    uid: int | None = None
    map_uid: int | None = None
    needed: bool = True
    single: bool = False

    def finding(
        self, severity: Severity, code: str, path: str, what: str, todo: str = "", offset: int | None = None
    ) -> Finding:
        """A finding about this message."""
        what = f"{self.text}: {what}"
        return Finding(severity, code, path, what, todo, offset, self.mailbox, self.uid, self.map_uid)

    @property
    def repair(self) -> str:
        """The advice for a damaged record or text."""
        return rescue_first(DROPS_DAMAGED if self.single else DROPS_BEHIND)


def message_findings(found: Found, path: str, who: Who, refused: str | None) -> list[Finding]:
    """Problems of a message by itself.

    :param refused: why a reader doesn't show it (:mod:`~dboxfs.tools.check.readable`); None: it does.
    """
    findings = []
    if found.trust is not Trust.WHOLE:
        code, says = _SAYS[found.trust]
        severe = who.needed and (found.trust is not Trust.DOUBTFUL or refused is not None)
        severity = Severity.ERROR if severe else Severity.WARNING
        problems = list(found.problems)
        if refused is not None and refused not in problems:
            problems.append(f"it can't be read: {refused}")
        what = f"{says}: {'; '.join(problems)}"
        findings.append(who.finding(severity, code, path, what, who.repair, found.offset))
    elif refused is not None:
        severity = Severity.ERROR if who.needed else Severity.WARNING
        what = f"it can't be read: {refused}"
        findings.append(who.finding(severity, "refused", path, what, who.repair, found.offset))
    metadata = found.metadata
    if metadata is None:
        return findings
    try:
        _ = metadata.received, metadata.virtual_size, metadata.physical_size, metadata.pop3_order
    except FormatError as exc:
        if exc.reason != refused:
            findings.append(
                who.finding(Severity.WARNING, "metadata", path, exc.reason, who.repair, exc.offset)
            )
    if metadata.guid is None and found.trust is Trust.WHOLE:
        what = "the message has no guid: clients can't tell it from others"
        todo = "it can be read; dboxfs convert makes a store in which it has one"
        findings.append(who.finding(Severity.WARNING, "no-guid", path, what, todo, found.offset))
    return findings


def gap_finding(gap: Gap, path: str, who: Who | None = None) -> Finding:
    """Bytes that are no message.  *who*: the message of the file (sdbox); None: an ``m.N``."""
    severity = Severity.ERROR if gap.offset == 0 else Severity.WARNING
    code = "file-header" if gap.offset == 0 else "garbage"
    if who is not None:
        return who.finding(severity, code, path, gap.reason, who.repair, gap.offset)
    return Finding(severity, code, path, gap.reason, rescue_first(DROPS_BEHIND), gap.offset)


async def attachment_findings(
    fs: FileSystem, found: Found, directory: str, suffix: str, who: Who
) -> list[Finding]:
    """Whether the external attachments of a message are there.

    :param directory: Dovecot's ``mail_attachment_dir``.
    :param suffix: the end of the file name, behind the path of the reference (sdbox; mdbox: empty).
    """
    value = found.metadata.ext_refs if found.metadata is not None else None
    if value is None:
        return []
    try:
        refs = parse_ext_refs(value)
    except FormatError:
        return []  # message_findings reports it
    paths = [os.path.join(directory, ref.path + suffix) for ref in refs]
    answers = await fs.peek([Peek(one, ()) for one in paths])
    findings = []
    for ref, one, answer in zip(refs, paths, answers, strict=True):
        reason = answer.strerror if isinstance(answer, OSError) else _size_reason(ref, answer.stat.st_size)
        if reason:
            what = f"an attachment of it that is a file of its own: {reason}"
            todo = restore_first("the file", DROPS_DAMAGED)
            severity = Severity.ERROR if who.needed else Severity.WARNING
            findings.append(who.finding(severity, "attachment", one, what, todo))
    return findings


def _size_reason(ref: ExtRef, size: int) -> str:
    try:
        ref.check_raw_size(size)
    except FormatError as exc:
        return exc.reason
    return ""
