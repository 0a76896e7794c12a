"""The command line.

Exit statuses: 0 done; 1 something else failed; 2 the command line is wrong; 3 the store is missing,
unreadable or no dbox store; 4 the mountpoint or FUSE is the problem; 130 interrupted.  Every error is one
line on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence

from dboxfs import __version__
from dboxfs.cli.configuration import configure
from dboxfs.cli.help_texts import STATUS_HELP, STORE_HELP
from dboxfs.cli.logs import tell
from dboxfs.cli.status import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    exit_status,
    first_error,
    message,
)
from dboxfs.errors import DboxfsError
from dboxfs.util.importing import importing
from dboxfs.util.suggest import did_you_mean

_DESCRIPTION = """\
Mount a Dovecot dbox mailstore (sdbox or mdbox) as a directory tree: mailboxes are
directories, messages are files, flags and dates are extended attributes.

  dboxfs info ~/mdbox                     what is in the store
  dboxfs mount ~/mdbox /mnt/mail          mount it (read-only)
  ls /mnt/mail/INBOX; less /mnt/mail/INBOX/17.eml
  getfattr -d /mnt/mail/INBOX/17.eml      uid, guid, flags, keywords, dates ...
  dboxfs umount /mnt/mail
"""

COMMANDS = {
    "mount": ("mount", "declare", "mount a store"),
    "umount": ("umount", "declare", "unmount"),
    "status": ("mounted", "declare", "list the mounts of this machine, and whether they live"),
    "top": ("top", "declare", "what a mount is doing, live"),
    "stats": ("stats", "declare", "how a mount does: now, or a recorded period as a picture"),
    "commit": ("restoring", "declare", "make messages of what was put back (-o restore)"),
    "ls": ("listing", "declare", "list mailboxes, or messages by what they are"),
    "info": ("show", "declare_info", "what a store is and holds"),
    "dump": ("show", "declare_dump", "show a file of a store in readable form"),
    "init": ("change", "declare_init", "make an empty store"),
    "purge": ("change", "declare_purge", "give back the space of expunged messages (mdbox)"),
    "undelete": ("undelete", "declare", "bring back expunged messages (mdbox)"),
    "convert": ("convert", "declare", "make a copy of a store in another format"),
    "archive": ("archive", "declare", "copy a store to an object store, in generations"),
    "import": ("importing", "declare", "bring mail of other formats into a store"),
    "export": ("exporting", "declare", "write a store as Maildir, mbox or plain files"),
    "config": ("config", "declare", "which values options have, and where each comes from"),
    "doctor": ("doctor", "declare", "what of this machine or a store is in the way, and what to do"),
    "check": ("check", "declare", "compare everything in a store with everything else"),
    "rescue": ("rescue", "declare", "make a new store of what is left of a damaged one"),
}
"""For each command: its module in this folder, the function that declares its arguments, a line of help.

A module is imported when its command is run: ``umount`` needs a tenth of the time of ``mount``.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dboxfs with *argv* (``sys.argv[1:]`` if left out); returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may be no text of this locale, or of any
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["mount.dboxfs"]:  # as mount(8) calls it
        return int(importlib.import_module("dboxfs.cli.mount_helper").main(words[1:]))
    with importing():
        parser, command = build_parser(words), _command(words)
    if command is not None and command not in COMMANDS:
        parser.error(
            f"{command!r}: no such command{did_you_mean(command, COMMANDS)}; dboxfs --help lists them"
        )
    try:
        if command is not None and command != "config":
            configure(command, parsers_of(parser)[command], os.environ, COMMANDS)
        arguments = parser.parse_args(words, argparse.Namespace(words=words))
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except (DboxfsError, OSError, KeyboardInterrupt, BaseExceptionGroup) as exc:
        return _failed(exc)
    return status


def _failed(exc: BaseException) -> int:
    """Print the error in one line; returns the exit status.  A bug in dboxfs is raised again."""
    error = first_error(exc)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone: no message
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILURE
    text = message(error)
    if text is None:
        raise exc
    tell(text)
    return exit_status(error)


def build_parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    :param words: the command line.  Only the command that it names gets its arguments, without the argument
        STORE if options name the store.  None: every command gets its arguments.
    """
    parser = argparse.ArgumentParser(
        "dboxfs",
        description=_DESCRIPTION,
        epilog=STORE_HELP + "\n" + STATUS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dboxfs {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    wanted, by_option = _command(words or ()), _names_store(words or ())
    for name, (module, declare, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if words is None or wanted == name:
            getattr(importlib.import_module(f"dboxfs.cli.{module}"), declare)(command, by_option=by_option)
    return parser


def command_parsers() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command."""
    return parsers_of(build_parser())


def parsers_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command in *parser*, which :func:`build_parser` has made."""
    for action in parser._actions:  # noqa: SLF001 (argparse has no other way to ask)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    raise AssertionError("the parser has commands")


def _command(words: Sequence[str]) -> str | None:
    return next((word for word in words if not word.startswith("-")), None)


def _names_store(argv: Sequence[str]) -> bool:
    """Whether options name the store, so that there is no argument STORE."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    return any(word.partition("=")[0] in ("--user", "--users", "--set") for word in words)


if __name__ == "__main__":
    sys.exit(main())
