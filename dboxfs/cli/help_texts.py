"""Texts of the help of several commands."""

from __future__ import annotations

STORE_HELP = """\
STORE is the root of the store (the directory with mailboxes/ in it), a Dovecot mail_location
such as mdbox:/srv/mail/ann:INDEX=/var/index/ann:ALT=/archive/ann, or the name of a user of the
Dovecot that is installed here. Instead of STORE:
  --user ann                              ask Dovecot (-c FILE: with another configuration)
  --set mail_driver=mdbox --set mail_path=/srv/mail/ann
                                          settings of Dovecot 2.4, as doveconf -n shows them
"""

STATUS_HELP = (
    "exit status: 0 done, 1 failed, 2 wrong usage, 3 store missing or unreadable, 4 mountpoint or FUSE"
)
