"""The stores that are measured, made by the real Dovecot and kept for the next run.

::

    WORK/
      plain/<mailbox>/<uid>.eml      the messages as files
      mdbox/, sdbox/                 the same, imported by doveadm from a Maildir of hard links to plain/
      big-mdbox/, big-plain/         BIG_COUNT messages of 30 MB, the same way
      zstd-sdbox/                    fewer, compressed
      *.json                         what was made, how, and how long it took: made again if that differs

Fastest way found to fill a store: ``doveadm import`` from a Maildir on the same file system with
mail_fsync=never.  Names in the Maildir ascend, so uids are those of plain/; :func:`_verified` compares the
sizes of all messages with those that ``doveadm fetch`` reports.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.dovecot import Doveadm
from bench.errors import BenchError
from bench.mail import FIRST_DATE, Corpus

VERSION = 1
"""Raise it when stores are made differently."""

BIG_SIZE = 30_000_000
BIG_COUNT = 5


@dataclass(frozen=True, slots=True)
class Stores:
    """Paths of what was made, and seconds that it took (now or when it was made)."""

    plain: Path
    mdbox: Path
    sdbox: Path
    big_plain: Path
    big_mdbox: Path
    seconds: dict[str, float]


def cached(work: Path, name: str, recipe: dict[str, object], make: Callable[[], None]) -> float:
    """Run *make* unless WORK/NAME.json says that it was done by the same *recipe*; its seconds."""
    note = work / f"{name}.json"
    recipe = {"version": VERSION, **recipe}
    if note.exists():
        made = json.loads(note.read_text())
        if made["recipe"] == recipe:
            return float(made["seconds"])
        note.unlink()
    start = time.perf_counter()
    make()
    os.sync()
    seconds = time.perf_counter() - start
    note.write_text(json.dumps({"recipe": recipe, "seconds": seconds}, indent=2) + "\n")
    return seconds


def build(work: Path, doveadm: Doveadm, corpus: Corpus, seed: int, progress: Callable[[str], None]) -> Stores:
    """Make what isn't there yet."""
    recipe: dict[str, object] = {"messages": len(corpus), "seed": seed}
    seconds = {}
    plain, maildir = work / "plain", work / "maildir"

    def make(name: str) -> None:
        progress(f"making {name} of {len(corpus)} messages, {corpus.size / 1e6:.0f} MB")
        if not maildir.exists():
            link_maildir(plain, maildir, corpus, doveadm)
        import_maildir(work / name, maildir, corpus, doveadm)

    seconds["plain"] = cached(work, "plain", recipe, lambda: write_plain(plain, corpus))
    for name in ("sdbox", "mdbox"):
        seconds[name] = cached(work, name, recipe, lambda name=name: make(name))  # type: ignore[misc]
    shutil.rmtree(maildir, ignore_errors=True)
    return Stores(plain, work / "mdbox", work / "sdbox", work / "big-plain", work / "big-mdbox", seconds)


def build_big(work: Path, stores: Stores, doveadm: Doveadm, seed: int) -> None:
    """The store with the large messages."""

    def make() -> None:
        corpus = Corpus(0, seed, sizes=[BIG_SIZE] * BIG_COUNT)
        maildir = work / "big-maildir"
        write_plain(stores.big_plain, corpus)
        link_maildir(stores.big_plain, maildir, corpus, doveadm)
        import_maildir(stores.big_mdbox, maildir, corpus, doveadm)
        shutil.rmtree(maildir)

    recipe: dict[str, object] = {"sizes": [BIG_SIZE] * BIG_COUNT, "seed": seed}
    stores.seconds["big"] = cached(work, "big", recipe, make)


def build_compressed(work: Path, corpus: Corpus, doveadm: Doveadm, seed: int) -> tuple[Path, float]:
    """An sdbox store of *corpus*, compressed with zstd; with the seconds that it took."""
    root = work / "zstd-sdbox"

    def make() -> None:
        plain, maildir = work / "zstd-plain", work / "zstd-maildir"
        write_plain(plain, corpus)
        link_maildir(plain, maildir, corpus, doveadm)
        import_maildir(root, maildir, corpus, doveadm, "zstd")
        shutil.rmtree(maildir)
        shutil.rmtree(plain)

    recipe: dict[str, object] = {"messages": len(corpus), "seed": seed}
    return root, cached(work, "zstd-sdbox", recipe, make)


def write_plain(plain: Path, corpus: Corpus) -> None:
    """Every message as a file ``<mailbox>/<uid>.eml`` below *plain*, with its received date as mtime."""
    shutil.rmtree(plain, ignore_errors=True)
    for folder in {mail.folder for mail in corpus.mails}:
        (plain / folder).mkdir(parents=True)
    for mail, text in corpus:
        path = plain / mail.path
        path.write_bytes(text)
        received = FIRST_DATE + 60 * mail.number
        os.utime(path, (received, received))


def link_maildir(plain: Path, maildir: Path, corpus: Corpus, doveadm: Doveadm) -> None:
    """A Maildir of hard links to the files below *plain*."""
    shutil.rmtree(maildir, ignore_errors=True)
    doveadm.directory(maildir)
    box: dict[str, Path] = {}
    for folder in {mail.folder for mail in corpus.mails} | {"INBOX"}:
        path = maildir if folder == "INBOX" else maildir / folder
        for part in ("cur", "new", "tmp"):
            doveadm.directory(path / part)
        doveadm.directory(path)
        doveadm.directory(path.parent) if path.parent != maildir.parent else None
        box[folder] = path / "cur"
    for mail in corpus.mails:
        name = f"{FIRST_DATE + 60 * mail.number}.M{mail.number}P1.bench:2,S"
        os.link(plain / mail.path, box[mail.folder] / name)


def import_maildir(
    root: Path, maildir: Path, corpus: Corpus, doveadm: Doveadm, compression: str | None = None
) -> None:
    """A dbox store at *root* (its name ends in the format) of all that is in *maildir*.

    :param compression: what the messages are stored with (Dovecot's ``zlib_save``).
    """
    shutil.rmtree(root, ignore_errors=True)
    doveadm.directory(root)
    location = location_of(root)
    options = doveadm.compressing(compression) if compression else []
    doveadm.run(location, *options, "import", *doveadm.maildir(maildir), "", "all")
    _verified(location, corpus, doveadm)


def location_of(root: Path) -> str:
    """The mail location of a store of the bench."""
    return f"{root.name.rpartition('-')[2]}:{root}"


def _verified(location: str, corpus: Corpus, doveadm: Doveadm) -> None:
    out = doveadm.run(location, "-f", "tab", "fetch", "mailbox uid size.physical", "all")
    rows = [line.split("\t") for line in out.splitlines()[1:]]
    found = sorted((folder, int(uid), int(size)) for folder, uid, size in rows)
    if found != sorted((mail.folder, mail.uid, mail.size) for mail in corpus.mails):
        raise BenchError(f"{location}: Dovecot doesn't report the messages that were imported")
