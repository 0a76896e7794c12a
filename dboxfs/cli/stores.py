"""STORE on the command line, in every notation that Dovecot has for it.

``STORE`` is a directory, a ``mail_location`` of 2.3, or the bare name of a user if no such path exists.
``--set NAME=VALUE`` names the store by settings of 2.4, or by ``mail_location``; ``--user NAME`` asks the
installed Dovecot (:mod:`dboxfs.dovecot`).  With either there is no argument STORE: ``cli/main.py`` decides
before it parses the arguments whether a command has one, since argparse can't tell which one of two arguments
is missing.

If ``--set`` gives the place of the mail, no setting of Dovecot is used, and ``--user`` only gives the
variables and the home.  Otherwise the settings of ``--set`` replace those of Dovecot.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re

from msgspec import Struct

from dboxfs.cli.logs import tell
from dboxfs.cli.object_store import NO_ARCHIVE, add_access
from dboxfs.cli.of_dovecot import OfDovecot
from dboxfs.cli.status import UsageError
from dboxfs.dbox.encoders import Method, parse_method
from dboxfs.dovecot.user import FoundUser, find_user
from dboxfs.errors import NoDovecot, NoSuchStore, NoSuchUser
from dboxfs.fsapi.drivers.object_client import is_url
from dboxfs.store.location import Kind, Location
from dboxfs.store.location_settings import NAMES, location_of, named_by_settings
from dboxfs.store.mail_location import named_location, parse_location
from dboxfs.store.user_variables import StoreUser, absolute_path

NOT_AN_ARCHIVE = "--at: says which generation of an archive: it needs the URL of one"

_BARE = re.compile(r"[\w.@+=-]*[\w@+=-]", re.ASCII)
"""Texts that can be the name of a user, and are not ``.``, ``..`` or a path."""


class Chosen(Struct, frozen=True):
    """The store that the command line names; ``found``: Dovecot's answer about its user."""

    location: Location
    found: FoundUser | None = None

    @property
    def of_dovecot(self) -> OfDovecot:
        """What Dovecot does for its user."""
        return OfDovecot(self.found)


def add_store(
    parser: argparse.ArgumentParser,
    *,
    by_option: bool,
    metavar: str = "STORE",
    optional: bool = False,
    users: bool = False,
) -> None:
    """Declare STORE, and the options in place of it.

    :param by_option: the command line has such options: declare no argument STORE.
    :param optional: STORE may be left out.
    :param users: the command takes all users of a site, too (:mod:`dboxfs.cli.site`).
    """
    if not by_option:
        parser.add_argument("store", metavar=metavar, nargs="?" if optional else None)
    parser.add_argument(
        "--user", metavar="NAME", help=f"instead of {metavar}: a user of the installed Dovecot"
    )
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], type=_setting, metavar="NAME=VALUE",
        help=f"instead of {metavar}: a setting of Dovecot (mail_driver, mail_path ...)",
    )  # fmt: skip
    if users:
        parser.add_argument(
            "--users", metavar="SOURCE", help=f"instead of {metavar}: all users of a site; see below"
        )
    parser.add_argument("-c", "--config", metavar="FILE", help="Dovecot's configuration, for --user")
    if by_option:
        parser.set_defaults(store=None)


def compress_method(text: str) -> Method | None:
    """An argument with a compression method.

    :raises argparse.ArgumentTypeError: it is no method.
    """
    try:
        return parse_method(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE")
    if name not in NAMES and name != "mail_location":
        raise argparse.ArgumentTypeError(
            f"{name!r} is no setting that says where a store is; these do: mail_location, "
            + ", ".join(sorted(NAMES))
        )
    return name, value


def add_at(parser: argparse.ArgumentParser) -> None:
    """Declare which generation of an archive is meant, and how its server is asked."""
    parser.add_argument(
        "--at",
        metavar="DATE",
        type=_at,
        help="of an archive: the newest generation before that day or time (local time; UTC with a Z)",
    )
    add_access(parser)


def _at(text: str) -> str:
    from dboxfs.tools.archive.view import parse_at  # a mount of a store needs no archive

    try:
        return parse_at(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_url(url: str) -> None:
    """
    :raises UsageError: it names no object store, or has credentials in it.
    """
    if not is_url(url) or not url.partition("://")[2].strip("/"):
        raise UsageError(
            f"{url}: no URL of an object store: s3://BUCKET/PREFIX, gs://, az://, file:///DIRECTORY"
        )
    place, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
    if at and ":" in place:
        raise UsageError(
            "URL: credentials don't belong into it, where everybody sees them; use the environment"
        )


def choose_store(arguments: argparse.Namespace, *, damaged: bool = False, archives: bool = False) -> Chosen:
    """The store that *arguments* name.  If Dovecot's userdb does not answer, a line on stderr says so.

    :param damaged: parts of the store may be missing.
    :param archives: the command takes an archive on an object store; the URL is the root of the location.
    :raises UsageError: the arguments contradict each other.
    :raises NoSuchStore: the store is missing, or is no dbox store; the user or a Dovecot is missing.
    :raises Unsupported: a dbox store of a kind that dboxfs doesn't read.
    """
    if archives and not (arguments.store and is_url(arguments.store)):
        if getattr(arguments, "at", None) is not None:
            raise UsageError(NOT_AN_ARCHIVE)
        if getattr(arguments, "ca_file", None) is not None:
            raise UsageError(f"--ca-file: {NO_ARCHIVE}")
    if is_one_of_all(arguments):
        return Chosen(arguments.each(damaged))
    settings = dict(arguments.settings)
    if settings and ("mail_location" in settings or "mail_path" in settings or arguments.user is None):
        user = None if arguments.user is None else _whose(arguments.user, arguments.config)
        return Chosen(_by_settings(settings, user, damaged=damaged))
    if arguments.user is not None:
        found = find_user(arguments.user, arguments.config)
        _not_old(found, settings)
        return _told(found, damaged=damaged, settings=settings)
    if is_url(arguments.store):
        check_url(arguments.store)
        if not archives:
            raise UsageError(
                f"{arguments.store}: this command takes no archive, only a store on this machine"
            )
        return Chosen(Location(Kind.MDBOX, arguments.store.rstrip("/")))
    try:
        return Chosen(parse_location(arguments.store, damaged=damaged))
    except NoSuchStore as error:
        if not _BARE.fullmatch(arguments.store) or os.path.lexists(arguments.store):
            raise
        try:
            found = find_user(arguments.store, arguments.config)
        except NoSuchUser:
            raise NoSuchStore(f"{arguments.store}: neither a directory nor a user of Dovecot") from None
        except NoDovecot:
            raise error from None
    return _told(found, damaged=damaged, settings={})


def is_one_of_all(arguments: argparse.Namespace) -> bool:
    """Whether this is the run for one of all users (:mod:`dboxfs.cli.each_user`)."""
    return getattr(arguments, "each", None) is not None


def choose_new_store(arguments: argparse.Namespace) -> Chosen:
    """The new store that *arguments* name.

    A directory needs ``--format``; its contents are not checked here.  A bare name means a directory.

    :raises UsageError: the arguments contradict each other, or give no format.
    :raises NoSuchStore, Unsupported: as :func:`choose_store`, but the store need not exist.
    """
    if arguments.store == "":
        raise UsageError("STORE: it is empty: name a directory, or a mail location")
    chosen = _planned(arguments)
    if arguments.format not in (None, chosen.location.kind.value):
        raise UsageError(f"--format {arguments.format}: the location says {chosen.location.kind.value}")
    return chosen


def _planned(arguments: argparse.Namespace) -> Chosen:
    settings = dict(arguments.settings)
    if settings and ("mail_location" in settings or "mail_path" in settings or arguments.user is None):
        user = None if arguments.user is None else _whose(arguments.user, arguments.config)
        if "mail_location" not in settings:
            return Chosen(named_by_settings(settings, user))
        _alone(settings)
        text = settings["mail_location"]
    elif arguments.user is not None:
        found = find_user(arguments.user, arguments.config)
        _not_old(found, settings)
        _tell_alone(found)
        return Chosen(found.planned(settings), found)
    else:
        user, text = None, arguments.store
    location = named_location(text, user)
    if location is None:
        if arguments.format is None:
            raise UsageError(
                f"{text}: a directory alone doesn't say the format: give --format sdbox or --format mdbox"
            )
        location = Location(Kind(arguments.format), absolute_path(text, user))
    return Chosen(location)


def _told(found: FoundUser, *, damaged: bool, settings: dict[str, str]) -> Chosen:
    _tell_alone(found)
    return Chosen(found.location(damaged=damaged, given=settings), found)


def _tell_alone(found: FoundUser) -> None:
    if found.alone:
        text = (
            f"{found.user.name}: from Dovecot's configuration alone, its userdb was not asked: {found.alone}"
        )
        tell(text)


def _not_old(found: FoundUser, settings: dict[str, str]) -> None:
    if settings and found.version < (2, 4):
        raise UsageError("--set: with Dovecot 2.3 give the whole --set mail_location=...")


def _alone(settings: dict[str, str]) -> None:
    if len(settings) > 1:
        raise UsageError("--set mail_location=... is Dovecot 2.3's, and says everything; give it alone")


def _by_settings(settings: dict[str, str], user: StoreUser | None, *, damaged: bool) -> Location:
    if "mail_location" not in settings:
        return location_of(settings, damaged=damaged, user=user)
    _alone(settings)
    return parse_location(settings["mail_location"], damaged=damaged, user=user)


def _whose(name: str, config: str | None) -> StoreUser:
    """The user who gives variables and home: as Dovecot has the user, else as the system has."""
    try:
        return find_user(name, config).user
    except NoSuchUser:
        raise
    except NoSuchStore:
        pass  # no Dovecot, or no place of the mail from it: --set gives the place
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return StoreUser(name)
    return StoreUser(name, entry.pw_dir, entry.pw_uid, entry.pw_gid)
