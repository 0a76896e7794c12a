"""``python -m bench.views``: programs that speak Maildir, on mounts beside a Maildir with the same mail.

Each program works on a plain Maildir on ext4 and, in turns, on mounts with ``view=maildir``: ``ro``, and with
``--rw`` a writable one.  It runs twice: first on a mount that was just made (the store in memory, the plain
files too) with nothing of its own, then again with what it has kept of the first run.  The table, in
Markdown, has a line for each: seconds on the plain Maildir; of each mount, how many times as long it took,
how many times as much CPU time (of program and daemon; it says more beside other work), and requests of the
kernel a message; always of the first and of the second run.  Medians of the rounds.  ``mbsync`` syncs both
ways with a second plain Maildir and needs a writable mount.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.clients import load, measure
from bench.errors import BenchError
from bench.mail import Corpus
from bench.subjects import Dboxfs, Subject

_DBOXFS = Path(sys.executable).with_name("dboxfs")
_PYTHON = """
import mailbox, os, sys
for top, names, _ in os.walk(sys.argv[1]):
    if "cur" in names:
        names.clear()
        for message in mailbox.Maildir(top, factory=None, create=False):
            message.get_flags()
"""
_MBLAZE = 'mkdir -p "$HOME/.mblaze" && mdirs "$0" | mlist | mseq -S >/dev/null && mscan :'
_NOTMUCH = """
[database]
path={work}/index
mail_root={root}
[new]
ignore=dovecot-keywords;.mu-prop;.uidvalidity
[user]
name=a
primary_email=a@example.org
"""
_MUTT = "set folder={root}\nset mbox_type=Maildir\nset move=no\nset mark_old=no\n" + 'push "<exit>"\n'
_MBSYNC = """
MaildirStore near
Path {root}/
Inbox {root}/INBOX
SubFolders Verbatim

MaildirStore far
Path {work}/far/
Inbox {work}/far/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
SyncState {work}/state/
"""

PROGRAMS = ("ls", "mblaze", "mailutils", "python", "mutt", "neomutt", "notmuch", "mu", "mbsync")


class Times(NamedTuple):
    """Seconds of both runs, CPU seconds of program and daemon, and requests of the kernel."""

    first: float
    again: float
    first_cpu: float
    again_cpu: float
    first_requests: float
    again_requests: float


@dataclass(frozen=True, slots=True)
class Program:
    """What a program is run as.

    :ivar prepare: has to be run before.
    """

    command: Sequence[str]
    prepare: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def program(name: str, root: Path, work: Path) -> Program:
    """What *name* is run as on the Maildirs in *root*, with *work* for its own files."""

    def file(text: str) -> str:
        path = work / "config"
        path.write_text(text.format(root=root, work=work))
        return str(path)

    match name:
        case "ls":
            return Program(["ls", "-lR", str(root)])
        case "mblaze":
            return Program(["sh", "-c", _MBLAZE, str(root)])
        case "mailutils":
            return Program(["messages", "-q", f"maildir:{root}/INBOX"])
        case "python":
            return Program([sys.executable, "-c", _PYTHON, str(root)])
        case "mutt" | "neomutt":
            command = [name, "-n", "-R", "-F", file(_MUTT), "-f", str(root / "INBOX")]
            return Program(["script", "-qec", shlex.join(command), "/dev/null"])
        case "notmuch":
            (work / "index").mkdir()
            config = file(_NOTMUCH)
            return Program(["notmuch", "new", "--quiet"], environment={"NOTMUCH_CONFIG": config})
        case "mu":
            home = f"--muhome={work}/mu"
            init = ["mu", "init", "--quiet", home, f"--maildir={root}"]
            return Program(["mu", "index", "--quiet", home], prepare=init)
        case "mbsync":
            (work / "far").mkdir()
            (work / "state").mkdir()
            return Program(["mbsync", "-q", "-c", file(_MBSYNC), "-a"])
    raise ValueError(name)


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.views", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=4000, help="bytes of a message, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="no other round of a program begins after so many"
    )
    parser.add_argument("--format", default="mdbox", choices=("mdbox", "sdbox"))
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--rw", action="store_true", help="a writable mount, too")
    parser.add_argument("--options", default="", help="more of -o, for all mounts")
    parser.add_argument("--directory", type=Path, help="where to work: the disk that is measured")
    args = parser.parse_args()
    if unknown := set(args.programs.split(",")) - set(PROGRAMS):
        parser.error(f"--programs: {', '.join(sorted(unknown))}: there are {', '.join(PROGRAMS)}")
    with tempfile.TemporaryDirectory(prefix="dboxfs-views-", dir=args.directory) as work:
        try:
            _measure_all(Path(work), args)
        except BenchError as exc:
            print(f"bench.views: {exc}", file=sys.stderr)
            return 1
    return 0


def _measure_all(work: Path, args: argparse.Namespace) -> None:
    plain, root = work / "plain", work / "store"
    _write_maildirs(plain, Corpus(args.messages, sizes=_sizes(args.messages, args.size)))
    subprocess.run(
        [_DBOXFS, "import", plain, root, "--format", args.format, "--alone"], check=True, capture_output=True
    )
    (work / "mnt").mkdir()
    cache = work / "cache"
    command = [str(_DBOXFS), "mount", "-f", "--log-level", "warning", "--cache-dir", str(cache), "-o"]
    kinds = {"ro": "view=maildir"} | ({"rw": "rw,view=maildir"} if args.rw else {})
    subjects: list[Subject] = [Subject("plain", plain)]
    for name, options in kinds.items():
        whole = ",".join(filter(None, (options, args.options)))
        subjects.append(Dboxfs(name, root, work, [*command, whole, root]))
    print(f"{args.messages} messages, {args.format}, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    columns = ["program", "plain, seconds"]
    for subject in subjects[1:]:
        columns += [subject.name, f"{subject.name}: CPU", f"{subject.name}: requests"]
    print(_row([*columns, "rounds"]) + "\n" + "|---" * (len(columns) + 1) + "|")
    with ExitStack() as stack:
        for subject in subjects:
            stack.enter_context(subject)
        for name in args.programs.split(","):
            found = _measured(name, subjects, args.rounds, args.seconds, work / "own")
            print(_line(name, found, args.messages), flush=True)


def _measured(
    name: str, subjects: Sequence[Subject], rounds: int, seconds: float, own: Path
) -> list[list[Times]]:
    """The times of each round, for each subject; none of a subject on which it can't be run.

    :param seconds: after so many no other round begins.
    """
    found: list[list[Times]] = [[] for _ in subjects]
    began = time.monotonic()
    for number in range(rounds):
        if time.monotonic() - began > seconds:
            break
        for place in range(len(subjects))[:: -1 if number % 2 else 1]:
            subject = subjects[place]
            if name != "mbsync" or subject.name != "ro":
                found[place].append(_run(name, subject, own))
                subject.stop()
    return found


def _line(name: str, found: Sequence[Sequence[Times]], messages: int) -> str:
    plain = _medians(found[0])
    cells = [name, f"{plain.first:.2f}, {plain.again:.2f}"]
    for times in found[1:]:
        if not times:
            cells += ["", "", ""]
            continue
        here = _medians(times)
        pairs = [(here.first, plain.first), (here.again, plain.again)]
        cpu = [(here.first_cpu, plain.first_cpu), (here.again_cpu, plain.again_cpu)]
        for ratios in (pairs, cpu):
            cells.append(", ".join(f"{mine / max(other, 0.01):.2f}" for mine, other in ratios))
        cells.append(f"{here.first_requests / messages:.3f}, {here.again_requests / messages:.3f}")
    return _row([*cells, str(len(found[0]))])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _medians(times: Sequence[Times]) -> Times:
    return Times(*(statistics.median(one) for one in zip(*times, strict=True)))


def _sizes(count: int, size: int) -> list[int]:
    """From half of *size* to one and a half."""
    return [size // 2 + size * number // count for number in random.Random(1).sample(range(count), count)]


def _write_maildirs(plain: Path, corpus: Corpus) -> None:
    """Two of three messages are seen, every tenth is flagged."""
    for mail, text in corpus:
        for sub in ("cur", "new", "tmp"):
            (plain / mail.folder / sub).mkdir(parents=True, exist_ok=True)
        letters = ("F" if mail.number % 10 == 0 else "") + ("S" if mail.number % 3 else "")
        base = f"{1_700_000_000 + mail.number}.M1P{mail.number}.host,S={len(text)}"
        name = f"cur/{base}:2,{letters}" if letters else f"new/{base}"
        (plain / mail.folder / name).write_bytes(text)


def _run(name: str, subject: Subject, own: Path) -> Times:
    """Both runs of a program."""
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    load(subject.source or subject.path)
    subject.fresh(cold=False)
    ran = program(name, subject.path, own)
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(own), "TERM": "xterm", **ran.environment}
    if ran.prepare:
        subprocess.run(ran.prepare, check=True, env=environment, capture_output=True)
    runs, requests = [], [subject.requests() or 0]
    for _ in range(2):
        runs.append(measure(ran.command, daemon=subject.pid, environment=environment))
        requests.append(subject.requests() or 0)
    first, again = runs
    cpu = (first.client_cpu + first.daemon_cpu, again.client_cpu + again.daemon_cpu)
    return Times(first.wall, again.wall, *cpu, requests[1] - requests[0], requests[2] - requests[1])


if __name__ == "__main__":
    sys.exit(main())
