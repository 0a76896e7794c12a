#!/usr/bin/env bash
# restic 0.14.0 (Debian 12, 0.14.0-1+b5).
# Guess: an extended attribute that the file system refuses at a restore is one warning, and an exit status that is not 0; the file's other attributes are restored.
# Seen: "restic restore" stops at the first attribute that is refused. Whatever follows is lost: the file's other attributes are gone, nothing is printed, the exit status is 0.
# The refusal here is a plain one: ext4 has room for 4 KiB of attributes a file, the tmpfs that was backed up had more.
# For who keeps mail: a mail file system that refuses one attribute (a uid that can't be chosen) loses flags and keywords of every message without a word, unless
# it lists first what can be set, and accepts the rest.
# shellcheck source=findings/lib.sh
. "$(dirname "$0")/lib.sh"
debian bookworm restic=0.14.0-1+b5 attr
# shellcheck source=findings/refused.sh
. "$(dirname "$0")/refused.sh"
restic() { inside env RESTIC_PASSWORD=x RESTIC_CACHE_DIR=/mail/cache restic -q -r /mail/repository "$@"; }
restic init
restic backup /kept
status=0
restic restore latest --target /back >"$WORK/said" 2>&1 || status=$?
as_described "exit status of the restore" 0 "$status"
as_described "lines that it printed" 0 "$(wc -l <"$WORK/said")"
cmp -s "$ROOT/kept/message" "$ROOT/back/kept/message" && text=whole || text=other
as_described "the text" whole "$text"
as_described "attributes that are back, of two that can be set" 1 "$(names "$ROOT/back/kept/message" | wc -w)"
