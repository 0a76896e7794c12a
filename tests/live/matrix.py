"""Kinds of store that a real Dovecot makes, every pair of properties in at least one of them.

A :class:`Cell` is one combination.  :func:`pairwise` chooses few of all that hold each pair of values of two
properties; :func:`fill` has Dovecot make such a store: messages of many shapes, saved, copied, moved and
expunged in three mailboxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tests.live import corpus
from tests.live.crypt_keys import Keys
from tests.live.dovecot import Account, Append, Dovecot

VALUES: dict[str, tuple[str, ...]] = {
    "driver": ("sdbox", "mdbox"),
    "compress": ("none", "gz", "bz2", "lz4", "zstd", "mixed"),
    "attachments": ("none", "posix", "sis"),
    "alt": ("none", "moved"),
    "layout": ("fs", "index"),
    "elsewhere": ("nothing", "INDEX", "CONTROL", "INDEXCACHE", "INBOX"),
    "eol": ("LF", "CRLF"),
    "crypt": ("plain", "encrypted", "folders"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of store: a value of each property in :data:`VALUES`."""

    driver: str
    compress: str
    attachments: str
    alt: str
    layout: str
    elsewhere: str
    eol: str
    crypt: str

    def __str__(self) -> str:
        return " ".join(str(getattr(self, field.name)) for field in fields(self))

    @property
    def location(self) -> str:
        """What Dovecot is told, and dboxfs too."""
        parts = [f"{self.driver}:{{home}}/mail"]
        if self.layout == "index":
            parts.append("LAYOUT=index")
        if self.elsewhere != "nothing":
            parts.append(f"{self.elsewhere}={{home}}/elsewhere")
        if self.alt == "moved":
            parts.append("ALT={home}/alt")
        return ":".join(parts)

    def settings(self, dovecot: Dovecot, keys: Keys) -> dict[str, str]:
        """Settings of the account, by their names of 2.3."""
        found = dict(keys.settings) if self.crypt == "encrypted" else {}
        if self.crypt == "folders":  # each mailbox has a key of its own, unlocked by the user's
            found = dovecot.dialect.folder_keys("prime256v1", "")
        if self.compress not in ("none", "mixed"):
            found["zlib_save"] = self.compress
        if self.attachments != "none":
            found |= {"mail_attachment_dir": "{home}/attachments", "mail_attachment_min_size": "2k"}
            if self.attachments == "posix":  # sis is the default of 2.3, and 2.4 makes none
                found["mail_attachment_fs"] = "posix"
        return found


def cells() -> Iterator[Cell]:
    """Every combination that is one: LAYOUT=index has no INBOX elsewhere."""
    for values in itertools.product(*VALUES.values()):
        cell = Cell(*values)
        if not (cell.layout == "index" and cell.elsewhere == "INBOX"):
            yield cell


def _pairs(cell: Cell) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    return set(itertools.combinations(asdict(cell).items(), 2))


def pairwise() -> list[Cell]:
    """Few cells that have every pair of values of two properties, always the same ones."""
    every = list(cells())
    pairs = {cell: _pairs(cell) for cell in every}
    missing = set[tuple[tuple[str, str], tuple[str, str]]]().union(*pairs.values())
    chosen = []
    while missing:
        best = max(every, key=lambda cell: len(pairs[cell] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


def each_value() -> list[Cell]:
    """The first cells of :func:`pairwise` that have every value of each property together."""
    missing = {(name, value) for name, values in VALUES.items() for value in values}
    chosen = []
    for cell in pairwise():
        if missing & set(asdict(cell).items()):
            chosen.append(cell)
            missing -= set(asdict(cell).items())
    return chosen


def _messages(cell: Cell) -> list[Append]:
    real = list(corpus.real().values())[:5]
    boundary = b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="=="\n\n'
    part = b"--==\nContent-Type: application/x-data\nContent-Transfer-Encoding: base64\n\n"
    lines = b"".join(
        b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3\n"
        for _ in range(90)
    )
    attached = b"Subject: attached\n" + boundary + part + lines + b"--==--\n"
    small = [b"Subject: %d\n\ntext %d\n" % (n, n) for n in range(3)]
    texts = [*real, attached, b"Subject: again\n" + attached.partition(b"\n")[2], *small]
    if cell.eol == "CRLF":
        texts = [text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for text in texts]
        texts.append(b"Subject: odd ends\r\n\r\none\r\r\ntwo\rthree\nfour\r")
    return corpus.with_flags({str(n): text for n, text in enumerate(texts)})


def private_keys(account: Account, cell: Cell, keys: Keys) -> Path | None:
    """The file with the keys of the store's messages; None: they are plain."""
    files = {"encrypted": keys.private, "folders": account.home / "dovecot-attributes"}
    return files.get(cell.crypt)


def fill(dovecot: Dovecot, cell: Cell, keys: Keys) -> Account:
    """Have Dovecot make a store of that kind."""
    account = dovecot.account(cell.location, **cell.settings(dovecot, keys))
    messages = _messages(cell)
    account.append(messages)
    if cell.compress == "mixed":
        for method in dovecot.dialect.compressions[:3]:
            option = dovecot.dialect.compress_option(method)
            dovecot.doveadm(
                "-o", option, "save", "-u", account.name, stdin=b"Subject: %s\n\n" % method.encode() * 9
            )
    for name in ("Work", "Work/Entwürfe"):
        account.doveadm("mailbox create", "-s", name)
    account.append(messages[4:7], "Work")
    account.doveadm("copy", "Work/Entwürfe", "mailbox", "INBOX", "uid", "1:3,6")
    account.doveadm("move", "Work", "mailbox", "INBOX", "uid", "2")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "4")
    if cell.alt == "moved":
        account.doveadm("altmove", "mailbox", "INBOX", "uid", "1:6")
    if cell.driver == "mdbox":
        account.purge()
    return account
