#!/usr/bin/env bash
# Dovecot 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6).
# Guess: "doveadm fetch date.received.unixtime" prints the date of a message from before 1970 as a negative number, and the same one each time.
# Seen: it prints the number without its sign in 64 bits (18446744073393932416 for 1960) as long as the date is read from the message's file, and without its sign in
# 32 bits (3979348096, a date in 2096) once the date is in the cache file.
# For who keeps mail: two fetches of an unchanged mailbox, or of an original and its restored copy, differ; compare such dates as signed numbers of 32 bits.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian bookworm dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6
printf '%s\n' 'mail_location = sdbox:/mail/store' 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' >"$ROOT/store.conf"
letter >"$WORK/letter"
inside doveadm -c /store.conf save <"$WORK/letter"
message=$(ls "$ROOT"/mail/store/mailboxes/INBOX/dbox-Mails/u.1)
# The received date is the line R of the file, in hex; -315619200 is 1960-01-01, as Dovecot writes it.
sed -i 's/^R[0-9a-f]*$/Rffffffffed300880/' "$message"
rm -f "$ROOT"/mail/store/mailboxes/INBOX/dbox-Mails/dovecot.index.cache
fetch() { inside doveadm -c /store.conf fetch date.received.unixtime mailbox INBOX all | sed -n 's/^date.received.unixtime: //p'; }
as_described "as the file has it" 18446744073393932416 "$(fetch)"
as_described "once it is cached" 3979348096 "$(fetch)"
