# Shared by the findings: a Debian of its own in $ROOT with pinned packages, removed at the end.
# shellcheck shell=bash
set -euo pipefail
[ "$(id -u)" -eq 0 ] || { echo "needs root (debootstrap, chroot)" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "needs debootstrap: apt-get install debootstrap" >&2; exit 2; }
WORK=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
ROOT=$WORK/root
trap 'rm -rf --one-file-system "$WORK"' EXIT

debian() { # debian SUITE PACKAGE=VERSION...: a root of that Debian in $ROOT; its security archive is used if this machine's apt knows one
    local suite=$1 security
    shift
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$ROOT" >"$WORK/log" 2>&1 ||
        { tail -n 3 "$WORK/log" >&2; echo "debootstrap of $suite failed" >&2; exit 2; }
    security=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -oE '[a-z]+://[^ ]*debian-security' | head -n 1) || true
    [ -z "$security" ] || echo "deb $security $suite-security main" >>"$ROOT/etc/apt/sources.list"
    cp /etc/apt/apt.conf.d/* "$ROOT/etc/apt/apt.conf.d/" 2>/dev/null || true
    cp /etc/resolv.conf "$ROOT/etc/resolv.conf" 2>/dev/null || true
    printf '#!/bin/sh\nexit 101\n' >"$ROOT/usr/sbin/policy-rc.d"
    chmod 755 "$ROOT/usr/sbin/policy-rc.d"
    { inside apt-get -q update && inside env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"; } \
        >"$WORK/log" 2>&1 || { grep ^E: "$WORK/log" >&2; echo "these versions are not to be had: $*" >&2; exit 2; }
    inside useradd --system --user-group --no-create-home --shell /usr/sbin/nologin vmail
    inside install -d -o vmail /mail
}

inside() { chroot "$ROOT" env HOME=/mail USER=ann "$@"; }

as_described() { # as_described TEXT WANTED SEEN: one thing that has to be as this finding says
    if [ "$2" = "$3" ]; then
        printf 'as described: %s: %s\n' "$1" "$3"
    else
        printf 'CHANGED: %s: %s, was %s\n' "$1" "$3" "$2"
        exit 1
    fi
}

dovecot24() { # dovecot24 NAME [SETTING...]: /NAME.conf with an sdbox in /mail/NAME
    local name=$1
    shift
    printf '%s\n' 'dovecot_config_version = 2.4.1' 'dovecot_storage_version = 2.4.1' 'mail_uid = vmail' 'mail_gid = vmail' \
        'first_valid_uid = 1' 'mail_driver = sdbox' "mail_path = /mail/$name" "$@" >"$ROOT/$name.conf"
}

letter() { # a message of 2,000 words
    printf 'From: ann@example.net\nSubject: words\n\n%s\n' "$(yes word | head -n 2000 | tr '\n' ' ')"
}
