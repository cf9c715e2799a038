#!/bin/sh
# deb.sh [WORK [DEST]]: builds barenode_VERSION_ARCH.deb of this tree, tracked and new files, in
# the folder WORK (build/deb) and puts it with its .buildinfo and .changes into DEST (dist).
# Says the package's path, size and sha256. The network is used for the libraries of
# packaging/bundled.txt alone, and not at all when WORK has them already.
set -eu

root=$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
work=${1:-build/deb} dest=${2:-dist}
mkdir -p "$work" "$dest"
work=$(cd "$work" && pwd) dest=$(cd "$dest" && pwd)

version=$(dpkg-parsechangelog -l packaging/debian/changelog -S Version)
arch=$(dpkg --print-architecture)
tree=$work/barenode-$version
log=$work/build.log

/usr/bin/python3 packaging/bundle.py fetch "$work/wheels"

rm -rf "$tree"
mkdir "$tree"
# A tracked file that was removed is listed all the same.
# shellcheck disable=SC2016 # the inner shell expands
git ls-files -co --exclude-standard -z |
    xargs -0 sh -c 'for name; do [ ! -e "$name" ] || printf "%s\0" "$name"; done' names |
    tar --null --files-from=- --create --file=- | tar --extract --directory="$tree" --file=-
cp -R "$tree/packaging/debian" "$tree/debian"
cp -R "$work/wheels" "$tree/wheels"

printf 'building %s ...\n' "$tree" >&2
if ! (cd "$tree" && nice -n 19 dpkg-buildpackage -b -us -uc -rfakeroot) >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    printf 'the package could not be built (full output: %s)\n' "$log" >&2
    exit 1
fi
mv "$work/barenode_${version}_$arch.deb" "$work/barenode_${version}_$arch.buildinfo" \
    "$work/barenode_${version}_$arch.changes" "$dest/"
deb=$dest/barenode_${version}_$arch.deb
printf '%s  %s KiB  sha256 %s\n' "$deb" "$(($(stat -c %s "$deb") / 1024))" \
    "$(sha256sum "$deb" | cut -d ' ' -f 1)"
