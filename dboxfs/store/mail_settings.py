"""Settings of a Dovecot for a store: one of 2.3, several of 2.4 (mailbox-layout 1).

A 2.4 keeps ``mail_inbox_path`` when driver and path are changed, and Debian 13 sets it.  So this module
always gives that setting, empty if INBOX is in the store.  Values are escaped so that Dovecot reads the same
path: 2.3 takes ``%`` for a variable and ``:`` for an end; 2.4 needs quotes around unusual characters (and
takes ``%{`` for a variable, which can't be escaped).
"""

from __future__ import annotations

import re

from dboxfs.store.location import Location, TreeLayout
from dboxfs.store.mailbox_names import INDEX_ESCAPE

_PLAIN = re.compile(r"[\w./@+~,=:%-]+", re.ASCII)


def mail_location(location: Location) -> str:
    """The value of ``mail_location`` for Dovecot 2.3."""
    parts = [f"{location.kind.value}:{_old(location.root)}"]
    for key, value in _keys(location):
        parts.append(f"{key}={_old(value)}")
    return ":".join([*parts, "UTF-8"] if location.utf8 else parts)


def mail_settings(location: Location) -> list[str]:
    """The settings for Dovecot 2.4, one a line."""
    lines = [f"mail_driver = {location.kind.value}", f"mail_path = {_new(location.root)}"]
    found = {_SETTINGS[key]: value for key, value in _keys(location)}
    found.setdefault("mail_inbox_path", "")
    lines += [f"{name} = {_new(value)}".rstrip() for name, value in found.items()]
    if location.full_dirname:
        lines.append("mailbox_directory_name_legacy = no")
    if _chosen_escape(location):
        lines.append(f"mailbox_list_storage_escape_char = {_new(location.escape)}")
    if location.utf8:
        lines.append("mailbox_list_utf8 = yes")
    if location.attachments is not None:
        lines.append(f"mail_ext_attachment_path = {_new(location.attachments)}")
    return lines


def for_dovecot(location: Location) -> list[str]:
    """Lines for the user, with the configuration for either Dovecot."""
    first, *others = mail_settings(location)
    lead = "for Dovecot 2.4: "
    lines = [f"for Dovecot 2.3: mail_location = {mail_location(location)}"]
    if _chosen_escape(location):
        lines.append(f"{' ' * len(lead)}plugin listescape with listescape_char = {location.escape}")
    lines.append(f"{lead}{first}")
    return lines + [" " * len(lead) + line for line in others]


_SETTINGS = {
    "INDEX": "mail_index_path",
    "INDEXCACHE": "mail_cache_path",
    "CONTROL": "mail_control_path",
    "ALT": "mail_alt_path",
    "INBOX": "mail_inbox_path",
    "VOLATILEDIR": "mail_volatile_path",
    "MAILBOXDIR": "mailbox_root_directory_name",
    "DIRNAME": "mailbox_directory_name",
    "FULLDIRNAME": "mailbox_directory_name",
    "SUBSCRIPTIONS": "mailbox_subscriptions_filename",
    "LAYOUT": "mailbox_list_layout",
    "LISTINDEX": "mailbox_list_index_prefix",
}


def _keys(location: Location) -> list[tuple[str, str]]:
    """All values of a location that differ from the defaults, by key of 2.3."""
    usual = Location(location.kind, location.root)
    paths = [
        ("INDEX", location.index),
        ("INDEXCACHE", location.index_cache),
        ("CONTROL", location.control),
        ("ALT", location.alt),
        ("INBOX", location.inbox),
        ("VOLATILEDIR", location.volatile),
    ]
    names = [
        ("LAYOUT", location.layout.value, usual.layout.value),
        ("LISTINDEX", location.list_index_name, usual.list_index_name),
        ("MAILBOXDIR", location.mailbox_dir, usual.mailbox_dir),
        ("FULLDIRNAME" if location.full_dirname else "DIRNAME", location.dirname, usual.dirname),
        ("SUBSCRIPTIONS", location.subscriptions, usual.subscriptions),
    ]
    found = [(key, value) for key, value in paths if value is not None]
    return found + [(key, value) for key, value, other in names if value != other or key == "FULLDIRNAME"]


def _chosen_escape(location: Location) -> bool:
    """Whether the location's escape character differs from the default."""
    usual = INDEX_ESCAPE if location.layout is TreeLayout.INDEX else ""
    return location.escape != usual


def _old(value: str) -> str:
    return value.replace("%", "%%").replace(":", "::")


def _new(value: str) -> str:
    if not value or _PLAIN.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
