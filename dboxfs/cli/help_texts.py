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

MOUNT_HELP = """\
A mailbox is a directory, a message a file (17.eml has the uid 17). The modification time of a message is
the date when it was received; everything else is in extended attributes (getfattr -d): user.dbox.uid, guid,
flags, keywords, received, saved, virtual_size, location; of a mailbox: uidvalidity, uidnext, messages,
unseen, subscribed. In a writable mount (-o rw) a new file is a new message, mv moves, ln copies and rm
expunges one, and setfattr -n user.dbox.flags sets flags; changes of Dovecot show up within a second.

The directory .dboxfs in the mount is never listed; it has, for the owner of the store alone:
  stats.json, metrics, locks   how the mount does, for people and for Prometheus
  events, trace                each change in the store, each request, a line each
  unseen, flagged, keyword/K, since/DATE
                               links to messages by flag, keyword and date
  deleted/MAILBOX              expunged messages of an mdbox, until a purge; mv brings one back
  parts/MAILBOX/UID            decoded parts of a message
  raw                          the files of the store, all of one moment
"""

EXAMPLES_HELP = """\
find messages by word, by flag, by sender:
  dboxfs mount ann ~/mnt
  grep -rl 'Invoice 4711' ~/mnt
  dboxfs ls ~/mnt --flagged --from bob@
  getfattr -d ~/mnt/INBOX/17.eml

see how the mount does:
  dboxfs status
  dboxfs stats ~/mnt

back up, and put one message of the newest backup back (into the live mailbox, with flags and dates):
  cd ~/mnt && restic -r ~/repo backup .
  dboxfs umount ~/mnt && dboxfs mount -o restore ann ~/mnt
  restic -r ~/repo restore latest --target ~/mnt --include /INBOX/17.eml
  dboxfs umount ~/mnt

bring back what was expunged and not purged yet (mdbox):
  dboxfs undelete ann --list
  dboxfs undelete ann --guid 2bad993460ad0d6be316000083ecc375

what is in the way on this machine:
  dboxfs doctor ann
"""
