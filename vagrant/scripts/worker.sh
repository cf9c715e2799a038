#!/bin/sh
# Makes this host a worker: worker.sh JOIN_FILE
# JOIN_FILE holds the line that 'barenode token create --print-join-command' printed on the master.
# The line's words are given to barenode as they are: no shell reads them. Can be repeated.
# Exit status: that of barenode; 1 for a file without such a line, 2 wrong usage.
set -euf

fail() {
    status=$1
    shift
    printf 'worker: %s\n' "$*" >&2
    exit "$status"
}

[ $# -eq 1 ] || fail 2 "usage: ${0##*/} JOIN_FILE"
[ -r "$1" ] || fail 1 "$1: cannot be read"
line=
while read -r text || [ "$text" ]; do
    [ "$text" ] || continue
    [ -z "$line" ] || fail 1 "$1 has more than one line"
    line=$text
done <"$1"
case $line in
    'barenode join '?*) ;;
    *) fail 1 "$1 has no line 'barenode join ...': did 'barenode token create --print-join-command' work on the master?" ;;
esac
# shellcheck disable=SC2086 # words, without expansion of file names (set -f)
set -- $line
shift 2
printf 'worker: barenode join %s\n' "$1"
exec barenode join "$@"
