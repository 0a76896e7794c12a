#!/usr/bin/env bash
# Dovecot 2.4.1 (Debian 13, 1:2.4.1+dfsg1-6+deb13u7).
# Guess: what the userdb gives for a user (mail_path) wins over the configuration, and "doveadm user ann" tells where the mail of ann is.
# Seen: a mail_path in the block of the namespace wins over the userdb's. The mail goes there, while "doveadm user" prints the path that is not used, and exits 0;
# "doveadm mailbox path" tells the truth.
# For who keeps mail: a backup, or a move of accounts one by one, that takes paths from "doveadm user" copies a directory without mail, and new mail of a user who
# was "moved" by the userdb stays where it was.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian trixie dovecot-core=1:2.4.1+dfsg1-6+deb13u7
vmail=$(inside id -u vmail)
printf 'ann::%s:%s::/mail/ann::userdb_mail_path=/mail/ann/own\n' "$vmail" "$vmail" >"$ROOT/users"
dovecot24 user 'ssl = no' 'protocols =' 'log_path = /dev/stderr' 'passdb static {' '}' \
    'userdb passwd-file {' '  passwd_file_path = /users' '}' \
    'namespace inbox {' '  inbox = yes' '  mail_path = /mail/%{user}/block' '}'
inside dovecot -F -c /user.conf >"$WORK/log" 2>&1 &
server=$!
for _ in $(seq 50); do
    inside test -S /run/dovecot/auth-userdb && break
    sleep 0.1
done
printed=$(inside doveadm -c /user.conf user -f mail_path ann)
letter | inside doveadm -c /user.conf save -u ann || true
own=$(inside sh -c 'find /mail/ann/own -name "u.*" 2>/dev/null | wc -l')
block=$(inside sh -c 'find /mail/ann/block -name "u.*" 2>/dev/null | wc -l')
path=$(inside doveadm -c /user.conf mailbox path -u ann INBOX)
kill "$server"
wait "$server" 2>/dev/null || true
as_described "doveadm user prints the path of the userdb" /mail/ann/own "$printed"
as_described "messages in it" 0 "$own"
as_described "messages where the namespace's block says" 1 "$block"
as_described "doveadm mailbox path" /mail/ann/block/mailboxes/INBOX/dbox-Mails "$path"
