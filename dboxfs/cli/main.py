"""The command line.

Exit statuses: 0 done; 1 something else failed; 2 the command line is wrong; 3 the store is missing,
unreadable or no dbox store; 4 the mountpoint or FUSE is the problem; 130 interrupted.  Every error is one
line on stderr.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Collection, Sequence

from dboxfs import __version__
from dboxfs.cli import (
    change,
    check,
    convert,
    exporting,
    importing,
    mount,
    rescue,
    restoring,
    show,
    umount,
    undelete,
)
from dboxfs.cli.logs import one_line
from dboxfs.cli.mount_options import OPTIONS_HELP
from dboxfs.cli.status import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    exit_status,
    first_error,
    message,
    new_root,
)
from dboxfs.cli.stores import STORE_HELP, add_store, names_store
from dboxfs.errors import DboxfsError
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

_STATUS = "exit status: 0 done, 1 failed, 2 wrong usage, 3 store missing or unreadable, 4 mountpoint or FUSE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run dboxfs with *argv* (``sys.argv[1:]`` if left out); gives the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may be no text of this locale, or of any
    words = sys.argv[1:] if argv is None else list(argv)
    parser, commands = _parser(by_option=names_store(words))
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in commands:
        parser.error(
            f"{command!r}: no such command{did_you_mean(command, commands)}; dboxfs --help lists them"
        )
    arguments = parser.parse_args(words)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except (DboxfsError, OSError, KeyboardInterrupt, BaseExceptionGroup) as exc:
        return _failed(exc)
    return status


def _failed(exc: BaseException) -> int:
    """Say what went wrong in one line; gives the exit status.  A bug in dboxfs is raised again."""
    error = first_error(exc)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone: not worth a word
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILURE
    text = message(error)
    if text is None:
        raise exc
    print(f"dboxfs: {one_line(text)}", file=sys.stderr)
    return exit_status(error)


def _parser(*, by_option: bool) -> tuple[argparse.ArgumentParser, Collection[str]]:
    """The parser of the command line, and the names of the commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "dboxfs", description=_DESCRIPTION, epilog=STORE_HELP + "\n" + _STATUS, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"dboxfs {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    mount_parser = commands.add_parser(
        "mount", help="mount a store", description="Mount STORE on the empty directory MOUNTPOINT.\n\n" +
        STORE_HELP, epilog=OPTIONS_HELP + "\n" + _STATUS, formatter_class=raw,
    )  # fmt: skip
    mount.add_arguments(mount_parser, by_option=by_option)
    mount_parser.set_defaults(run=mount.mount)

    umount_parser = commands.add_parser(
        "umount", help="unmount", description="Unmount MOUNTPOINT, also one whose daemon has died."
    )
    umount.add_arguments(umount_parser)
    umount_parser.set_defaults(run=umount.umount)

    commit = commands.add_parser(
        "commit",
        help="make messages of what was put back (-o restore)",
        description="Make messages of all files that were put back into MOUNTPOINT, mounted with -o restore.",
    )
    restoring.add_arguments(commit)
    commit.set_defaults(run=restoring.commit)

    listing = commands.add_parser(
        "ls",
        help="list mailboxes, or the messages of one",
        description="List the mailboxes of STORE, or the messages of MAILBOX: uid, size, received, flags.\n\n"
        + STORE_HELP,
        formatter_class=raw,
    )
    add_store(listing, by_option=by_option)
    listing.add_argument("mailbox", metavar="MAILBOX", nargs="?")
    listing.set_defaults(run=show.ls)

    info = commands.add_parser(
        "info", help="what a store is and holds", formatter_class=raw,
        description="Show where the parts of STORE are, its mailboxes and their counts.\n\n" + STORE_HELP,
    )  # fmt: skip
    add_store(info, by_option=by_option)
    info.set_defaults(run=show.info)

    dump = commands.add_parser(
        "dump", help="show a file of a store in readable form",
        description="Show any u.N, m.N, dovecot.index, .log, .cache or map file in readable form.",
    )  # fmt: skip
    dump.add_argument("file", metavar="FILE")
    dump.set_defaults(run=show.dump)

    init = commands.add_parser(
        "init",
        help="make an empty store",
        description="Make an empty store in the directory STORE (new, or empty), with an INBOX.",
    )
    init.add_argument("store", metavar="STORE", type=new_root)
    init.add_argument("--format", choices=("sdbox", "mdbox"), required=True)
    init.add_argument(
        "--dbox-version",
        type=int,
        choices=(2, 3),
        default=2,
        help="of the messages that dboxfs will write: 2, Dovecot's (default), or 3, which only dboxfs reads",
    )
    init.add_argument(
        "--owner",
        metavar="USER[:GROUP]",
        type=change.owner,
        help="whose the store is (as root; default: the owner and group of the directory above STORE)",
    )
    init.set_defaults(run=change.init)

    purge = commands.add_parser(
        "purge",
        help="give back the space of expunged messages (mdbox)",
        formatter_class=raw,
        description="Give back the space of messages that no mailbox has any more. Only where no Dovecot\n"
        "uses STORE meanwhile; beside one, use: doveadm purge\n\n" + STORE_HELP,
    )
    add_store(purge, by_option=by_option)
    purge.add_argument(
        "-n", "--dry-run", action="store_true", help="change nothing, tell what would be freed"
    )
    purge.add_argument("--force", action="store_true", help="also a store that seems to hide mail (no INBOX)")
    purge.set_defaults(run=change.purge)

    undelete_parser = commands.add_parser(
        "undelete", help="bring back expunged messages (mdbox)",
        description=undelete.DESCRIPTION + STORE_HELP, epilog=_STATUS, formatter_class=raw,
    )  # fmt: skip
    undelete.add_arguments(undelete_parser, by_option=by_option)
    undelete_parser.set_defaults(run=undelete.undelete)

    convert_parser = commands.add_parser(
        "convert", help="make a copy of a store in another format",
        description=convert.DESCRIPTION + STORE_HELP.replace("STORE", "SRC", 1), epilog=_STATUS,
        formatter_class=raw,
    )  # fmt: skip
    convert.add_arguments(convert_parser, by_option=by_option)
    convert_parser.set_defaults(run=convert.convert)

    import_parser = commands.add_parser(
        "import", help="bring mail of other formats into a store",
        description=importing.DESCRIPTION + STORE_HELP, epilog=_STATUS, formatter_class=raw,
    )  # fmt: skip
    importing.add_arguments(import_parser, by_option=by_option)
    import_parser.set_defaults(run=importing.import_mail)

    export_parser = commands.add_parser(
        "export", help="write a store as Maildir, mbox or plain files",
        description=exporting.DESCRIPTION + STORE_HELP, epilog=_STATUS, formatter_class=raw,
    )  # fmt: skip
    exporting.add_arguments(export_parser, by_option=by_option)
    export_parser.set_defaults(run=exporting.export)

    check_parser = commands.add_parser(
        "check", help="compare everything in a store with everything else",
        description=check.DESCRIPTION + STORE_HELP, epilog=check.STATUS, formatter_class=raw,
    )  # fmt: skip
    check.add_arguments(check_parser, by_option=by_option)
    check_parser.set_defaults(run=check.check)

    rescue_parser = commands.add_parser(
        "rescue", help="make a new store of what is left of a damaged one",
        description=rescue.DESCRIPTION + STORE_HELP, epilog=rescue.STATUS, formatter_class=raw,
    )  # fmt: skip
    rescue.add_arguments(rescue_parser, by_option=by_option)
    rescue_parser.set_defaults(run=rescue.rescue)
    return parser, commands.choices


if __name__ == "__main__":
    sys.exit(main())
