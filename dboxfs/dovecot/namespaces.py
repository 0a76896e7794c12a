"""The namespaces of one user, from the installed Dovecot: private, public, and shared by other users.

The namespaces are those that Dovecot's LIST shows: without those with ``list = no``, ``disabled = yes`` or
``alias_for``, and without a second one with the same store.

A shared namespace stands for many stores: its prefix and location have the variables of an owner
(``shared/%%u/`` and ``%%h`` in 2.3, ``shared/$user/`` and ``%{owner_home}`` in 2.4).  ``doveadm mailbox
list`` for this user gives the owners and the mailboxes that they share.

With the plugin ``acl``, a public or shared namespace has only the mailboxes of this list whose rights include
``read`` (``doveadm acl rights``) at the time of the call.  Rights to write are not checked.

Source: doveadm and doveconf of 2.3.19 and 2.4.1 with such namespaces.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.dovecot.user import Asked, FoundUser, look_up
from dboxfs.errors import NoDovecot, NoSuchStore, NoSuchUser, Unsupported
from dboxfs.store.location import Location
from dboxfs.store.user_variables import StoreUser

Tell = Callable[[str], None]
"""Takes one line about a namespace that is left out."""

_OWNER = re.compile(r"%%([und])|\$(user(?:name)?|domain)")
_FIELD = {"u": "user", "user": "user", "n": "name", "username": "name", "d": "domain", "domain": "domain"}


class Namespace(Struct, frozen=True):
    """One namespace, or the part of a shared one that has one owner.

    :ivar path: the names of the directories that lead to it: the parts of its prefix behind that of the
        namespace with the INBOX, which is the root.
    :ivar prefix: Dovecot's, with the separator at the end.
    :ivar private: it belongs to this user.
    """

    path: tuple[str, ...]
    prefix: str
    separator: str
    location: Location
    private: bool


class _Planned(Struct, frozen=True):
    """A namespace whose store was not checked yet."""

    found: FoundUser
    prefix: str
    private: bool


def other_namespaces(found: FoundUser, location: Location, tell: Tell) -> list[Namespace]:
    """All namespaces that Dovecot lists for this user, without the one with the INBOX.

    :param location: of the namespace with the INBOX.
    :param tell: called with the reason for each one that is left out.
    """
    asked = found.asked
    if asked is None:
        return []
    made: list[Namespace] = []
    for planned in _planned(asked, found, tell):
        if planned.prefix == found.prefix:
            continue
        try:
            place = planned.found.location()
            seen = (location.root, location.layout), *((n.location.root, n.location.layout) for n in made)
            if (place.root, place.layout) in seen:
                raise NoSuchStore(f"{place.root} is shown already")
            separator = planned.found.separator
            parts = planned.prefix.removeprefix(found.prefix).split(separator)
            path = tuple(part for part in parts if part)
            namespace = Namespace(path, planned.prefix, separator, place, planned.private)
            made.append(_as_shown(namespace, asked, planned, location, found.prefix))
        except (NoSuchStore, Unsupported, NoDovecot) as error:
            tell(f"namespace {planned.prefix}: left out: {error}")
    return made


def _as_shown(
    namespace: Namespace, asked: Asked, planned: _Planned, main: Location, main_prefix: str
) -> Namespace:
    """The namespace with the mailboxes that this user may read, and with Dovecot's file of subscriptions."""
    place = namespace.location
    if planned.found.settings.get("subscriptions") == "no" and namespace.prefix.startswith(main_prefix):
        parts = (main.names.stored(part) + namespace.separator for part in namespace.path)
        subscribed_as = "".join(parts)
        place = dataclasses.replace(place, subscribed_in=main.subscriptions_path, subscribed_as=subscribed_as)
    if not planned.private and _has_acl(asked, planned.found):
        place = dataclasses.replace(place, only=frozenset(_readable(namespace, asked)))
    return replace(namespace, location=place)


def _readable(namespace: Namespace, asked: Asked) -> Iterator[str]:
    """The storage names of the mailboxes of a namespace that this user may read."""
    user = asked.user.name
    listed = [name for name in asked.dovecot.mailboxes(user) if name.startswith(namespace.prefix)]
    for name in dict.fromkeys((namespace.prefix + "INBOX", *listed)):
        if asked.dovecot.may_read(user, name):
            parts = name.removeprefix(namespace.prefix).split(namespace.separator)
            yield "/".join(namespace.location.names.stored(part) for part in parts)


def _has_acl(asked: Asked, found: FoundUser) -> bool:
    """Whether the plugin ``acl`` is enabled."""
    if asked.dovecot.version < (2, 4):
        return "acl" in re.split("[ ,]+", found.settings.get("mail_plugins", ""))
    blocks = (block for _, block in asked.configuration.named("mail_plugins"))
    in_list = "acl" in re.split("[ ,]+", found.settings.get("mail_plugins", ""))
    return (
        found.settings.get("mail_plugins/acl") == "yes"
        or in_list
        or any(block.settings.get("acl") == "yes" for block in blocks)
    )


def _planned(asked: Asked, main: FoundUser, tell: Tell) -> Iterator[_Planned]:
    for title, block in asked.configuration.named("namespace"):
        settings = asked.settings(title, block)
        if settings.get("inbox") == "yes" or settings.get("disabled") == "yes" or settings.get("alias_for"):
            continue
        if settings.get("list") == "no":
            continue
        kind = settings.get("type", "private")
        found = dataclasses.replace(main, settings=settings)
        if kind != "shared":
            yield _Planned(found, found.prefix, kind == "private")
            continue
        try:
            yield from _shared(asked, found, settings.get("prefix", ""))
        except (NoDovecot, NoSuchUser) as error:
            tell(f"namespace {settings.get('prefix', title)}: left out: {error}")


def _shared(asked: Asked, found: FoundUser, prefix: str) -> Iterator[_Planned]:
    """The parts of a shared namespace, one for each owner."""
    if not _OWNER.search(prefix):
        raise NoDovecot("its prefix names no owner")
    separator = found.separator
    owners = _owners(asked, prefix, separator)
    for owner_prefix, name in owners:
        owner = look_up(name, asked.dovecot)
        yield _Planned(_of_owner(found, owner), owner_prefix, private=False)


def _owners(asked: Asked, prefix: str, separator: str) -> Sequence[tuple[str, str]]:
    """The prefix and name of each user that shares mailboxes with this one."""
    pattern, at = "", 0
    for match in _OWNER.finditer(prefix):
        part = f"(?P<{_FIELD[match[1] or match[2]]}>[^{re.escape(separator)}]+)"
        pattern += re.escape(prefix[at : match.start()]) + part
        at = match.end()
    pattern += re.escape(prefix[at:].removesuffix(separator))
    found: dict[str, str] = {}
    for name in asked.dovecot.mailboxes(asked.user.name):
        matched = re.match(rf"{pattern}(?={re.escape(separator)}|$)", name)
        if matched is not None:
            values = matched.groupdict()
            user = values.get("user") or values.get("name", "")
            domain = values.get("domain") or ("" if "user" in values else asked.user.domain)
            found[matched[0] + separator] = f"{user}@{domain}" if domain else user
    return list(found.items())


def _of_owner(found: FoundUser, owner: StoreUser) -> FoundUser:
    return dataclasses.replace(found, user=replace(found.user, owner=owner))
