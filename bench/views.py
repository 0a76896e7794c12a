"""``python -m bench.views``: programs that speak Maildir, on mounts beside a Maildir with the same mail.

Each program works on a plain Maildir on ext4 and, in turns, on mounts with ``view=maildir``: ``ro``, and with
``--rw`` a writable one.  It runs twice: first on a mount that was just made (the store in memory, the plain
files too) with nothing of its own, then again with what it has kept of the first run.  A line for each:
seconds on the plain Maildir, and how many times as long it took on the mounts; medians of the rounds.
``mbsync`` syncs both ways with a second plain Maildir and needs a writable mount.  Below: the requests that
the kernel has sent a message, in both runs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

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
ignore=dovecot-keywords;.mu-prop
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


@dataclass(slots=True)
class Program:
    """One run of a program: *first* and *again* are what is measured.

    :ivar prepare: what it needs before.
    """

    first: Sequence[str]
    again: Sequence[str] = ()
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
    parser.add_argument("--rounds", type=int, default=3)
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
    _write_maildirs(plain, Corpus(args.messages))
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
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    requests: dict[tuple[str, str], int] = {}
    with ExitStack() as stack:
        for subject in subjects:
            stack.enter_context(subject)
        for number in range(args.rounds):
            for name in args.programs.split(","):
                for subject in subjects[:: -1 if number % 2 else 1]:
                    if name == "mbsync" and subject.name == "ro":
                        continue
                    found = _run(name, subject, work / "own", root)
                    seconds.setdefault((name, subject.name), []).append(found)
                    requests[name, subject.name] = subject.requests() or 0
                    subject.stop()
    _print(args, [subject.name for subject in subjects], seconds, requests)


def _write_maildirs(plain: Path, corpus: Corpus) -> None:
    """Two of three messages are seen, every tenth is flagged."""
    for mail, text in corpus:
        for sub in ("cur", "new", "tmp"):
            (plain / mail.folder / sub).mkdir(parents=True, exist_ok=True)
        letters = ("F" if mail.number % 10 == 0 else "") + ("S" if mail.number % 3 else "")
        base = f"{1_700_000_000 + mail.number}.M1P{mail.number}.host,S={len(text)}"
        name = f"cur/{base}:2,{letters}" if letters else f"new/{base}"
        (plain / mail.folder / name).write_bytes(text)


def _run(name: str, subject: Subject, own: Path, root: Path) -> tuple[float, float]:
    """Seconds of both runs."""
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    load(root if subject.pid is None and subject.name != "plain" else subject.path)
    subject.fresh(cold=False)
    ran = program(name, subject.path, own)
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(own), "TERM": "xterm", **ran.environment}
    if ran.prepare:
        subprocess.run(ran.prepare, check=True, env=environment, capture_output=True)
    both = [
        measure(command, daemon=subject.pid, environment=environment).wall
        for command in (ran.first, ran.again or ran.first)
    ]
    return both[0], both[1]


def _print(
    args: argparse.Namespace,
    subjects: list[str],
    seconds: Mapping[tuple[str, str], list[tuple[float, float]]],
    requests: Mapping[tuple[str, str], int],
) -> None:
    mounts = subjects[1:]
    print(f"{args.messages} messages, {args.format}, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print("             plain: first    again" + "".join(f"   {name}: first    again" for name in mounts))
    for name in args.programs.split(","):
        if (name, "plain") not in seconds:
            continue
        first, again = (statistics.median(one) for one in zip(*seconds[name, "plain"], strict=True))
        line = f"{name:12} {first:10.2f} s {again:6.2f} s"
        for mount in mounts:
            if (name, mount) in seconds:
                times = [statistics.median(one) for one in zip(*seconds[name, mount], strict=True)]
                line += f"   {times[0] / first:9.2f} {times[1] / again:8.2f}"
            else:
                line += f"   {'-':>9} {'-':>8}"
        print(line)
    for mount in mounts:
        each = {n: count / args.messages for (n, m), count in requests.items() if m == mount}
        print(f"requests a message, {mount}: " + ", ".join(f"{n} {count:.1f}" for n, count in each.items()))


if __name__ == "__main__":
    sys.exit(main())
