"""The users of a site, found on disk: a mail location with variables is matched with existing paths.

``mdbox:/srv/vmail/%d/%n/mdbox`` stands for a directory of domains, with one of users in each.  A component of
the path that has variables matches any name.  The matches of ``%u``, ``%n`` and ``%d`` (without a modifier)
give the user, who counts if the location of that user is the path that was found.  So hashed directories
(``%1n/%n``; ``%2.1Hu`` is not supported) need no special code.

Only names are read: the store itself is opened when a program enters it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from dboxfs.errors import NoSuchStore
from dboxfs.store.location import Location
from dboxfs.store.mail_location import named_location, parse_location
from dboxfs.store.user_variables import StoreUser, absolute_path, expand

_VARIABLE = re.compile(
    r"%(?:%|(?P<plain>[und])|\{(?P<long>user|username|domain)\}|[^{]*?(?:\{[^}]*\}|[a-zA-Z]))"
)
_GROUPS = {"u": "u", "n": "n", "d": "d", "user": "u", "username": "n", "domain": "d"}


class TemplateUsers:
    """The users whose stores lie at the location *text*.

    :param text: a mail location of Dovecot 2.3, or the root of a store, with variables.
    :ivar place: the directory above all of them.
    :raises NoSuchStore: *text* can't be parsed, or has no variable of the user.
    """

    def __init__(self, text: str) -> None:
        self.described = text
        self._text = text
        driver, colon, rest = text.partition(":")
        self._is_location = bool(colon) and "/" not in driver
        path = (rest if self._is_location else text).replace("::", "\0").split(":")[0].replace("\0", ":")
        self._path = path
        if not os.path.isabs(path):
            raise NoSuchStore(f"{text}: give an absolute path; ~ and %h say nothing of where users are")
        example = named_location(self._of("user@domain.example"), StoreUser("user@domain.example"))
        self.kind = example.kind if example is not None else None
        components = path.rstrip("/").split("/")[1:]
        first = next((at for at, part in enumerate(components) if "%" in part.replace("%%", "")), None)
        if first is None or not {_group(found) for found in _VARIABLE.finditer(path)} & {"u", "n"}:
            raise NoSuchStore(f"{text}: names no user; give %u, or %n and %d, in the path")
        literal = [part.replace("%%", "%") for part in components[:first]]
        self.place = "/" + "/".join(literal)
        self._parts = components[first:]

    def names(self) -> list[str]:
        """The names of all users.

        :raises OSError: the directory above all of them can't be read.
        """
        os.scandir(self.place).close()
        found = {name for path, values in self._walk(self.place, 0, {}) for name in self._name(path, values)}
        return sorted(found)

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        """The location of a user's store.

        :raises NoSuchStore, Unsupported: as :func:`~dboxfs.store.mail_location.parse_location`.
        """
        user = StoreUser(name)
        text = self._text if self._is_location else self._of(name)
        return parse_location(text, damaged=damaged, user=user)

    def _of(self, name: str) -> str:
        return (
            self._text
            if self._is_location
            else absolute_path(expand(self._text, StoreUser(name), version=(2, 3)))
        )

    def _walk(
        self, directory: str, depth: int, values: dict[str, str]
    ) -> Iterator[tuple[str, dict[str, str]]]:
        if depth == len(self._parts):
            yield directory, values
            return
        part = self._parts[depth]
        if "%" not in part.replace("%%", ""):
            path = os.path.join(directory, part.replace("%%", "%"))
            if os.path.isdir(path):
                yield from self._walk(path, depth + 1, values)
            return
        pattern = _pattern(part, values)
        for name, is_directory in _entries(directory):
            match = pattern.fullmatch(name) if is_directory else None
            if match is not None:
                yield from self._walk(
                    os.path.join(directory, name), depth + 1, {**values, **match.groupdict()}
                )

    def _name(self, path: str, values: dict[str, str]) -> Iterator[str]:
        name = values.get("u") or values.get("n", "")
        if "u" not in values and "d" in values:
            name = f"{name}@{values['d']}"
        if name and os.path.abspath(expand(self._path, StoreUser(name), version=(2, 3))) == path:
            yield name


def _group(match: re.Match[str]) -> str:
    return _GROUPS.get(match["plain"] or match["long"] or "", "")


def _pattern(part: str, values: dict[str, str]) -> re.Pattern[str]:
    """The pattern of names for the component *part* of a template; *values* are known already."""
    found, at, here = "", 0, set(values)
    for match in _VARIABLE.finditer(part):
        found += re.escape(part[at : match.start()])
        at, group = match.end(), _group(match)
        if match[0] == "%%":
            found += "%"
        elif group and group not in here:
            found += f"(?P<{group}>.+)"
            here.add(group)
        else:
            found += ".*"
    return re.compile(found + re.escape(part[at:]), re.DOTALL)


def _entries(directory: str) -> list[tuple[str, bool]]:
    """Names in a directory, and whether each is a directory; empty if it can't be read."""
    try:
        with os.scandir(directory) as entries:
            return [(entry.name, entry.is_dir()) for entry in entries]
    except OSError:
        return []
