#!/usr/bin/env bash
# Dovecot 2.4.1 (Debian 13, 1:2.4.1+dfsg1-6+deb13u7).
# Guess: "doveadm -o NAME=VALUE" with a setting that doesn't exist is an error, as the same line is in the configuration file.
# Seen: it is ignored without a word. mail_location is gone in 2.4, so "doveadm -o mail_location=mdbox:/elsewhere save" of a script that was
# written for 2.3 exits 0 and saves into the store of the configuration; /elsewhere is not even made.
# For who keeps mail: migrations, restores and clean-ups that name their store this way work on the live one.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian trixie dovecot-core=1:2.4.1+dfsg1-6+deb13u7
dovecot24 configured
letter >"$WORK/letter"
inside doveadm -c /configured.conf -o mail_location=mdbox:/mail/elsewhere save --no-userdb-lookup <"$WORK/letter" 2>"$WORK/said" && status=0 || status=$?
as_described 'exit status of doveadm -o mail_location=... save' 0 "$status"
as_described 'bytes that it said' 0 "$(stat -c %s "$WORK/said")"
as_described 'messages in the configured store' 1 "$(find "$ROOT/mail/configured" -name 'u.[0-9]*' | wc -l)"
as_described 'the store that was asked for' missing "$([ -e "$ROOT/mail/elsewhere" ] && echo there || echo missing)"
echo 'mail_location = mdbox:/mail/elsewhere' >>"$ROOT/configured.conf"
inside doveadm -c /configured.conf save --no-userdb-lookup <"$WORK/letter" 2>"$WORK/said" && status=0 || status=$?
as_described 'exit status with the same setting in the file' 89 "$status"
