#!/usr/bin/env bash
# Dovecot 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6).
# Guess: a delete that is answered with an error has deleted nothing.
# Seen: with LAYOUT=index and INDEX= in another directory the first delete of a mailbox, by doveadm or IMAP, is answered with "Mailbox doesn't exist" and exit status 68,
# and its messages are gone. The mailbox stays listed, and can't be looked into; a second delete succeeds. Without INDEX= the first one does.
# For who keeps mail: the messages of a folder whose deletion "failed" are not there any more.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian bookworm dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6
for name in whole apart; do
    index=
    [ "$name" = whole ] || index=:INDEX=/mail/index
    printf '%s\n' 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' 'log_path = /dev/stderr' 'ssl = no' \
        "mail_location = sdbox:/mail/$name:LAYOUT=index$index" >"$ROOT/$name.conf"
    inside doveadm -c "/$name.conf" mailbox create Old
    letter | inside doveadm -c "/$name.conf" save -m Old
done
as_described "messages before" messages=1 "$(inside doveadm -c /apart.conf mailbox status messages Old | grep -o 'messages=1')"
status=0
told=$(inside doveadm -c /apart.conf mailbox delete Old 2>&1) || status=$?
as_described "the answer with INDEX=" "68 Mailbox doesn't exist" "$status $(printf '%s' "$told" | grep -o "Mailbox doesn't exist" | head -n 1)"
as_described "message files behind that" 0 "$(find "$ROOT/mail/apart" -name 'u.*' | wc -l)"
as_described "listed behind that" 1 "$(inside doveadm -c /apart.conf mailbox list | grep -cx Old || true)"
status=0
inside doveadm -c /whole.conf mailbox delete Old || status=$?
as_described "exit status without INDEX=" 0 "$status"
