#!/bin/sh
# setup.sh [LIST]: installs the Debian packages in LIST beside this script, or those
# that the lab, the tests and the benchmarks need (apt-packages.txt).
# Whatever is already present is left alone, and no service is started: a dockerd
# or etcd started by its package would change the rules and ports of this machine.
set -eu

here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)

list=$here/${1:-apt-packages.txt}

say() { printf '%s\n' "$*" >&2; }

missing=
while read -r package proof _; do
    case $package in '' | '#'*) continue ;; esac
    case $proof in
        /*) [ -e "$proof" ] || missing="$missing $package" ;;
        *) command -v "$proof" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done <"$list"

# Building a package needs neither root nor Debian 12 once its tools are there.
[ "$#" -eq 0 ] || [ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    say "barenode set-up needs root: it installs packages and makes network namespaces. Run it as root (sudo make ...)."
    exit 1
fi
id=unknown version=unknown
if [ -r /etc/os-release ]; then
    id=$(. /etc/os-release && printf %s "${ID:-unknown}")
    version=$(. /etc/os-release && printf %s "${VERSION_ID:-unknown}")
fi
if [ "$id" != debian ] || [ "$version" != 12 ]; then
    say "barenode set-up installs Debian 12 packages and this is $id $version: nothing was changed. Use a Debian 12 machine."
    exit 1
fi

[ -n "$missing" ] || exit 0

say "installing:$missing"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
fi
log=$(mktemp)
# shellcheck disable=SC2086 # one word per package
if ! { apt-get update -q &&
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "the packages above could not be installed (full output: $log). Repair apt, then run this again."
    exit 1
fi
rm -f "$log"
