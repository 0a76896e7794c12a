#!/usr/bin/env bash
# Dovecot 2.3.19.1 (Debian 12, 1:2.3.19.1+dfsg1-2.1+deb12u6).
# Guess: a public namespace whose location has an INDEX= of each user (as it is done for Maildirs, so that each has flags of one's own) works with mdbox, too: all see the
# same messages.
# Seen: the map of an mdbox is an index, so each user gets a map of one's own over the same m.N files. The first save of the second user fails ("m.1 already exists", temporary failure) and
# has the map rebuilt from the files; from then on both succeed, in the same m.1, and each sees the own new messages alone.
# For who keeps mail: a copy or mount of such a store with one user's INDEX= lacks what others saved, without an error; a tool has to look for messages that no map has.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian bookworm dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u6
printf '%s\n' 'mail_location = sdbox:/mail/%u' 'mail_uid = vmail' 'mail_gid = vmail' 'first_valid_uid = 1' 'namespace inbox {' 'inbox = yes' 'separator = /' '}' \
    'namespace public {' 'type = public' 'prefix = Public/' 'separator = /' 'subscriptions = no' 'location = mdbox:/mail/public:INDEX=/mail/%u/public' '}' >"$ROOT/public.conf"
as() { # as USER COMMAND...
    local user=$1
    shift
    chroot "$ROOT" env HOME=/mail USER="$user" doveadm -c /public.conf "$@"
}
save() { printf 'Subject: by %s\n\ntext\n' "$1" | as "$1" save -m Public/News 2>/dev/null; }
seen() { as "$1" fetch hdr.subject mailbox Public/News all | sed -n 's/^hdr.subject: //p' | paste -sd,; }
as ann mailbox create Public/News
save ann
status=0
save bob || status=$?
as_described "exit status of the second user's first save" 75 "$status"
save ann
save bob
as_described "all messages that are in m.1" "by ann,by ann,by bob" "$(grep -aoE '^Subject: by [a-z]+' "$ROOT/mail/public/storage/m.1" | sed 's/Subject: //' | paste -sd,)"
as_described "what ann sees" "by ann,by ann" "$(seen ann)"
as_described "what bob sees" "by ann,by bob" "$(seen bob)"
