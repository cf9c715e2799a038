#!/bin/sh
# Builds the package twice, in different folders, with another clock, umask, locale and time zone,
# and fails unless both files are the same to the last bit.
set -eu

here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

(umask 022 && TZ=UTC LC_ALL=C.UTF-8 "$here/deb.sh" "$scratch/one" "$scratch/first")
# SOURCE_DATE_EPOCH comes from the changelog: the second build is at least a second later, and
# every file of it has another time of change.
(umask 077 && TZ=Asia/Tokyo LC_ALL=C PYTHONHASHSEED=7 \
    "$here/deb.sh" "$scratch/a/longer/way" "$scratch/second")
for first in "$scratch"/first/*.deb; do
    second=$scratch/second/${first##*/}
    if ! cmp "$first" "$second"; then
        printf 'the builds differ; unpacked by dpkg-deb -R they tell where\n' >&2
        exit 1
    fi
    printf 'both builds are the same: %s\n' "$(sha256sum "$first" | cut -d ' ' -f 1)"
done
