"""Sends the log to stderr, a file, or syslog; one line for each record.

Users choose the names of mailboxes and files: they may contain line ends, escape sequences and bytes that are
no UTF-8.  The log has backslash escapes for these, so that no name forges a line or controls the terminal of
a reader.  What commands print goes through :func:`one_line` or :func:`tell`, too: names, keywords, subjects.
Characters that end a line or change the direction of the text for some readers (U+2028, U+202E ...) are
escaped as well.  Only tracebacks, which mean a bug in dboxfs, take more lines.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import sys

SYSLOG = "/dev/log"
"""The socket of syslog."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """*text* with backslash escapes in place of control characters and of bytes that are no UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda match: _escaped(ord(match[0])), text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def tell(text: str) -> None:
    """Print a line for the user on stderr, behind the program's name."""
    print(f"dboxfs: {one_line(text)}", file=sys.stderr, flush=True)


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


def log_to(log_file: str | None, level: str, *, foreground: bool) -> None:
    """Send the log to *log_file*, else to stderr in the foreground (or without syslog), else to syslog.

    :raises OSError: the file can't be written.
    """
    syslog = log_file is None and not foreground and os.path.exists(SYSLOG)
    handler: logging.Handler
    if log_file is not None:
        handler = logging.handlers.WatchedFileHandler(log_file, encoding="utf-8")
    elif syslog:
        handler = logging.handlers.SysLogHandler(SYSLOG, logging.handlers.SysLogHandler.LOG_MAIL)
    else:
        handler = logging.StreamHandler()
    if syslog:
        handler.setFormatter(_OneLine(f"dboxfs[{os.getpid()}]: %(levelname)s: %(message)s"))
    else:
        handler.setFormatter(_OneLine("%(asctime)s dboxfs %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def default_log_file() -> str:
    """The log file of a daemon without syslog: by the XDG base directory specification; root: /var/log."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = "/var/log" if os.geteuid() == 0 else os.path.expanduser("~/.local/state")
    return os.path.join(base, "dboxfs", "dboxfs.log")


def is_stderr() -> bool:
    """Whether the log goes to stderr."""
    return any(type(handler) is logging.StreamHandler for handler in logging.getLogger().handlers)


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Send the log to stderr as ``dboxfs: message``, for commands that are no daemons."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("dboxfs: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
