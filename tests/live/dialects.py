"""What a Dovecot has to be told, in the language of the version that is installed: 2.3 or 2.4.

Tests speak the language of 2.3: a ``mail_location`` and settings by their names of 2.3 (``zlib_save``,
``mail_attachment_dir`` …).  A :class:`Dialect` writes the configuration of the private Dovecot, and says
which userdb fields mean the same to the version at hand.  A setting that it has no word for is an error, so
that no test runs against another store than the one it asked for.
"""

from __future__ import annotations

import base64
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Instance:
    """What the configuration of one private Dovecot is made of.

    ``login_user``: of processes that talk to clients before they are logged in; ``port``: of IMAP.
    """

    root: Path
    port: int
    mail_user: str
    mail_group: str
    internal_user: str
    internal_group: str
    login_user: str
    static: str = ""
    """A ``mail_location`` of all users, who are then not looked up in files."""
    namespaces: Namespaces | None = None


@dataclass(frozen=True, slots=True)
class Namespaces:
    """More namespaces than the one with the INBOX, with rights (plugin ``acl``).

    ``Archive``: private, an sdbox with LAYOUT=index; ``Public``: an sdbox for all; and mdboxes of other users
    below ``owner``.

    :ivar owner: what the directory of an owner is called, with the variables of 2.3.
    :ivar prefix: of the namespace with the INBOX.
    """

    separator: str = "/"
    prefix: str = ""
    owner: str = "%%u"

    def blocks(self, places: Mapping[str, Sequence[str]]) -> str:
        """The further namespaces; *places*: the settings that say where each is."""
        found = []
        for name, lines in places.items():
            more = {"Public": ["type = public"], "shared": ["type = shared", "list = children"]}.get(name, [])
            prefix = f"{self.prefix}{name}{self.separator}"
            if name == "shared":
                prefix = f"{name}{self.separator}{self.owner}{self.separator}"
            own = [f"separator = {self.separator}", f"prefix = {prefix}", *more, *lines]
            if name != "Archive":
                own.append("subscriptions = no")
            found.append("\n  ".join([f"namespace {name.lower()} {{", *own]) + "\n}\n")
        return "".join(found)


class Dialect(Protocol):
    """One version's language."""

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor number."""

    @property
    def compressions(self) -> tuple[str, ...]:
        """Values of ``zlib_save`` that this version writes and reads."""

    def configuration(self, instance: Instance) -> str:
        """The text of the configuration file."""

    def userdb(self, mail: str, settings: Mapping[str, str]) -> dict[str, str]:
        """Userdb fields, without their prefix, for a ``mail_location`` and settings of 2.3.

        :raises ValueError: this version has no word for one of them.
        """

    def cached_date(self, seconds: int) -> int:
        """What is told of a date once it is in the cache file, which has 32 bits for it: the same number for
        dates that it tells alike.
        """

    def compress_option(self, method: str) -> str:
        """The argument of ``doveadm -o`` that has it compress what it saves."""

    def escapes(self, escape: str) -> dict[str, str]:
        """Settings for an escape character in stored names."""

    def options(self, mail: str) -> list[str]:
        """The arguments of ``doveadm`` that name the store *mail* for one command."""

    def crypt_keys(self, private: Path, public: Path) -> dict[str, str]:
        """Settings, as :meth:`userdb` takes them, for ``mail_crypt`` with one global pair of keys (PEM)."""

    def folder_keys(self, curve: str, password: str) -> dict[str, str]:
        """Settings for ``mail_crypt`` with folder keys, which are in ``~/dovecot-attributes``.

        :param password: of the user's key; empty: it has none.
        """


_COMMON = """\
base_dir = {i.root}/run
state_dir = {i.root}/state
log_path = {i.root}/dovecot.log
default_internal_user = {i.internal_user}
default_internal_group = {i.internal_group}
default_login_user = {i.login_user}
default_process_limit = 40
default_client_limit = 200
mail_uid = {i.mail_user}
mail_gid = {i.mail_group}
first_valid_uid = 1
ssl = no
listen = 127.0.0.1
mail_max_userip_connections = 100
namespace inbox {{
  inbox = yes
  separator = {separator}
  prefix = {prefix}
}}
service anvil {{
  chroot =
}}
"""
_LISTENER = """\
service imap-login {{
  chroot =
  inet_listener imap {{
    {listen} = 127.0.0.1
    port = {i.port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""


def _common(instance: Instance, listen: str) -> str:
    own = instance.namespaces or Namespaces()
    text = _COMMON.format(i=instance, separator=own.separator, prefix=own.prefix)
    return text + _LISTENER.format(i=instance, listen=listen)


class Dialect23:
    """Dovecot 2.3."""

    version = (2, 3)
    compressions = ("gz", "bz2", "zstd", "lz4", "xz")

    def configuration(self, instance: Instance) -> str:
        common = _common(instance, "address") + self._namespaces(instance)
        plugins = "zlib" if instance.namespaces is None else "zlib acl"
        return f"""\
{common}\
protocols = imap lmtp
disable_plaintext_auth = no
mail_home = {instance.root}/home/%u
mail_plugins = {plugins}
passdb {{
  driver = static
  args = nopassword=y
}}
{self._userdb(instance)}\
"""

    def _namespaces(self, i: Instance) -> str:
        if i.namespaces is None:
            return ""
        places = {
            "Archive": ["location = sdbox:~/archive:LAYOUT=index"],
            "Public": [f"location = sdbox:{i.root}/public"],
            "shared": ["location = mdbox:%%h/mail"],
        }
        rights = f"plugin {{\n  acl = vfile\n  acl_shared_dict = file:{i.root}/public/shared.db\n}}\n"
        return i.namespaces.blocks(places) + rights

    def _userdb(self, i: Instance) -> str:
        if not i.static:
            return f"userdb {{\n  driver = passwd-file\n  args = {i.root}/users/%u\n}}\n"
        args = f"uid={i.mail_user} gid={i.mail_group} home={i.root}/home/%u"
        return f"mail_location = {i.static}\nuserdb {{\n  driver = static\n  args = {args}\n}}\n"

    def userdb(self, mail: str, settings: Mapping[str, str]) -> dict[str, str]:
        return {"mail": mail, **settings}

    def cached_date(self, seconds: int) -> int:
        return seconds % (1 << 32)

    def compress_option(self, method: str) -> str:
        return f"plugin/zlib_save={method}"

    def escapes(self, escape: str) -> dict[str, str]:
        return {"mail_plugins": "zlib,listescape", "listescape_char": escape}

    def options(self, mail: str) -> list[str]:
        return ["-o", f"mail_location={mail}"]

    def crypt_keys(self, private: Path, public: Path) -> dict[str, str]:
        return {
            "mail_plugins": "mail_crypt,zlib",
            "mail_crypt_global_private_key": base64.b64encode(private.read_bytes()).decode(),
            "mail_crypt_global_public_key": base64.b64encode(public.read_bytes()).decode(),
            "mail_crypt_save_version": "2",
        }

    def folder_keys(self, curve: str, password: str) -> dict[str, str]:
        return {
            "mail_plugins": "mail_crypt,zlib",
            "mail_crypt_curve": curve,
            "mail_crypt_save_version": "2",
            "mail_attribute_dict": "file:{home}/dovecot-attributes",
            **({"mail_crypt_private_password": password} if password else {}),
        }


_KEYS_24 = {
    "INDEX": "mail_index_path",
    "INDEXCACHE": "mail_cache_path",
    "CONTROL": "mail_control_path",
    "ALT": "mail_alt_path",
    "INBOX": "mail_inbox_path",
    "VOLATILEDIR": "mail_volatile_path",
    "LAYOUT": "mailbox_list_layout",
    "DIRNAME": "mailbox_directory_name",
    "FULLDIRNAME": "mailbox_directory_name",
    "MAILBOXDIR": "mailbox_root_directory_name",
    "SUBSCRIPTIONS": "mailbox_subscriptions_filename",
    "LISTINDEX": "mailbox_list_index_prefix",
}
_SETTINGS_24 = {
    "zlib_save": "mail_compress_write_method",
    "mail_attachment_dir": "mail_ext_attachment_path",
    "mail_attachment_min_size": "mail_ext_attachment_min_size",
    "mail_attachment_hash": "mail_ext_attachment_hash",
}
_SAME_24 = frozenset(
    {
        "lock_method",
        "mailbox_list_storage_escape_char",
        "mail_always_cache_fields",
        "mail_never_cache_fields",
        "mdbox_rotate_interval",
        "mdbox_rotate_size",
    }
)
_PLUGINS_24 = {"zlib": "mail_compress"}


class Dialect24:
    """Dovecot 2.4."""

    version = (2, 4)
    compressions = ("gz", "bz2", "zstd", "lz4")

    def configuration(self, instance: Instance) -> str:
        common = _common(instance, "listen") + self._namespaces(instance)
        acl = "" if instance.namespaces is None else "  acl = yes\n"
        return f"""\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
{common}\
protocols = imap lmtp
auth_allow_cleartext = yes
mail_home = {instance.root}/home/%{{user}}
mail_plugins {{
  mail_compress = yes
{acl}\
}}
passdb static {{
  fields {{
    nopassword = yes
  }}
}}
{self._userdb(instance)}\
mail_ext_attachment {{
  fs posix {{
  }}
}}
mail_attribute {{
  dict file {{
    path = %{{home}}/dovecot-attributes
  }}
}}
"""

    def _namespaces(self, i: Instance) -> str:
        if i.namespaces is None:
            return ""
        places = {
            "Archive": ["mail_driver = sdbox", "mail_path = ~/archive", "mailbox_list_layout = index"],
            "Public": ["mail_driver = sdbox", f"mail_path = {i.root}/public"],
            "shared": ["mail_driver = mdbox", "mail_path = %{owner_home}/mail"],
        }
        words = {"%%u": "$user", "%%n": "$username", "%%d": "$domain"}
        owner = re.sub("%%[und]", lambda match: words[match[0]], i.namespaces.owner)
        path = f"{i.root}/public/shared.db"
        rights = f"acl_driver = vfile\nacl_sharing_map {{\n  dict file {{\n    path = {path}\n  }}\n}}\n"
        return replace(i.namespaces, owner=owner).blocks(places) + rights

    def _userdb(self, i: Instance) -> str:
        if not i.static:
            return f"userdb passwd-file {{\n  passwd_file_path = {i.root}/users/%{{user}}\n}}\n"
        fields = {"uid": i.mail_user, "gid": i.mail_group, "home": f"{i.root}/home/%{{user}}"}
        lines = [f"{name} = {value}" for name, value in _location_24(i.static).items()]
        lines += ["userdb static {", "  fields {", *(f"    {n} = {v}" for n, v in fields.items()), "  }", "}"]
        return "\n".join([*lines, ""])

    def userdb(self, mail: str, settings: Mapping[str, str]) -> dict[str, str]:
        """The configuration gives posix attachments already, and sis files are not made by this version."""
        fields = _location_24(mail) if mail else {}
        for key, value in settings.items():
            if key == "mail_plugins":
                names = [_PLUGINS_24.get(name, name) for name in value.split(",")]
                fields |= {f"mail_plugins/{name}": "yes" for name in names}
                fields.setdefault("mail_plugins/mail_compress", "no")
            elif key in _SETTINGS_24:
                fields[_SETTINGS_24[key]] = value
            elif key in _SAME_24 or key.startswith("crypt_"):
                fields[key] = value
            elif (key, value) != ("mail_attachment_fs", "posix"):
                raise ValueError(f"no setting of Dovecot 2.4 is known that means {key}={value}")
        return fields

    def cached_date(self, seconds: int) -> int:
        return min(max(seconds, 0), (1 << 32) - 1)

    def compress_option(self, method: str) -> str:
        return f"mail_compress_write_method={method}"

    def escapes(self, escape: str) -> dict[str, str]:
        return {"mailbox_list_storage_escape_char": escape}

    def options(self, mail: str) -> list[str]:
        return [arg for name, value in _location_24(mail).items() for arg in ("-o", f"{name}={value}")]

    def crypt_keys(self, private: Path, public: Path) -> dict[str, str]:
        return {
            "mail_plugins": "mail_crypt,zlib",
            "crypt_global_public_key_file": str(public),
            "crypt_global_private_key": "main",
            "crypt_global_private_key/main/crypt_private_key_file": str(private),
        }

    def folder_keys(self, curve: str, password: str) -> dict[str, str]:
        return {
            "mail_plugins": "mail_crypt,zlib",
            "crypt_user_key_curve": curve,
            **({"crypt_user_key_password": password} if password else {}),
        }


def _location_24(mail: str) -> dict[str, str]:
    driver, path, *parts = re.split(r"(?<!:):(?!:)", mail)
    fields = {"mail_driver": driver, **({"mail_path": path} if path else {})}
    for part in parts:
        key, _, value = part.partition("=")
        if key == "UTF-8":
            fields["mailbox_list_utf8"] = "yes"
            continue
        if key == "NO-NOSELECT":
            fields["mailbox_list_drop_noselect"] = "yes"
            continue
        fields[_KEYS_24[key]] = value
        if key == "FULLDIRNAME":
            fields["mailbox_directory_name_legacy"] = "no"
    return fields


def dovecot_binary() -> str:
    """The path of ``dovecot``.

    :raises FileNotFoundError: it is not installed.
    """
    binary = shutil.which("dovecot", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if binary is None:
        raise FileNotFoundError("dovecot is not installed: run scripts/setup")
    return binary


@functools.cache
def installed() -> Dialect:
    """The language of the Dovecot on this machine."""
    said = subprocess.run([dovecot_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return Dialect23() if said.startswith("2.3.") else Dialect24()
