"""The variables in Dovecot's settings that stand for a user: ``%u %n %d %h``, ``%{user | username}`` …

:func:`expand` replaces them in the value of a setting, in the language of either version:

* 2.3: ``%`` + an optional width (``1`` or ``offset.width``; ``-`` counts from the end) + modifiers + a
  letter, or ``%{name}`` behind the same; ``%%`` is a percent sign.  Letters: ``u`` the whole name, ``n`` the
  part before the ``@``, ``d`` the part behind it, ``h`` the home directory, ``i`` and ``g`` uid and gid.
* 2.4: ``%{name}`` or ``%{name | filter | filter(argument)}``; ``%%{`` stands for ``%{``, and any
  other percent sign for itself.  ``owner_user``, ``owner_home`` … are those of the owner of shared mailboxes.

This module knows only variables of the user.  A variable of a connection, or an unknown filter, is an error
that names it: only Dovecot itself (``doveadm user``) can give such a value.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable

from msgspec import Struct

from dboxfs.errors import NoSuchStore


class StoreUser(Struct, frozen=True):
    """The user of a store.  ``uid``, ``gid`` and ``home`` are None if they are unknown.

    :ivar owner: the owner of mailboxes that are shared with this user (``%{owner_home}`` … in a shared
        namespace).
    """

    name: str
    home: str | None = None
    uid: int | None = None
    gid: int | None = None
    owner: StoreUser | None = None

    @property
    def local(self) -> str:
        """The part of the name before the ``@``."""
        return self.name.partition("@")[0]

    @property
    def domain(self) -> str:
        """The part of the name behind the ``@``."""
        return self.name.partition("@")[2]


_OLD = re.compile(
    r"%(?:(?P<percent>%)|(?P<neg>-?)(?:(?P<offset>\d+)\.)?(?P<width>\d*)(?P<modifiers>[LUDT]*)"
    r"(?:\{(?P<long>[^}]*)\}|(?P<letter>.)|$))",
    re.DOTALL,
)
_LETTERS = {"u": "user", "n": "username", "d": "domain", "h": "home", "i": "uid", "g": "gid"}
_NEW = re.compile(r"%(?:%(?=\{)|\{([^}]*)\})")
_FILTER = re.compile(r"(\w+)(?:\(\s*([^)]*)\))?")


def expand(text: str, user: StoreUser | None, *, version: tuple[int, int]) -> str:
    """*text* with its variables replaced.

    :param user: None: unknown, and any variable is an error.
    :param version: the Dovecot version of the syntax.
    :raises NoSuchStore: the value of a variable is unknown.
    """
    pattern, value = (_OLD, _old_value) if version < (2, 4) else (_NEW, _new_value)

    def replace(match: re.Match[str]) -> str:
        return value(match, user, text)

    return pattern.sub(replace, text)


def absolute_path(path: str, user: StoreUser | None = None) -> str:
    """*path* without ``.``, ``..`` and ``~``; ``~/`` is the home of *user*, if there is one; else of the
    caller.

    :raises NoSuchStore: the home is unknown, or ``~NAME/`` names an unknown user.
    """
    first, slash, rest = path.partition("/")
    if first == "~" and user is not None:
        if user.home is None:
            raise NoSuchStore(f"{path}: the home directory of {user.name} is not known; give the whole path")
        return os.path.abspath(user.home + slash + rest)
    if first.startswith("~") and first != "~":
        try:
            return os.path.abspath(pwd.getpwnam(first[1:]).pw_dir + slash + rest)
        except KeyError:
            raise NoSuchStore(f"{path}: this system has no user {first[1:]!r}") from None
    return os.path.abspath(os.path.expanduser(path))


def _named(name: str, user: StoreUser | None, text: str) -> str:
    known: dict[str, Callable[[StoreUser], str | None]] = {
        "user": lambda u: u.name,
        "username": lambda u: u.local,
        "domain": lambda u: u.domain,
        "home": lambda u: u.home,
        "uid": lambda u: None if u.uid is None else str(u.uid),
        "gid": lambda u: None if u.gid is None else str(u.gid),
    }
    whose, _, rest = name.partition("_")
    if whose == "owner" and user is not None and user.owner is not None:
        return _named(rest, user.owner, text)
    if name not in known:
        raise NoSuchStore(
            f"{text}: dboxfs can't expand {name!r}; give the final path (doveadm user NAME tells)"
        )
    if user is None:
        raise NoSuchStore(f"{text}: %{{{name}}} is about a user; give the final path, or --user NAME")
    value = known[name](user)
    if value is None:
        raise NoSuchStore(f"{text}: the {name} of {user.name} is not known; give the final path")
    return value


def _old_value(match: re.Match[str], user: StoreUser | None, text: str) -> str:
    if match["percent"]:
        return "%"
    name = match["long"] if match["long"] is not None else _LETTERS.get(match["letter"] or "", match[0])
    value = _named(name, user, text)
    if match["width"]:
        start = int(match["offset"] or 0)
        start = max(0, len(value) - start) if match["neg"] else start
        value = value[start : start + int(match["width"])] if int(match["width"]) else value[start:]
    for modifier in match["modifiers"]:
        value = _MODIFIERS[modifier](value)
    return value


_MODIFIERS: dict[str, Callable[[str], str]] = {
    "L": str.lower,
    "U": str.upper,
    "T": str.strip,
    "D": lambda value: value.replace(".", ",dc="),
}


def _new_value(match: re.Match[str], user: StoreUser | None, text: str) -> str:
    if match[1] is None:
        return "%"
    name, *filters = (part.strip() for part in match[1].split("|"))
    value = _named(name, user, text)
    for one in filters:
        found = _FILTER.fullmatch(one)
        call = _FILTERS.get(found[1]) if found is not None else None
        if found is None or call is None:
            raise NoSuchStore(
                f"{text}: dboxfs can't expand {one!r}; give the final path (doveadm user NAME tells)"
            )
        try:
            value = call(value, *(int(number) for number in (found[2] or "").split(",") if number.strip()))
        except (TypeError, ValueError):
            raise NoSuchStore(f"{text}: {one!r} can't be understood; give the final path") from None
    return value


def _substr(value: str, offset: int, length: int | None = None) -> str:
    start = max(0, len(value) + offset) if offset < 0 else offset
    return value[start:] if length is None else value[start : start + length]


_FILTERS: dict[str, Callable[..., str]] = {
    "username": lambda value: value.partition("@")[0],
    "domain": lambda value: value.partition("@")[2],
    "lower": str.lower,
    "upper": str.upper,
    "substr": _substr,
}
