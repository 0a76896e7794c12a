"""The command line of the bench: make the stores, measure, print."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from bench import hotset, latency, machine, plot, report, revision, saves, single
from bench.clients import ALL
from bench.dovecot import Doveadm
from bench.errors import BenchError
from bench.goals import Answer, Cells, answer, wanted_cells, wanted_rows
from bench.mail import Corpus
from bench.run import Bench, build_attributes, rounds
from bench.stores import build, build_big

_DESCRIPTION = """\
Measure a mount of dboxfs beside what else a mailstore's owner could use: plain files,
doveadm, a C passthrough file system, and the least that a file system in Python costs.

  scripts/bench                        about 10 minutes: 20,000 messages, 5 rounds
  scripts/bench --quick                about one minute, for a first look
  scripts/bench --only 3,5 --keep DIR  scenarios 3 and 5; the stores are kept in DIR
  scripts/bench --against GITREV       an older revision takes its turns, too

Stores are made by the real Dovecot. All subjects take turns in each round; a row shows the
ratio of the medians, its goal, and the range of the single rounds. "Cold" is a fresh mount
and, when root, empty caches of the kernel. Speed is never a reason to fail: the exit
status is 0 when everything ran, 1 when something didn't, 2 when the command line is wrong.
"""

LAST = 20
_SCENARIOS = """\
scenarios:
   1  requests a file that the kernel makes for tar, grep -r and ls -lR
   2  tar of an mdbox, cold, against the bare in-memory pyfuse3 file system
   3  ... against plain files                    4  the same with sdbox
   5  tar warm against plain files               6  tar cold against doveadm backup
   7  grep -r against doveadm search body        8  cat cold against doveadm fetch text
   9  tar, grep, cat against the C passthrough  10  the first read of a 30 MB message
  11  find and ls -l of very many messages
  12  tar on storage with latency              13  very many readers at once on such storage
  14  a hot set of compressed messages, read again after a scan
  15  saves a second: mount and library, beside IMAP APPEND and doveadm save
  16  tar of a fresh mount whose store is in RAM, against plain files warm
  17  the daemon's CPU time a file          18  the second find and ls -lR
  19  getfattr -R -d, against a tree on ext4 with the same attributes, and the C passthrough over it
  20  the second borg create, against the same
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench with *argv* (``sys.argv[1:]`` if left out); gives the exit status."""
    arguments = _parser().parse_args(argv)
    _scale(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if arguments.plot is not None:
            plot.check()
        with _work(arguments.keep) as work:
            return _run(arguments, work)
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=_DESCRIPTION,
        epilog=_SCENARIOS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="2,000 messages, 2 rounds, 50,000 entries")
    parser.add_argument("--messages", type=_positive, metavar="N", help="default 20,000")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="default 5")
    parser.add_argument("--entries", type=_positive, metavar="N", help="of scenario 11; default 1,000,000")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the messages; default 1")
    parser.add_argument("--only", type=_scenarios, metavar="N[,N...]", help="these scenarios; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    parser.add_argument("--against", metavar="GITREV", help="build and run an older revision beside this one")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the stores here, use them again")
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _scenarios(text: str) -> list[int]:
    try:
        chosen = sorted({int(part) for part in text.split(",")})
    except ValueError:
        chosen = [0]
    if not set(chosen) <= set(range(1, LAST + 1)):
        raise argparse.ArgumentTypeError(f"{text!r}: scenarios are numbers from 1 to {LAST}, such as 3,5")
    return chosen


def _scale(arguments: argparse.Namespace) -> None:
    """Fill in what wasn't given."""
    normal, quick = (20_000, 5, 1_000_000), (2_000, 2, 50_000)
    for name, value in zip(
        ("messages", "rounds", "entries"), quick if arguments.quick else normal, strict=True
    ):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.only = arguments.only or list(range(1, LAST + 1))


@contextlib.contextmanager
def _work(keep: Path | None) -> Iterator[Path]:
    """The directory for stores and mountpoints, which Dovecot's user can look into."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    work = Path(tempfile.mkdtemp(prefix="dboxfs-bench.", dir="/var/tmp"))
    work.chmod(0o755)
    try:
        yield work
    finally:
        shutil.rmtree(work)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace, work: Path) -> int:
    """Measure and tell; 1 if something didn't run."""
    before = revision.commit_of(arguments.against) if arguments.against else ""
    there = [client.name for client in ALL if shutil.which(client.program)]
    if missing := {client.name for client in ALL} - set(there):
        print(f"bench: not installed, and left out: {', '.join(sorted(missing))}", file=sys.stderr)
    rows = wanted_rows(arguments.only, there, before)
    cells = Cells(files=arguments.messages)
    about: dict[str, object] = {"machine": machine.describe(work)}
    (work / "mnt").mkdir(exist_ok=True)
    if os.geteuid() != 0:
        print(
            "bench: not root, so the kernel's caches are not dropped: cold is only a fresh mount",
            file=sys.stderr,
        )
    start = time.perf_counter()
    corpus, doveadm = Corpus(arguments.messages, arguments.seed), Doveadm(work)
    stores = build(work, doveadm, corpus, arguments.seed, _progress)
    older = revision.built(before, work) if before else ()
    bench = Bench(work, corpus, arguments.seed, stores, doveadm, cells, _progress, [], older)
    if {19, 20} & set(arguments.only):
        build_attributes(work, stores, corpus, arguments.seed)
    if 10 in arguments.only:
        build_big(work, stores, doveadm, arguments.seed)
    built = time.perf_counter()
    rounds(bench, wanted_cells(rows), arguments.rounds)
    if 10 in arguments.only:
        single.big_message(bench, arguments.rounds)
    if 11 in arguments.only:
        single.many_messages(bench, arguments.entries, min(arguments.rounds, 3))
    if 12 in arguments.only:
        latency.tar(bench, min(arguments.rounds, 3))
    if 13 in arguments.only:
        latency.many_readers(bench, min(arguments.rounds, 3))
    if 14 in arguments.only:
        bench.attempt("hot set after a scan", lambda: hotset.hot_set(bench))
    if 15 in arguments.only:
        saves.saves(bench, arguments.rounds)
    seconds = {
        "build": round(built - start, 1),
        "run": round(time.perf_counter() - built, 1),
        "stores": {name: round(value, 1) for name, value in stores.seconds.items()},
    }
    _progress("")
    about["seconds"] = seconds
    _tell(arguments, corpus, [answer(row, cells) for row in rows], cells, about)
    for failure in bench.failures:
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if bench.failures else 0


def _tell(
    arguments: argparse.Namespace,
    corpus: Corpus,
    answers: list[Answer],
    cells: Cells,
    about: dict[str, object],
) -> None:
    options = {
        "messages": len(corpus),
        "bytes": corpus.size,
        "rounds": arguments.rounds,
        "entries": arguments.entries,
        "seed": arguments.seed,
        "scenarios": arguments.only,
        "against": arguments.against,
        "caches_dropped": os.geteuid() == 0,
    }
    about = {**about, "options": options}
    for title in ("machine", "options", "seconds"):
        values = about[title]
        assert isinstance(values, dict)
        print(f"{title}: " + ", ".join(f"{name} {value}" for name, value in values.items()))
    print()
    print(report.table(answers, cells))
    if arguments.json is not None:
        found = report.as_json(answers, cells, about)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot is not None:
        plot.draw(answers, arguments.plot)


if __name__ == "__main__":
    sys.exit(main())
