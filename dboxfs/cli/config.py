"""``config``: shows the value of each option, and its source."""

from __future__ import annotations

import argparse
import os

from dboxfs.cli.configuration import files, given, in_force, options_of
from dboxfs.cli.logs import one_line
from dboxfs.cli.main import COMMANDS, command_parsers
from dboxfs.cli.status import UsageError
from dboxfs.util.suggest import did_you_mean


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs config``."""
    parser.description = (
        "Show which value each option of COMMAND (all: of every command) has without a command line, and "
        "where it comes from: a file, the environment, or the default. What is wrong in a file is told."
    )
    parser.set_defaults(run=config)
    parser.add_argument("command", metavar="COMMAND", nargs="?", default="mount", help="default: mount")


def config(arguments: argparse.Namespace) -> int:
    """``dboxfs config [COMMAND]``."""
    parsers = command_parsers()
    if arguments.command != "all" and arguments.command not in parsers:
        known = [*COMMANDS, "all"]
        raise UsageError(f"{arguments.command}: no such command{did_you_mean(arguments.command, known)}")
    for path in files(os.environ):
        print(one_line(f"# {path}: {'read' if os.path.exists(path) else 'not there'}"))
    for command in parsers if arguments.command == "all" else [arguments.command]:
        found = given(command, parsers[command], os.environ, COMMANDS)
        print(f"[{command}]")
        for key, action in options_of(parsers[command]).items():
            values = found.get(key, [])
            value = in_force(values) if values else action.default
            source = ", ".join(one.source for one in values) or "default"
            print(one_line(f"{key} = {_shown(value)}  # {source}"))
    return 0


def _shown(value: object) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return "[" + ", ".join(map(_shown, value)) + "]" if isinstance(value, list) else f'"{value}"'
