#!/bin/sh
# Installs barenode's package: install.sh DEB
# Asks nothing, and can be repeated. A host without network will do when what the package depends
# on is there; otherwise apt fetches it.
# Exit status: 0 installed, 1 failed, 2 wrong usage, 5 this host lacks something.
set -eu

say() { printf 'install: %s\n' "$*"; }
fail() {
    status=$1
    shift
    printf 'install: %s\n' "$*" >&2
    exit "$status"
}

[ $# -eq 1 ] || fail 2 "usage: ${0##*/} DEB"
deb=$1
[ -f "$deb" ] || fail 2 "$deb: no such file"
[ "$(id -u)" -eq 0 ] || fail 5 "root is needed"
command -v apt-get >/dev/null || fail 5 "this host has no apt-get: Debian or Ubuntu is needed"
# apt takes a word without a slash for a package's name.
case $deb in /*) ;; *) deb=$PWD/$deb ;; esac

name=$(dpkg-deb -f "$deb" Package 2>/dev/null) || fail 1 "$deb is not a Debian package"
[ "$name" = barenode ] || fail 1 "$deb is the package $name, not barenode"
version=$(dpkg-deb -f "$deb" Version)

export DEBIAN_FRONTEND=noninteractive
apt() {
    apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confdef \
        -o Dpkg::Options::=--force-confold --allow-downgrades "$@" </dev/null
}

# The same version may have been built anew: only the files' sums tell.
installed_sums() { dpkg-query --control-show barenode md5sums 2>/dev/null | sort; }
sums_of() { dpkg-deb --ctrl-tarfile "$1" | tar -xO ./md5sums 2>/dev/null | sort; }
again=
# shellcheck disable=SC2016 # the format is dpkg's, not the shell's
case $(dpkg-query -W -f '${db:Status-Abbrev}${Version}' barenode 2>/dev/null || true) in
    "ii $version")
        if [ "$(installed_sums)" = "$(sums_of "$deb")" ]; then
            say "barenode $version is installed"
            exit 0
        fi
        again=--reinstall
        ;;
esac

# What apt would install besides, one name a line; fails where apt sees no way.
besides() {
    plan=$(apt -s install "$@" "$deb" 2>/dev/null) || return 1
    printf '%s\n' "$plan" | sed -n 's/^Inst \([^ ]*\).*/\1/p' | { grep -vx barenode || true; }
}

recommends=
if ! others=$(besides) || [ "$others" ]; then
    say "fetching the package lists"
    if ! apt -o APT::Update::Error-Mode=any update >/dev/null 2>&1; then
        if others=$(besides --no-install-recommends) && [ -z "$others" ]; then
            say "the package lists cannot be fetched: without what barenode only recommends"
            recommends=--no-install-recommends
        else
            say "the package lists cannot be fetched: trying with those that are there"
        fi
    fi
fi

say "barenode $version from $deb"
# shellcheck disable=SC2086 # empty, or one flag each
apt install $again $recommends "$deb" ||
    fail 1 "barenode could not be installed; what apt says is above. Is there a way to Debian's archive?"
say "done: 'barenode init' makes this host a master, 'barenode join' a worker"
