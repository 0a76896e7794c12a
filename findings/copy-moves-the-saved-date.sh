#!/usr/bin/env bash
# Dovecot 2.4.1 (Debian 13, 1:2.4.1+dfsg1-6+deb13u7); 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6) does the same.
# Guess: copying a message changes nothing of the message that is copied.
# Seen: in an sdbox a copy is a hard link, and a message whose saved date is not in the cache file takes it from the ctime of its file. The link moves that ctime:
# the *original* is now saved at the time of the copy. Once date.saved has been fetched it is cached and stays.
# For who keeps mail: autoexpunge and "doveadm expunge savedbefore" spare messages that somebody has copied, or whose copy was removed; two
# backups of an unchanged mailbox differ.
# SUITE=bookworm runs the older one.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
if [ "${SUITE:-trixie}" = bookworm ]; then
    debian bookworm dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6
    lookup=()
    configure() { printf '%s\n' "mail_location = sdbox:/mail/$1" 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' >"$ROOT/$1.conf"; }
else
    debian trixie dovecot-core=1:2.4.1+dfsg1-6+deb13u7
    lookup=(--no-userdb-lookup)
    configure() { dovecot24 "$1"; }
fi
stores=(untouched copied fetched-before)
saved() { # saved STORE: the saved date of its message, in seconds
    date -d "$(inside doveadm -c "/$1.conf" fetch "${lookup[@]}" date.saved mailbox INBOX all | sed -n 's/^date.saved: //p')" +%s
}
letter >"$WORK/letter"
for store in "${stores[@]}"; do
    configure "$store"
    inside doveadm -c "/$store.conf" save "${lookup[@]}" <"$WORK/letter"
    inside doveadm -c "/$store.conf" mailbox create "${lookup[@]}" Archive
done
first=$(saved fetched-before)
sleep 5
for store in copied fetched-before; do
    inside doveadm -c "/$store.conf" copy "${lookup[@]}" Archive mailbox INBOX all
done
for store in "${stores[@]}"; do
    later=no
    [ $(($(saved "$store") - first)) -lt 3 ] || later=yes
    case $store in copied) wanted=yes ;; *) wanted=no ;; esac
    as_described "$store: the original was saved seconds later than it was" "$wanted" "$later"
done
