"""Makes the manual pages from the texts of ``--help``: ``python -m dboxfs.cli.manual DIR``.

``dboxfs(1)`` has every command with its options, ``mount.dboxfs(8)`` the options of a mount as mount(8) and
fstab take them, ``dboxfs.toml(5)`` the configuration.  This module only adds the few words that the rest of
the program doesn't have.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping

from dboxfs import __version__
from dboxfs.cli import configuration, mount_helper
from dboxfs.cli.help_texts import EXAMPLES_HELP, MOUNT_HELP, STATUS_HELP, STORE_HELP
from dboxfs.cli.main import COMMANDS, command_parsers
from dboxfs.cli.mount_options import OPTIONS_HELP

_PLAIN = re.compile(r"^(?=[.'])", re.MULTILINE)


def escaped(text: str) -> str:
    """*text* escaped for roff, so that it is shown unchanged."""
    return _PLAIN.sub(r"\\&", text.replace("\\", "\\e").replace("-", "\\-"))


def pages() -> Mapping[str, str]:
    """Every page by its file name."""
    found = {
        "dboxfs.1": _program(),
        "mount.dboxfs.8": _helper(),
        "dboxfs.toml.5": _file(),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in found.items()}


def _head(name: str, section: int, what: str) -> Iterator[str]:
    yield f'.TH {name.upper()} {section} "" "dboxfs {__version__}" "dboxfs"'
    yield from (".SH NAME", f"{escaped(name)} \\- {escaped(what)}")


def _as_it_is(text: str) -> Iterator[str]:
    yield from (".nf", escaped(text.strip("\n")), ".fi")


def _program() -> Iterator[str]:
    yield from _head("dboxfs", 1, "mount a Dovecot dbox mailstore as a directory tree, and look after it")
    yield from (".SH SYNOPSIS", ".B dboxfs", ".I COMMAND", "[options]")
    yield from (".SH DESCRIPTION", *_as_it_is(STORE_HELP))
    yield from (".SH EXAMPLES", *_as_it_is(EXAMPLES_HELP))
    yield from (".SH WHAT A MOUNT SHOWS", *_as_it_is(MOUNT_HELP))
    yield ".SH COMMANDS"
    for name, parser in command_parsers().items():
        yield from (f".SS {escaped(name)}", f"{escaped(COMMANDS[name][2])}.", ".PP")
        yield from _as_it_is(parser.format_usage().removeprefix("usage: "))
        yield from _own_text(parser.description)
        for action in parser._actions:  # noqa: SLF001 (argparse has no other way to ask)
            if action.option_strings or action.help:
                yield from (".TP", f".B {escaped(_called(action))}", escaped(_help(action)))
        yield from _own_text(parser.epilog)
    yield from (".SH OPTIONS OF A MOUNT", *_as_it_is(OPTIONS_HELP))
    yield from (".SH EXIT STATUS", f"{escaped(STATUS_HELP.partition(': ')[2])}.")
    yield from (
        ".SH FILES",
        f"{escaped(configuration.SYSTEM_FILE)}, {escaped('~/.config/dboxfs/dboxfs.toml')}",
    )
    yield from (".SH SEE ALSO", ".BR mount.dboxfs (8),", ".BR dboxfs.toml (5),", ".BR doveadm (1)")


def _own_text(text: str | None) -> Iterator[str]:
    """What a command's help says beside its options, without the parts that have a section of the page."""
    own = text or ""
    for shown in (STORE_HELP, OPTIONS_HELP, STATUS_HELP):
        own = own.replace(shown.strip("\n"), "")
    if own.strip():
        yield ".PP"
        yield from _as_it_is(own) if "\n" in own.strip() else (escaped(own.strip()),)


def _called(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    takes = "" if action.nargs == 0 else f" {action.metavar or '|'.join(map(str, action.choices or ()))}"
    return ", ".join(action.option_strings) + takes


def _help(action: argparse.Action) -> str:
    return action.help or ""


def _helper() -> Iterator[str]:
    yield from _head(mount_helper.NAME, 8, "mount a Dovecot dbox mailstore with mount(8) or from fstab")
    yield from (".SH SYNOPSIS", ".B mount \\-t dboxfs", ".I STORE MOUNTPOINT", "[\\-o", ".IR OPTIONS ]")
    yield from (".SH DESCRIPTION", *_as_it_is(STORE_HELP.partition(" Instead of STORE:")[0]))
    yield ".PP"
    yield escaped(
        "A mount is read-only unless the options have the word writable: mount(8) adds rw by itself. A mount "
        "of the same store that is there already is no error. With remount,ro the kernel refuses writing; "
        "remount,rw hands it to the daemon again, if that was mounted writable."
    )
    yield from (".SH OPTIONS", *_as_it_is(OPTIONS_HELP))
    yield from (".SH EXIT STATUS", "0 done, 1 wrong invocation, 2 system error, 32 mount failure.")
    yield from (".SH EXAMPLE", *_as_it_is("/srv/mail/ann/mdbox  /mnt/ann  dboxfs  writable,nofail  0  0"))
    yield from (".SH SEE ALSO", ".BR dboxfs (1),", ".BR mount (8),", ".BR fstab (5)")


def _file() -> Iterator[str]:
    yield from _head("dboxfs.toml", 5, "options of dboxfs that are always given")
    yield from (".SH DESCRIPTION", *_as_it_is(configuration.__doc__ or ""))
    yield ".SH TABLES AND KEYS"
    for name, parser in command_parsers().items():
        options = configuration.options_of(parser)
        if options:
            yield from (".TP", f".B [{escaped(name)}]", escaped(", ".join(options)))
    yield from (".SH SEE ALSO", ".BR dboxfs (1)")


def main(directory: str) -> None:
    """Write all pages."""
    os.makedirs(directory, exist_ok=True)
    for name, text in pages().items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
