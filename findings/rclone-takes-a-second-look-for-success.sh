#!/usr/bin/env bash
# rclone 1.60.1 (Debian 12, 1.60.1+dfsg-2+b5).
# Guess: "rclone copy -M" ends with an error when it could not set an extended attribute, as it does when it could not write a file.
# Seen: it reports the error, tries again two times (--retries 3), and ends with status 0: the second attempt compares size and date, which fit, and leaves the file
# as it is. What was not set stays unset, and the attributes are set in no fixed order, so it is chance how many there are.
# The refusal here is a plain one: ext4 has room for 4 KiB of attributes a file, the tmpfs that was backed up had more.
# For who keeps mail: the exit status of a restore with rclone says nothing of flags and keywords; with --retries 1 it does.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian bookworm rclone=1.60.1+dfsg-2+b5 attr
# shellcheck source=findings/refused.sh
. "$(dirname "$0")/refused.sh"
copy() { # copy TARGET OPTION...: says how often an attempt failed
    local target=$1 status=0
    shift
    inside rclone copy -M "$@" /kept "$target" >"$WORK/said" 2>&1 || status=$?
    echo "status $status after $(grep -c 'ERROR : message: Failed to copy' "$WORK/said") refusals"
}
as_described "three attempts, which is the default" "status 0 after 1 refusals" "$(copy /back)"
cmp -s "$ROOT/kept/message" "$ROOT/back/message" && text=whole || text=other
as_described "the text" whole "$text"
as_described "is the refused attribute there" no "$(names "$ROOT/back/message" | grep -q user.b-large && echo yes || echo no)"
as_described "one attempt" "status 1 after 1 refusals" "$(copy /once --retries 1)"
