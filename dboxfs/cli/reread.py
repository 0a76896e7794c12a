"""The configuration of a mount, read again while it is served (SIGHUP).

What can change without a new mount is put in force: the level of the log, and how much is kept in memory.
Of other values that have changed it is said that they count at the next mount.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Protocol

from dboxfs.cli.configuration import CONFIG_VARIABLE, configure, options_of
from dboxfs.cli.status import UsageError


class Running(Protocol):
    """What of a mount that is served can be changed."""

    def resize_cache(self, size: int) -> None:
        """The page cache may take so many bytes."""

    def resize_table(self, messages: int) -> None:
        """Metadata of so many messages are kept."""


class Reread:
    """A command line, and the files and variables that were read with it.

    :param arguments: what they said together.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        # Now: a package may have replaced the files of this program when they are read again.
        from dboxfs.cli import main

        self._main = main
        self._arguments = copy.copy(arguments)
        self._environment = at_any_directory(os.environ)

    def read(self, running: Running) -> Iterator[str]:
        """Read files again, put in force what can be; gives what there is to say of it, a line each.

        :raises UsageError: a file has something wrong; nothing has changed.
        """
        words = self._arguments.words
        parser = self._main.build_parser(words)
        command = self._main.parsers_of(parser)["mount"]
        configure("mount", command, self._environment, self._main.COMMANDS)
        try:
            now = parser.parse_args(words, argparse.Namespace(words=words))
        except SystemExit:
            raise UsageError("the command line can't be read with it") from None
        before, self._arguments = self._arguments, now
        for key, action in options_of(command).items():
            value = getattr(now, action.dest)
            if value != getattr(before, action.dest):
                yield self._change(key, value, running)

    @staticmethod
    def _change(key: str, value: object, running: Running) -> str:
        match key:
            case "log-level":
                logging.getLogger().setLevel(str(value).upper())
            case "cache-size":
                assert isinstance(value, int)
                running.resize_cache(value)
            case "table-size":
                assert isinstance(value, int)
                running.resize_table(value)
            case _:
                return f"{key} has changed, which counts at the next mount"
        return f"{key} is {value} now"


def at_any_directory(environment: Mapping[str, str]) -> Mapping[str, str]:
    """*environment* as it reads from any working directory: a daemon leaves that of its caller."""
    path = environment.get(CONFIG_VARIABLE, "none")
    if path in ("", "none"):
        return dict(environment)
    return {**environment, CONFIG_VARIABLE: os.path.abspath(path)}
