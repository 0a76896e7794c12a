"""Values for options from files and the environment.

A file is TOML with a table a command; a key is a long option without its dashes, or ``options`` for ``-o``::

    [mount]
    options = "allow_other,gid=8,fmode=0440"    # or a list
    cache-size = "256M"
    ksm = true

Sources, each with precedence over those before it: ``/etc/dboxfs/dboxfs.toml``,
``$XDG_CONFIG_HOME/dboxfs/dboxfs.toml``, the environment (``DBOXFS_MOUNT_CACHE_SIZE=256M``), the command line.
For options that may be given several times (``-o``) all values count, the later ones last.
``DBOXFS_CONFIG=FILE`` names the only file to read, ``none`` no file.

Values have the same meaning as on the command line.  An unknown key is an error that names a similar option.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping

from msgspec import Struct

from dboxfs.cli.status import UsageError
from dboxfs.util.suggest import did_you_mean

CONFIG_VARIABLE = "DBOXFS_CONFIG"
SYSTEM_FILE = "/etc/dboxfs/dboxfs.toml"
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class Given(Struct, frozen=True):
    """A value for an option, and its source: a file with its table, or a variable."""

    value: object
    source: str


def files(environment: Mapping[str, str]) -> list[str]:
    """The paths of the configuration files, the most general one first; some may not exist."""
    chosen = environment.get(CONFIG_VARIABLE)
    if chosen is not None:
        return [] if chosen in ("", "none") else [chosen]
    base = environment.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.config")
    return [SYSTEM_FILE, os.path.join(base, "dboxfs", "dboxfs.toml")]


def read(
    environment: Mapping[str, str], names: Mapping[str, object]
) -> Iterator[tuple[str, dict[str, object]]]:
    """The files that exist, each with its tables.

    :param names: the commands.
    :raises UsageError: a file is no TOML, or has a table that is no command's.
    """
    for path in files(environment):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            if environment.get(CONFIG_VARIABLE):
                raise UsageError(f"{CONFIG_VARIABLE}: {path}: no such file") from None
            continue
        import tomllib  # most machines have no such file

        try:
            tables = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise UsageError(f"{path}: no TOML: {exc}") from None
        for name, table in tables.items():
            if name not in names or not isinstance(table, dict):
                raise UsageError(f"{path}: {name}: no command's table{did_you_mean(name, names)}")
        yield path, tables


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options of a command that may be configured, by key."""
    found = {}
    for action in parser._actions:  # noqa: SLF001 (argparse has no other way to ask)
        long = [name[2:] for name in action.option_strings if name.startswith("--")]
        if action.dest == "options":
            found["options"] = action
        elif long and action.dest not in ("help", "version", "user", "settings"):
            found[long[0]] = action
    return found


def given(
    command: str, parser: argparse.ArgumentParser, environment: Mapping[str, str], names: Mapping[str, object]
) -> dict[str, list[Given]]:
    """The values from files and environment for the options of a command, by key, in order of precedence.

    :raises UsageError: an unknown key, or a value that its option doesn't take.
    """
    options = options_of(parser)
    found: dict[str, list[Given]] = {}
    for path, tables in read(environment, names):
        table = tables.get(command, {})
        assert isinstance(table, dict)
        for key, value in table.items():
            _add(found, options, key, value, f"{path} [{command}]")
    prefix = f"DBOXFS_{command.upper()}_"
    for name, value in environment.items():
        if name.startswith(prefix):
            _add(found, options, name[len(prefix) :].lower().replace("_", "-"), value, name)
    return found


def _add(
    found: dict[str, list[Given]],
    options: Mapping[str, argparse.Action],
    key: str,
    value: object,
    source: str,
) -> None:
    action = options.get(key)
    if action is None:
        raise UsageError(f"{source}: {key}: no option of this command{did_you_mean(key, options)}")
    try:
        meant = _meant(action, value)
    except (argparse.ArgumentTypeError, ValueError) as exc:
        raise UsageError(f"{source}: {key} = {value!r}: {exc}") from None
    found.setdefault(key, []).append(Given(meant, source))


def _meant(action: argparse.Action, value: object) -> object:
    """The meaning of a value, parsed as on the command line.

    :raises argparse.ArgumentTypeError, ValueError: the option doesn't take it.
    """
    if action.nargs == 0:
        flag = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
        if flag is None:
            raise ValueError("takes one of " + ", ".join(_FLAGS))
        return action.const if flag else action.default
    if isinstance(action.default, list):
        return [_one(action, item) for item in (value if isinstance(value, list) else [value])]
    return _one(action, value)


def _one(action: argparse.Action, value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("the value must be one text or number")
    meant = action.type(str(value)) if callable(action.type) else str(value)
    if action.choices is not None and meant not in action.choices:
        raise ValueError("the value must be one of " + ", ".join(map(str, action.choices)))
    return meant


def configure(
    command: str, parser: argparse.ArgumentParser, environment: Mapping[str, str], names: Mapping[str, object]
) -> None:
    """Set the values from files and environment as the defaults of a command.

    :raises UsageError: as :func:`given`.
    """
    options = options_of(parser)
    for key, values in given(command, parser, environment, names).items():
        action = options[key]
        action.default = in_force(values)
        action.required = False


def in_force(values: list[Given]) -> object:
    """The value in force of several ones: the last one; of lists all items."""
    if isinstance(values[-1].value, list):
        return [item for one in values if isinstance(one.value, list) for item in one.value]
    return values[-1].value
