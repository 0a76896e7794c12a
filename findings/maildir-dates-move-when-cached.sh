#!/usr/bin/env bash
# Dovecot 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6).
# Guess: the received date of a message in a Maildir is the time of its file, each time it is asked for.
# Seen: that is so the first time, for 1960 and for 2110 too.  Dovecot keeps the date in its cache file in 32 bits, and from the
# second time on the message is from 2096, or from 1974: it is wrong by 2^32 seconds until the cache file goes.
# For who keeps mail: two backups of an untouched mailbox differ, and the later one is wrong; a sync that
# compares dates moves the message 136 years.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian bookworm dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6
printf '%s\n' 'mail_location = maildir:/mail/box' 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' >"$ROOT/maildir.conf"
install -d "$ROOT"/mail/box/{cur,new,tmp}
printf 'Subject: old\n\nold\n' >"$ROOT/mail/box/cur/1.a.host:2,S"
printf 'Subject: late\n\nlate\n' >"$ROOT/mail/box/cur/2.b.host:2,S"
touch -d '1960-06-01 12:00:00 UTC' "$ROOT/mail/box/cur/1.a.host:2,S"
touch -d '2110-06-01 12:00:00 UTC' "$ROOT/mail/box/cur/2.b.host:2,S"
inside chown -R vmail:vmail /mail
years() { # of both messages, by subject
    inside env TZ=UTC doveadm -c /maildir.conf fetch 'hdr.subject date.received' mailbox INBOX 2>"$WORK/log" |
        sed -n 's/^hdr.subject: //p; s/^date.received: \([0-9]*\)-.*/\1/p' | paste -d' ' - - | sort | tr '\n' ' '
}
first=$(years) || { tail -n 3 "$WORK/log" >&2; exit 2; }
as_described 'the first time' 'late 2110 old 1960 ' "$first"
as_described 'the second time' 'late 1974 old 2096 ' "$(years)"
rm "$ROOT/mail/box/dovecot.index.cache"
as_described 'without the cache file' 'late 2110 old 1960 ' "$(years)"
