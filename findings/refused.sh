# Shared by findings about restores: /kept/message on a tmpfs with three attributes, of which ext4 refuses b-large, and a place to restore to.
# shellcheck shell=bash
[ "$(stat -f -c %T "$ROOT")" = ext2/ext3 ] || { echo "needs a TMPDIR on ext4, which refuses large attributes" >&2; exit 2; }
trap 'umount "$ROOT/kept" 2>/dev/null; rm -rf --one-file-system "$WORK"' EXIT
mkdir -p "$ROOT/kept" "$ROOT/back" "$ROOT/once"
mount -t tmpfs tmpfs "$ROOT/kept"
letter >"$ROOT/kept/message"
for attribute in a-first=seen "b-large=$(head -c 5000 /dev/zero | tr '\0' x)" c-last=flagged; do
    inside setfattr -n "user.${attribute%%=*}" -v "${attribute#*=}" /kept/message || { echo "this kernel has no user attributes in a tmpfs" >&2; exit 2; }
done
names() { getfattr --absolute-names "$1" | grep ^user | xargs; } # names FILE: its extended attributes
