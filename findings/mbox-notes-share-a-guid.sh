#!/usr/bin/env bash
# Dovecot 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6).
# Guess: a message's guid is its own, also in an mbox, where Dovecot makes it from the message.
# Seen: it is made from a few header lines alone (Message-ID, Date, Received and some more).  Messages with none of them,
# such as notes, drafts and what scripts write, all have the same one, d41d8cd98f00b204e9800998ecf8427e: the MD5 of nothing,
# whatever else their headers and texts say, and in every mailbox of every user.
# For who keeps mail: a program that takes one guid for one message (a sync, an import, a store with single copies)
# keeps one of them and takes the others for it.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian bookworm dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6
printf '%s\n' 'mail_location = mbox:/mail/boxes:INBOX=/mail/inbox' 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' >"$ROOT/mbox.conf"
install -d "$ROOT/mail/boxes"
{
    printf 'From ann@example.net Mon Jan  5 10:00:00 2026\nFrom: ann@example.net\nSubject: tea\n\nat four\n\n'
    printf 'From bob@example.org Tue Jan  6 11:00:00 2026\nFrom: bob@example.org\nSubject: accounts\n\nare due\n\n'
    printf 'From ann@example.net Wed Jan  7 12:00:00 2026\nFrom: ann@example.net\nMessage-ID: <1@example.net>\nSubject: tea\n\nat five\n\n'
} >"$ROOT/mail/inbox"
inside chown -R vmail:vmail /mail
guids() { inside doveadm -c /mbox.conf fetch guid mailbox INBOX 2>"$WORK/log" | sed -n 's/^guid: //p'; }
guids >"$WORK/guids" || { tail -n 3 "$WORK/log" >&2; exit 2; }
as_described messages 3 "$(wc -l <"$WORK/guids")"
as_described 'guid of the first' d41d8cd98f00b204e9800998ecf8427e "$(sed -n 1p "$WORK/guids")"
as_described 'guid of the second' d41d8cd98f00b204e9800998ecf8427e "$(sed -n 2p "$WORK/guids")"
as_described 'guids of three messages' 2 "$(sort -u "$WORK/guids" | wc -l)"
