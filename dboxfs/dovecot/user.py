"""The location of one user's mail, from the installed Dovecot.

A setting can be given in four places.  The later one wins (tried with 2.3.19 and 2.4.1)::

    configuration  <  userdb field NAME  <  block of the namespace  <  userdb field namespace/TITLE/NAME

So a ``mail_path`` in the namespace's block wins over the user's own, though ``doveadm user`` prints the
latter.  The namespace is the one with ``inbox = yes``, or the only one.  Values from the userdb have no
variables any more; those from the configuration are expanded here.  Plugin settings of 2.3 are in the block
``plugin``.

A Dovecot that does not run can't be asked for its users.  Then only the configuration is used, without the
userdb: the home directory is ``mail_home``, or that of the system's user with this name.
"""

from __future__ import annotations

import dataclasses
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.dbox.cutting import Cutting, parse_hash
from dboxfs.dovecot.ask import Block, Installed, installed
from dboxfs.errors import NoDovecot, NoSuchStore, NoSuchUser
from dboxfs.store.location import Location
from dboxfs.store.location_check import check_location
from dboxfs.store.location_settings import named_by_settings
from dboxfs.store.mail_location import location_in, named_location
from dboxfs.store.user_variables import StoreUser, absolute_path, expand


@dataclass(frozen=True, slots=True)
class FoundUser:
    """The facts from Dovecot about one user.

    :ivar settings: the effective settings for the user's mail, with plain names, of the installed version.
    :ivar alone: the reason why only the configuration was used; empty: the userdb was, too.
    """

    user: StoreUser
    version: tuple[int, int]
    settings: Mapping[str, str]
    alone: str = ""
    asked: Asked | None = field(default=None, compare=False, repr=False)
    """All answers of Dovecot, for other namespaces."""

    @property
    def separator(self) -> str:
        """The separator between the parts of a mailbox's name."""
        return self.settings.get("separator") or "/"

    @property
    def prefix(self) -> str:
        """The prefix of the namespace's mailbox names, with a separator at the end."""
        return expand(self.settings.get("prefix", ""), self.user, version=self.version)

    @property
    def compression(self) -> str:
        """The compression method of new messages and its level (``gz:6``); empty: none."""
        method = self._first("mail_compress_write_method", "zlib_save")
        level = self._first(
            "zlib_save_level", f"compress_{method}_level", f"compress_{method}_block_size_100k"
        )
        return f"{method}:{level}" if method and level and method != "lz4" else method

    @property
    def cutting(self) -> Cutting | None:
        """Which parts of new messages get files of their own; None: no parts, or not in a way of dboxfs.

        Any other file system than ``posix`` and ``sis`` (equal files are stored once) alters the files.
        """
        if not self._first("mail_ext_attachment_path", "mail_attachment_dir"):
            return None
        used = set(self._first("mail_attachment_fs").split())
        for _, block in (
            self.asked.configuration.named("mail_ext_attachment") if self.asked is not None else ()
        ):
            used |= {title for title, _ in block.named("fs")}
        size = _bytes(self._first("mail_ext_attachment_min_size", "mail_attachment_min_size") or "128k")
        named = self._first("mail_ext_attachment_hash", "mail_attachment_hash").replace("%%", "%")
        digest = parse_hash(named or "%{sha1}")
        if not used <= {"posix", "sis"} or size is None or digest is None:
            return None
        return Cutting(max(size, 1), *digest)

    @property
    def described(self) -> str:
        """The store in the form of Dovecot's settings."""
        if self.version < (2, 4):
            return self.settings["mail_location"]
        driver, path = self.settings.get("mail_driver", ""), self.settings.get("mail_path", "")
        return f"mail_driver={driver} mail_path={path}"

    def location(self, *, damaged: bool = False, given: Mapping[str, str] | None = None) -> Location:
        """The user's store, after a check that it exists.

        :param damaged: as for :func:`~dboxfs.store.mail_location.parse_location`.
        :param given: settings of 2.4 that override the user's.
        :raises NoSuchStore: there is no dbox store there.
        :raises Unsupported: a dbox store of a kind that dboxfs doesn't read.
        """
        try:
            return check_location(self.planned(given), damaged=damaged)
        except NoSuchStore as error:
            raise type(error)(f"the store of {self.user.name}: {error}") from None

    def planned(self, given: Mapping[str, str] | None = None) -> Location:
        """The user's store, without a check of its files; it need not exist.

        :raises NoSuchStore: the user's mail is no dbox, or its location can't be found out.
        :raises Unsupported: as :meth:`location`.
        """
        if given or self.version >= (2, 4):
            return named_by_settings({**self.settings, **(given or {})}, self.user)
        text, user = self.settings["mail_location"], self.user
        if user.owner is not None:  # of a shared namespace: this user's variables first, then the owner's
            home = absolute_path("~", user) if "~" in text else ""
            text = re.sub("(?<=[:=])~(?=[/:]|$)", home, expand(text, user, version=(2, 3)))
            user = user.owner
        found = named_location(text, user)
        if found is None:  # like Dovecot, look at its files
            found = location_in(absolute_path(expand(text, self.user, version=(2, 3)), self.user))
        attachments = expand(self.settings.get("mail_attachment_dir", ""), self.user, version=(2, 3))
        if attachments:
            found = dataclasses.replace(found, attachments=absolute_path(attachments, self.user))
        if "listescape" in re.split("[ ,]+", self.settings.get("mail_plugins", "")):
            found = dataclasses.replace(found, escape=self.settings.get("listescape_char", "\\"))
        return found

    def _first(self, *names: str) -> str:
        return next((self.settings[name] for name in names if self.settings.get(name)), "")


def without_user(dovecot: Installed, configuration: Block) -> FoundUser:
    """The settings in the configuration, without a user."""
    asked = Asked(dovecot, configuration, StoreUser(""), {})
    settings = asked.settings(*_inbox_namespace(configuration))
    return FoundUser(asked.user, dovecot.version, settings, asked=asked)


def find_user(
    name: str, config: str | None = None, known: tuple[Installed, Block] | None = None
) -> FoundUser:
    """Ask the installed Dovecot for the location of *name*'s mail.

    :param config: Dovecot's configuration file; None: the default.
    :param known: earlier answers: the Dovecot, and its configuration.
    :raises NoSuchUser: there is no such user.
    :raises NoDovecot: no Dovecot is installed, or its configuration can't be read.
    :raises NoSuchStore: the location of the mail can't be found out.
    """
    dovecot = installed(config) if known is None else known[0]
    asked, alone = _ask(name, dovecot, dovecot.configuration() if known is None else known[1])
    settings = asked.settings(*_inbox_namespace(asked.configuration))
    needed = "mail_location" if dovecot.version < (2, 4) else "mail_driver"
    if alone and not settings.get(needed):
        what = f"Dovecot's configuration has no {needed}, and its userdb was not asked"
        raise NoSuchStore(f"{name}: {what}: {alone}; is Dovecot running?")
    if needed == "mail_location" and not settings[needed]:
        raise NoSuchStore(f"{name}: neither Dovecot's configuration nor its userdb has a mail_location")
    return FoundUser(asked.user, dovecot.version, settings, alone, asked)


class Asked(Struct, frozen=True):
    """Answers of the installed Dovecot: its configuration, and the userdb ``fields`` of one user."""

    dovecot: Installed
    configuration: Block
    user: StoreUser
    fields: Mapping[str, str]

    def settings(self, title: str, namespace: Block) -> dict[str, str]:
        """The effective settings of one namespace."""
        version = self.dovecot.version
        found = dict(self.configuration.settings)
        for _, block in self.configuration.named("plugin"):
            found |= block.settings
        inner = {key.removeprefix("plugin/"): value for key, value in self.fields.items()}
        found |= {key: _literal(value, version) for key, value in inner.items() if "/" not in key}
        here = f"namespace/{title}/"
        own = {
            key.removeprefix(here): _literal(value, version)
            for key, value in inner.items()
            if key.startswith(here)
        }
        special = namespace.settings | own
        if version < (2, 4):
            found["mail_location"] = (
                special.pop("location", "") or found.get("mail", "") or found.get("mail_location", "")
            )
        return found | special


def _ask(name: str, dovecot: Installed, configuration: Block) -> tuple[Asked, str]:
    """Dovecot's answers, and the reason if its userdb was not asked."""
    try:
        user, fields = _looked_up(name, dovecot)
    except NoDovecot as error:
        user = _from_configuration(name, configuration, dovecot)
        return Asked(dovecot, configuration, user, {}), str(error)
    return Asked(dovecot, configuration, user, fields), ""


def _looked_up(name: str, dovecot: Installed) -> tuple[StoreUser, Mapping[str, str]]:
    fields = dovecot.user(name)
    user = StoreUser(name, fields.get("home") or None, _number(fields.get("uid")), _number(fields.get("gid")))
    return user, fields


def look_up(name: str, dovecot: Installed) -> StoreUser:
    """Look up another user, who shares mail.

    :raises NoSuchUser, NoDovecot: there is no such user, or Dovecot doesn't answer.
    """
    return _looked_up(name, dovecot)[0]


def _bytes(text: str) -> int | None:
    """A size as in Dovecot's settings (``128 k``); None: it is none."""
    found = re.fullmatch(r"(\d+)\s*(?:([kmgt])(?:i?b)?|b)?", text.strip().lower())
    return int(found[1]) << 10 * (" kmgt".index(found[2] or " ")) if found is not None else None


def _literal(value: str, version: tuple[int, int]) -> str:
    """A value without variables, escaped for the expansion of settings."""
    return value.replace("%", "%%") if version < (2, 4) else value.replace("%{", "%%{")


def _inbox_namespace(configuration: Block) -> tuple[str, Block]:
    namespaces = list(configuration.named("namespace"))
    with_inbox = [found for found in namespaces if found[1].settings.get("inbox") == "yes"]
    if not with_inbox and len(namespaces) > 1:
        raise NoSuchStore("none of Dovecot's namespaces has inbox = yes; give STORE instead of a user")
    return (with_inbox or namespaces or [("", Block())])[0]


def _from_configuration(name: str, configuration: Block, dovecot: Installed) -> StoreUser:
    """The facts about a user without the userdb."""
    home = uid = gid = None
    try:
        entry = pwd.getpwnam(name)
        home, uid, gid = entry.pw_dir, entry.pw_uid, entry.pw_gid
    except KeyError:
        pass  # only Dovecot knows the user
    user = StoreUser(name, home, uid, gid)
    if text := configuration.settings.get("mail_home", ""):
        return replace(user, home=expand(text, user, version=dovecot.version))
    if home is None:
        raise NoSuchUser(
            f"{name}: Dovecot does not answer, its configuration has no mail_home, and the system has no "
            "such user"
        )
    return user


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
