#!/usr/bin/env bash
# Dovecot 2.4.1 (Debian 13, 1:2.4.1+dfsg1-6+deb13u7); 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6) with SUITE=bookworm.
# Guess: the date that IMAP APPEND gives is the message's INTERNALDATE, or APPEND is refused.
# Seen: APPEND answers OK to all of these, and
#  * a date in the future, be it 2037, becomes the time of the APPEND (both versions);
#  * 2.3.19.1 keeps 1960, and makes 13-Dec-1901 of the last second before 1970;
#  * 2.4.1 writes 1960 into the message file as it is, and shows 01-Jan-1970, from its cache file; without the cache file it shows 1960 once more.
# For who keeps mail: a restore through IMAP changes such dates without a word, what a client sees of them can change when a cache file goes, and programs that
# compare dates fetch these messages again at every run.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
if [ "${SUITE:-trixie}" = bookworm ]; then
    debian bookworm dovecot-imapd=1:2.3.19.1+dfsg1-2.1+deb12u6
    printf '%s\n' 'mail_location = sdbox:/mail/dates' 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' >"$ROOT/dates.conf"
else
    debian trixie dovecot-imapd=1:2.4.1+dfsg1-6+deb13u7
    dovecot24 dates
fi
dates=("31-Dec-1960 12:00:00 +0000" "31-Dec-1969 23:59:59 +0000" "01-Jan-1970 00:00:01 +0000" "01-Jan-2037 00:00:00 +0000" "01-Jan-2040 00:00:00 +0000")
session() {
    local date number=0
    for date in "${dates[@]}"; do
        number=$((number + 1))
        printf 'a%s APPEND INBOX "%s" {20+}\r\nSubject: x\r\n\r\nbody\r\n\r\n' "$number" "$date"
    done
    printf 'b SELECT INBOX\r\nc FETCH 1:* INTERNALDATE\r\nd LOGOUT\r\n'
}
imap() { # a session that is logged in already, on a pipe
    inside env TZ=UTC DOVECOT_PRESERVE_ENVS="USER HOME TZ" /usr/lib/dovecot/imap -c /dates.conf
}
session | imap >"$WORK/answers" 2>"$WORK/log" || { tail -n 3 "$WORK/log" >&2; exit 2; }
as_described 'APPENDs answered with OK' 5 "$(grep -c '^a[0-9] OK' "$WORK/answers")"
internal() { sed -n "s/^\* $1 FETCH (INTERNALDATE \"\(.*\)\").*/\1/p" "$WORK/answers"; }
year() { internal "$1" | sed 's/^[^-]*-[^-]*-\([0-9]*\) .*/\1/'; }
if [ "${SUITE:-trixie}" = bookworm ]; then
    as_described "${dates[0]}" "${dates[0]}" "$(internal 1)"
    as_described "${dates[1]}" "13-Dec-1901 20:45:52 +0000" "$(internal 2)"
else
    as_described "${dates[0]}" "01-Jan-1970 00:00:00 +0000" "$(internal 1)"
    as_described "${dates[0]}, in the message file (seconds since 1970, 64 bits)" Rffffffffef11e4c0 \
        "$(grep -a '^R' "$ROOT/mail/dates/mailboxes/INBOX/dbox-Mails/u.1")"
    rm "$ROOT/mail/dates/mailboxes/INBOX/dbox-Mails/dovecot.index.cache"
    printf 'b SELECT INBOX\r\nc FETCH 1:* INTERNALDATE\r\nd LOGOUT\r\n' | imap >"$WORK/answers" 2>"$WORK/log"
    as_described "${dates[0]}, without the cache file" "${dates[0]}" "$(internal 1)"
fi
as_described "${dates[2]}" "${dates[2]}" "$(internal 3 | sed 's/^ /0/')"
as_described "${dates[3]}: the year" "$(date -u +%Y)" "$(year 4)"
as_described "${dates[4]}: the year" "$(date -u +%Y)" "$(year 5)"
