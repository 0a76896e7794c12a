"""The location of a store in the settings of Dovecot 2.4, with the names that ``doveconf -n`` prints.

``mail_driver`` and ``mail_path`` are the beginning of a ``mail_location`` of 2.3; each of its keys is a
separate setting.  A setting without a value counts as missing.  ``mail_path`` has a default for each driver
(``%{home}/sdbox``, ``%{home}/mdbox``).  ``mailbox_directory_name`` is DIRNAME, or FULLDIRNAME with
``mailbox_directory_name_legacy = no``.

Settings that have nothing to do with paths are ignored; the caller refuses unknown names (:data:`NAMES`).

Source: dovecot-2.4 (settings).
"""

from __future__ import annotations

from collections.abc import Mapping

from dboxfs.errors import NoSuchStore
from dboxfs.store.location import Location, TreeLayout
from dboxfs.store.location_check import check_location
from dboxfs.store.mail_location import layout_of, location_with, require_index_on_disk
from dboxfs.store.user_variables import StoreUser, absolute_path, expand

_PATHS = {
    "mail_index_path": "index",
    "mail_cache_path": "index_cache",
    "mail_control_path": "control",
    "mail_alt_path": "alt",
    "mail_inbox_path": "inbox",
    "mail_volatile_path": "volatile",
    "mail_ext_attachment_path": "attachments",
}
_WORDS = {
    "mailbox_root_directory_name": "mailbox_dir",
    "mailbox_directory_name": "dirname",
    "mailbox_subscriptions_filename": "subscriptions",
    "mailbox_list_index_prefix": "list_index_name",
    "mailbox_list_storage_escape_char": "escape",
}
_OTHERS = (
    "mail_driver",
    "mail_path",
    "mailbox_list_layout",
    "mailbox_list_utf8",
    "mailbox_directory_name_legacy",
)
NAMES = frozenset({*_PATHS, *_WORDS, *_OTHERS})
"""The settings of a store's location."""


def location_of(
    settings: Mapping[str, str], *, damaged: bool = False, user: StoreUser | None = None
) -> Location:
    """The location in these settings, after a check that the store exists.

    :param user: the store's user, for ``%{user}``, ``%{home}`` and ``~``; None: unknown.
    :param damaged: as for :func:`~dboxfs.store.mail_location.parse_location`.
    :raises NoSuchStore: no store, no dbox, not readable; or no driver, or no path.
    :raises Unsupported: a dbox store of a kind that dboxfs doesn't read.
    """
    return check_location(named_by_settings(settings, user), damaged=damaged)


def named_by_settings(settings: Mapping[str, str], user: StoreUser | None = None) -> Location:
    """The location in these settings, without a check of the files.

    :raises NoSuchStore: no driver, no path, or no dbox.
    :raises Unsupported: as :func:`location_of`.
    """

    def value(name: str) -> str:
        return expand(settings.get(name, ""), user, version=(2, 4))

    driver = value("mail_driver")
    if not driver:
        raise NoSuchStore("mail_driver is not set; dboxfs needs mail_driver = sdbox or mdbox")
    path = value("mail_path") or expand(f"%{{home}}/{driver}", user, version=(2, 4))
    root = absolute_path(path, user)
    require_index_on_disk(value("mail_index_path"), root)
    layout = layout_of(value("mailbox_list_layout") or "fs", root)
    found: dict[str, str | bool | TreeLayout] = {"layout": layout}
    for name, field in _PATHS.items():
        if text := value(name):
            found[field] = absolute_path(text, user)
    for name, field in _WORDS.items():
        if text := value(name):
            found[field] = text
    found["utf8"] = value("mailbox_list_utf8") == "yes"
    found["full_dirname"] = "dirname" in found and value("mailbox_directory_name_legacy") == "no"
    return location_with(driver, root, found)
