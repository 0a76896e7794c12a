"""Goes into the background: the caller gets its answer when the daemon is usable, or the reason why not.

::

    parent    fork ─ wait for the pipe ──────────────── "ok": exit 0;  status LF message: say it, exit status
    child          └ close inherited files ─ work ─ ready(): setsid, detach stdio, "ok" ─ serve ─ exit

The pipe ends without an answer only if the child was killed.  If the parent is interrupted meanwhile, the
pipe closes; the child notices when it writes its answer, and ends.

The child stays in the caller's process group until the mount is made: an automount lets only the group of the
process that it has started look at the mountpoint.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from dboxfs.cli.logs import is_stderr, one_line, tell
from dboxfs.cli.status import EXIT_FAILURE, exit_status, first_error, message

log = logging.getLogger("dboxfs")


def in_background(serve: Callable[[Callable[[], None]], int], prepare: Callable[[], None]) -> int:
    """Run ``serve(ready)`` in a child process; returns the exit status for the caller.

    :param prepare: the child calls it before everything else (logging).
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(writer)
        return _await_answer(reader, pid)
    status = EXIT_FAILURE
    try:
        os.chdir("/")
        _close_all_but(writer)
        status = _run(serve, prepare, writer)
        logging.shutdown()
    finally:
        os._exit(status)


def _await_answer(reader: int, pid: int) -> int:
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode("utf-8", "replace")
    if answer == "ok":
        return 0
    status, _, text = answer.partition("\n")
    if status.isdigit():
        tell(text)
        return int(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    how = f"signal {-code}" if code < 0 else f"status {code}"
    tell(f"the daemon ended ({how}) before the mount was usable; see its log")
    return EXIT_FAILURE


def _close_all_but(keep: int) -> None:
    """Close the descriptors of the caller: locks and pipes of its shell would else stay for ever."""
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, keep)
    os.closerange(keep + 1, limit if limit > 0 else 65536)


def _run(serve: Callable[[Callable[[], None]], int], prepare: Callable[[], None], writer: int) -> int:
    waiting = True

    def answer(text: str) -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            os.write(writer, text.encode())
            os.close(writer)

    def ready() -> None:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        answer("ok")

    try:
        prepare()
        return serve(ready)
    except Exception as exc:
        error = first_error(exc)
        text = message(error)
        if text is None:
            log.exception("unexpected: a bug in dboxfs")
            text = f"unexpected {error!r}: a bug in dboxfs; see the log"
        elif not (waiting and is_stderr()):  # else the parent prints it to the same stderr
            log.error("%s", text)
        answer(f"{exit_status(error)}\n{one_line(text)}")
        return exit_status(error)
