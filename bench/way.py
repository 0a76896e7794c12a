"""``python -m bench.way NAME=TREE [NAME=TREE ...]``: which modules of the daemon a warm read and a save pass.

Each TREE is a checkout of dboxfs, run by this interpreter.  Its daemon notes every function that is entered,
on every thread.  A warm read is open, read and close of a message that was read before; a save is create,
write and close of a new one.  Each is made several times, with pauses, and the one with the fewest modules
counts: background work that falls into another one does not belong to it.

A line for each format and request: modules of dboxfs whose functions were entered; functions; calls (of
coroutines: each resumption, too); and climbs: calls into a module that the calling module does not import,
also not through other modules (a callback, or an interface whose caller knows no implementation).  With
``--modules`` also each module, with its functions.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

_NOTING = """
import atexit, json, os, sys, threading, time
found, files = [], {}
def note(frame, event, _):
    if event == "call":
        code, back = frame.f_code, frame.f_back
        found.append((time.monotonic_ns(), threading.get_ident(), code, back and back.f_code))
def said(code):
    return (code.co_filename, code.co_qualname) if code else ("", "")
def write():
    sys.setprofile(None), threading.setprofile(None)
    rows = [(when, thread, *said(code), *said(back)) for when, thread, code, back in list(found)]
    with open(os.environ["BENCH_WAY"], "w") as file:
        json.dump([row for row in rows if "/dboxfs/" in row[2]], file)
from dboxfs.cli.main import main
threading.setprofile(note), sys.setprofile(note)
atexit.register(write)
sys.exit(main())
"""
_TEXT = b"Subject: hello\nFrom: a@example.org\n\n" + b"some text of a line of the message, like others\n" * 60
_PAUSE = 0.3
_START = "import sys; from dboxfs.cli.main import main; sys.exit(main())"

Call = tuple[int, int, str, str, str, str]
"""Time (ns), thread, file and name of the function, file and name of its caller."""


class Way(Struct, frozen=True):
    """What one request has passed: functions by module, calls, climbs (from, to)."""

    functions: dict[str, set[str]]
    calls: int
    climbs: list[tuple[str, str]]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.way", description=__doc__.split("\n\n")[1])
    parser.add_argument("trees", nargs="+", metavar="NAME=TREE")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--modules", action="store_true", help="list them")
    parser.add_argument("--options", default="rw,fsync=commit", help="of the mount")
    args = parser.parse_args()
    print("format  request  tree        modules  functions  calls  climbs")
    for driver in ("mdbox", "sdbox"):
        for name, tree in (tree.split("=", 1) for tree in args.trees):
            for request, way in _ways(Path(tree).resolve(), driver, args.times, args.options).items():
                functions = sum(map(len, way.functions.values()))
                counts = f"{len(way.functions):7} {functions:10} {way.calls:6} {len(way.climbs):7}"
                print(f"{driver:7} {request:8} {name:10} {counts}", flush=True)
                if args.modules:
                    for module, entered in sorted(way.functions.items()):
                        print(f"    {module}: {', '.join(sorted(entered))}")
                    for one, other in way.climbs:
                        print(f"    {one} -> {other}")


def _ways(tree: Path, driver: str, times: int, options: str) -> dict[str, Way]:
    with tempfile.TemporaryDirectory(prefix="dboxfs-way-") as directory:
        store, mount, calls = Path(directory, "store"), Path(directory, "mount"), Path(directory, "calls")
        mount.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(tree), "BENCH_WAY": str(calls)}
        command = [sys.executable, "-c"]
        subprocess.run(
            [*command, _START, "init", "--format", driver, str(store)],
            env=environment, cwd=tree, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        how = ["mount", "-f", "--log-level", "warning", "--cache-dir", "none", "-o", options]
        daemon = subprocess.Popen(
            [*command, _NOTING, *how, str(store), str(mount)], env=environment, cwd=tree
        )
        try:
            while not os.path.ismount(mount):
                if daemon.poll() is not None:
                    raise SystemExit(f"{tree}: the mount has ended")
                time.sleep(0.05)
            windows = _requests(mount, times)
        finally:
            daemon.terminate()
            daemon.wait()
        noted: list[Call] = [tuple(row) for row in json.loads(calls.read_text())]
    imports = Imports(tree)
    found = {}
    for request, spans in windows.items():
        ways = [_way(noted, began, ended, tree, imports) for began, ended in spans]
        found[request] = min(ways, key=lambda way: (len(way.functions), way.calls))
    return found


def _requests(mount: Path, times: int) -> dict[str, list[tuple[int, int]]]:
    """Save and read; gives when each began and ended (ns)."""
    inbox = mount / "INBOX"

    def save(path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, _TEXT)
        os.close(descriptor)

    def read(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, 1 << 20)
        os.close(descriptor)

    def timed(what: Callable[[], None]) -> tuple[int, int]:
        time.sleep(_PAUSE)
        began = time.monotonic_ns()
        what()
        return began, time.monotonic_ns()

    save(inbox / "first")
    saves = [timed(lambda number=number: save(inbox / f"n{number}")) for number in range(times)]  # type: ignore[misc]
    time.sleep(_PAUSE)
    read(inbox / "first")
    return {"save": saves, "read": [timed(lambda: read(inbox / "first")) for _ in range(times)]}


def _way(noted: list[Call], began: int, ended: int, tree: Path, imports: Imports) -> Way:
    functions, calls, climbs = defaultdict[str, set[str]](set), 0, list[tuple[str, str]]()
    for when, _, file, name, caller, _ in noted:
        if not began <= when <= ended:
            continue
        calls += 1
        module = _module(file, tree)
        functions[module].add(name)
        if "/dboxfs/" in caller and not imports.reach(_module(caller, tree), module):
            climbs.append((_module(caller, tree), f"{module}:{name}"))
    return Way(dict(functions), calls, climbs)


def _module(file: str, tree: Path) -> str:
    return Path(file).relative_to(tree).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


class Imports:
    """Which modules of a tree import which."""

    def __init__(self, tree: Path) -> None:
        files = {_module(str(path), tree): path for path in tree.glob("dboxfs/**/*.py")}
        self._all: dict[str, set[str]] = {}
        for module, path in files.items():
            found = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                elif isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
            self._all[module] = found & files.keys()
        self._reached: dict[str, set[str]] = {}

    def reach(self, one: str, other: str) -> bool:
        """Whether *one* is *other*, or imports it, directly or through other modules."""
        if one not in self._reached:
            seen, todo = {one}, [one]
            while todo:
                new = self._all.get(todo.pop(), set()) - seen
                seen |= new
                todo += new
            self._reached[one] = seen
        return other in self._reached[one]


if __name__ == "__main__":
    main()
