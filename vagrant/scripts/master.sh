#!/bin/sh
# Makes this host the master of a new cluster: master.sh ADDRESS JOIN_FILE [OPTION...]
# ADDRESS is the one at which others reach this host; options are those of 'barenode init'.
# JOIN_FILE gets the line that makes another host a worker. It holds a token: root alone may read it.
# Can be repeated, and then writes a new line.
# Exit status: that of barenode; 2 wrong usage.
set -eu

say() { printf 'master: %s\n' "$*"; }

if [ $# -lt 2 ]; then
    printf 'master: usage: %s ADDRESS JOIN_FILE [OPTION...]\n' "${0##*/}" >&2
    exit 2
fi
address=$1 file=$2
shift 2

say "barenode init at $address"
# Its result has a token, too, and this output may be kept as a log; progress is on stderr.
barenode init --address "$address" "$@" >/dev/null

umask 077
new=$file.new
trap 'rm -f "$new"' EXIT
rm -f "$new"
barenode token create --print-join-command >"$new"
mv -f "$new" "$file"
say "done; the line for workers is in $file, kubectl's settings in /etc/kubernetes/admin.conf"
