"""The program without its start: forked from a process that has imported what ``dboxfs mount`` imports.

A start costs most of the CPU time of a short command.  Tests of what the program does share one; a test of
the start itself (its imports, its limits, its signals) starts :data:`tests.live.mounts.DBOXFS`.

::

    test process   descriptors: answers, 0, 1, 2 ─ command line, environment … ────── pid ── exit status
    server         └ fork ─ parent of the program: ─────── fork ─ pid ── waits ──────────────┘
    program                                                └ arguments, directory, stdio ─ main() ─ exit

The program has its own command line in ``/proc``, followed by NULs: the server is started with a long
argument, in whose place the program writes it.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PADDING = " " * (16 << 10)
"""Room for the program's command line."""
_DESCRIPTORS = 4
_PIECE = 64 << 10
_starting = threading.Lock()


# -- the test process ------------------------------------------------------------------------------------


def run(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run(command, capture_output=True, text=True, stdin=DEVNULL)`` gives, for dboxfs.

    :raises subprocess.TimeoutExpired: it did not end within so many seconds, and was killed.
    """
    wanted = {
        "command": list(command), "directory": os.getcwd(), "environment": dict(os.environ),
        "umask": _umask(),
    }  # fmt: skip
    with _starting:
        server = _server()
    answers, theirs = socket.socketpair()
    pipes = [os.pipe(), os.pipe()]
    null = os.open(os.devnull, os.O_RDONLY)
    sent = [theirs.fileno(), null, *(write for _, write in pipes)]
    socket.send_fds(server, [b"!"], sent)
    theirs.close()
    for descriptor in sent[1:]:
        os.close(descriptor)
    with answers:
        answers.sendall(json.dumps(wanted).encode())
        answers.shutdown(socket.SHUT_WR)
        said, out, err = _collect([answers.fileno(), *(read for read, _ in pipes)], list(command), timeout)
    for read, _ in pipes:
        os.close(read)
    _, status = said.split()
    text = [part.decode().replace("\r\n", "\n") for part in (out, err)]
    return subprocess.CompletedProcess(list(command), int(status), *text)


def _umask() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("Umask:")[2].split()[0], 8)


def _collect(sources: list[int], command: list[str], timeout: float) -> list[bytearray]:
    """All that can be read of *sources*, the first of which says the program's pid first."""
    found = [bytearray() for _ in sources]
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as waiting:
        for source, into in zip(sources, found, strict=True):
            waiting.register(source, selectors.EVENT_READ, into)
        while waiting.get_map():
            ready = waiting.select(max(0, deadline - time.monotonic()))
            if not ready:
                if found[0]:
                    os.kill(int(found[0].split()[0]), signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout, bytes(found[1]), bytes(found[2]))
            for key, _ in ready:
                data = os.read(key.fd, _PIECE)
                key.data.extend(data)
                if not data:
                    waiting.unregister(key.fd)
    return found


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        arguments = [sys.executable, "-m", "tests.live.forked", str(number), PADDING]
        process = subprocess.Popen(
            arguments, cwd=ROOT, pass_fds=[number], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # what the program's is, so that Python makes the same object of it
            start_new_session=True,
        )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            ours.close()
            process.wait()

    atexit.register(end)
    return ours


# -- the server ------------------------------------------------------------------------------------------


def serve(requests: socket.socket) -> bool:
    """Answer *requests* until there are no more.

    :return: whether this process has become the program, which is to be run.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asked, descriptors, _, _ = socket.recv_fds(requests, 1, _DESCRIPTORS)
        if not asked:
            return False
        if not os.fork():
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _parent(*descriptors)
            return True
        for descriptor in descriptors:
            os.close(descriptor)


def _parent(answers: int, *stdio: int) -> None:
    """Fork the program, and end with it; returns in the program."""
    with socket.socket(fileno=answers) as answer:
        with answer.makefile("rb") as request:
            wanted = json.load(request)
        pid = os.fork()
        if pid:
            for descriptor in stdio:
                os.close(descriptor)
            answer.sendall(b"%d " % pid)
            answer.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)
    _become(wanted, stdio)


def _become(wanted: dict[str, Any], stdio: Sequence[int]) -> None:
    """Be what ``exec`` would have made of this process."""
    for number, descriptor in enumerate(stdio):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(wanted["directory"])
    os.umask(wanted["umask"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    time.tzset()
    sys.argv = wanted["command"]
    Path("/proc/self/comm").write_text("dboxfs")
    _show([sys.executable, *sys.argv])


def _show(command: Sequence[str]) -> None:
    """Have ``/proc/self/cmdline`` say *command*.

    :raises ValueError: there is no room for it.
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = b"".join(os.fsencode(word) + b"\0" for word in command)
    if len(text) > end - start:
        raise ValueError(f"a command line of {len(text)} bytes")
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def main() -> None:
    """Serve the descriptor that the command line gives."""
    from dboxfs.cli.main import main as program

    gc.disable()
    for module in ("dboxfs.cli.mount", "dboxfs.fuse.mount", "dboxfs.cli.umount"):
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        is_program = serve(requests)
    if is_program:
        status = program()
        sys.stdout.flush()
        os._exit(status)  # what was imported need not be taken apart


if __name__ == "__main__":
    main()
