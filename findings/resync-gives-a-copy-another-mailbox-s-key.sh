#!/usr/bin/env bash
# Dovecot 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6); 2.4.1 (Debian 13, 1:2.4.1+dfsg1-6+deb13u7) with SUITE=trixie.
# Guess: a force-resync of a store without damage changes nothing, or at least nothing that was readable becomes unreadable.
# Seen: where each mailbox has a key of its own (mail_crypt with folder keys), a copy into another mailbox of an mdbox is a record of its own, encrypted for that mailbox's key, with the guid
# and size of the first. A force-resync takes both for one message: both mailboxes refer to the first record, and the copy can't be read any more ("no private key available").
# For who keeps mail: the copy's own record waits for the next purge, which removes it; until then the text is there, for a program that has the keys of all folders.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
lookup=()
if [ "${SUITE:-bookworm}" = bookworm ]; then
    debian bookworm dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6
    printf '%s\n' 'mail_location = mdbox:/mail/keys' 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' 'mail_plugins = mail_crypt' \
        'mail_attribute_dict = file:/mail/dovecot-attributes' 'plugin {' 'mail_crypt_curve = prime256v1' 'mail_crypt_save_version = 2' '}' >"$ROOT/keys.conf"
else
    lookup=(--no-userdb-lookup)
    debian trixie dovecot-core=1:2.4.1+dfsg1-6+deb13u7
    dovecot24 keys 'mail_plugins {' 'mail_crypt = yes' '}' 'crypt_user_key_curve = prime256v1' 'mail_attribute {' 'dict file {' 'path = /mail/dovecot-attributes' '}' '}'
    sed -i 's/^mail_driver = .*/mail_driver = mdbox/' "$ROOT/keys.conf"
fi
run() { inside doveadm -c /keys.conf "$@" 2>"$WORK/said"; }
text() { run fetch "${lookup[@]}" text mailbox "$1" all | grep -c '^a secret$' || true; }
printf 'Subject: one\n\na secret\n' | run save "${lookup[@]}" || { tail -n 3 "$WORK/said" >&2; exit 2; }
run mailbox create "${lookup[@]}" Work
run copy "${lookup[@]}" Work mailbox INBOX all
as_described 'messages in INBOX and Work that can be read' '1 1' "$(text INBOX) $(text Work)"
run force-resync "${lookup[@]}" '*'
as_described 'the same after a force-resync' '1 0' "$(text INBOX) $(text Work)"
as_described 'what the copy says' 'no private key available' "$(run fetch "${lookup[@]}" text mailbox Work all >"$WORK/text" || true; grep -o 'no private key available' "$WORK/said" | head -n 1)"
as_described 'encrypted records in m.1, before the next purge' 2 "$(grep -ac CRYPTED "$ROOT/mail/keys/storage/m.1")"
