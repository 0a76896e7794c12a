#!/usr/bin/env bash
# Dovecot 2.4.1 (Debian 13, 1:2.4.1+dfsg1-6+deb13u7).
# Guess: "mail_compress_write_method = deflate" is refused, or its mail is read back like that of gz, zstd or lz4.
# Seen: doveconf accepts it and "doveadm save" exits 0; the text is stored as a raw deflate stream, which has no magic, so nothing recognises it: "doveadm fetch"
# shows the compressed bytes as the message and exits 75.
# For who keeps mail: such a mailbox needs the setting gone and its texts inflated by hand; a backup by IMAP holds compressed bytes.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian trixie dovecot-core=1:2.4.1+dfsg1-6+deb13u7
letter >"$WORK/letter"
for method in gz deflate; do
    dovecot24 "$method" 'mail_plugins {' '  mail_compress = yes' '}' "mail_compress_write_method = $method"
    inside doveconf -c "/$method.conf" -n >/dev/null && status=0 || status=$?
    as_described "$method: exit status of doveconf" 0 "$status"
    inside doveadm -c "/$method.conf" save --no-userdb-lookup <"$WORK/letter" && status=0 || status=$?
    as_described "$method: exit status of doveadm save" 0 "$status"
    inside doveadm -c "/$method.conf" fetch --no-userdb-lookup text mailbox INBOX all >"$WORK/$method" 2>"$WORK/$method.log" && status=0 || status=$?
    printf '%s' "$status" >"$WORK/$method.status"
done
as_described 'gz: exit status of doveadm fetch' 0 "$(cat "$WORK/gz.status")"
as_described 'gz: Subject lines that fetch shows' 1 "$(grep -ac '^Subject: words' "$WORK/gz")"
as_described 'deflate: exit status of doveadm fetch' 75 "$(cat "$WORK/deflate.status")"
as_described 'deflate: Subject lines that fetch shows' 0 "$(grep -ac '^Subject: words' "$WORK/deflate" || true)"
as_described 'deflate: complaints of a wrong size' 1 "$(grep -c 'fetch(text) failed.*Cached message size larger than expected' "$WORK/deflate.log")"
