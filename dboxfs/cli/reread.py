"""Reads the configuration of a mount again while it is served (SIGHUP).

Values that can change without a new mount take effect: the level of the log, and the bounds of caches in
memory.  For other changed values a line says that they count at the next mount.
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
    """The parts of a mount that can be changed while it is served."""

    def resize_cache(self, size: int) -> None:
        """Set the size of the page cache in bytes."""

    def resize_table(self, messages: int) -> None:
        """Set the number of messages whose metadata are kept in memory."""


class Reread:
    """A command line, and the files and variables that were read with it.

    :param arguments: the values of all of them together.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        # Import it now: later a package may have replaced the files of this program.
        from dboxfs.cli import main

        self._main = main
        self._arguments = copy.copy(arguments)
        self._environment = at_any_directory(os.environ)

    def read(self, running: Running) -> Iterator[str]:
        """Read the files again, apply the values that can change, and yield a line for each changed value.

        :raises UsageError: a file has an error; nothing has changed.
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
    """*environment* with an absolute path of the file, since a daemon leaves its caller's directory."""
    path = environment.get(CONFIG_VARIABLE, "none")
    if path in ("", "none"):
        return dict(environment)
    return {**environment, CONFIG_VARIABLE: os.path.abspath(path)}
