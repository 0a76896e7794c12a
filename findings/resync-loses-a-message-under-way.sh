#!/usr/bin/env bash
# Dovecot 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6, with dovecot-imapd); 2.4.1 (Debian 13, 1:2.4.1+dfsg1-6+deb13u7) with SUITE=trixie.
# Guess: a message whose save succeeds is there, whatever force-resync does meanwhile: the file that it is written to is locked.
# Seen: force-resync of an mdbox takes no notice of that lock. It finds a record without an end in m.1, puts a copy of m.1 without it in its place, and calls the file that the other process writes to
# m.1.broken. IMAP APPEND then answers OK, its message is in the mailbox, and its text is in no file of the storage: it can't be fetched, and the next rebuild drops it.
# For who keeps mail: after a force-resync (or a rebuild that Dovecot makes by itself) at a time of deliveries keep storage/*.broken: it holds whole messages that were acknowledged. A program that
# writes an mdbox has to look at the file's inode again when it has locked the map.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
lookup=()
if [ "${SUITE:-bookworm}" = bookworm ]; then
    debian bookworm dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6 dovecot-imapd=1:2.3.19.1+dfsg1-2.1+deb12u6
    printf '%s\n' 'mail_location = mdbox:/mail/store' 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' >"$ROOT/store.conf"
else
    lookup=(--no-userdb-lookup)
    debian trixie dovecot-core=1:2.4.1+dfsg1-6+deb13u7 dovecot-imapd=1:2.4.1+dfsg1-6+deb13u7
    dovecot24 store
    sed -i 's/^mail_driver = .*/mail_driver = mdbox/' "$ROOT/store.conf"
fi
run() { inside doveadm -c /store.conf "$@" 2>>"$WORK/said"; }
text() { # text FILE: lines of the large message in a file of the storage
    grep -ac '^a line of the large message$' "$ROOT/mail/store/storage/$1" || true
}
SUBJECT=$'Subject: large\r\n\r\n'
half() { { yes $'a line of the large message\r' || true; } | head -n 50000; }
printf 'Subject: one\n\nthe first text\n' | run save "${lookup[@]}" || { tail -n 3 "$WORK/said" >&2; exit 2; }
session() {
    printf 'a APPEND INBOX {%d+}\r\n' "$((${#SUBJECT} + 2 * $(half | wc -c)))"
    printf '%s' "$SUBJECT"
    half
    for _ in $(seq 100); do # until a part of it is in the file
        [ "$(text m.1)" = 0 ] || break
        sleep 0.1
    done
    run force-resync "${lookup[@]}" '*'
    half
    printf '\r\nb LOGOUT\r\n'
}
imap() { # a session that is logged in already, on a pipe
    inside env DOVECOT_PRESERVE_ENVS="USER HOME" /usr/lib/dovecot/imap -c /store.conf
}
session | imap >"$WORK/answers" 2>"$WORK/log" || { tail -n 3 "$WORK/log" >&2; exit 2; }
as_described 'answer to the APPEND' 'a OK' "$(grep -o '^a [A-Z]*' "$WORK/answers")"
as_described 'messages in INBOX after it' 2 "$(run fetch "${lookup[@]}" uid mailbox INBOX all | grep -c '^uid:')"
as_described 'lines of the large text in m.1, in m.1.broken' '0 100000' "$(text m.1) $(text m.1.broken)"
as_described 'lines that can be fetched' 0 "$(run fetch "${lookup[@]}" text mailbox INBOX all | grep -c '^a line of the large message$' || true)"
run force-resync "${lookup[@]}" '*'
as_described 'messages in INBOX after the next force-resync' 1 "$(run fetch "${lookup[@]}" uid mailbox INBOX all | grep -c '^uid:')"
