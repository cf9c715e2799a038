#!/bin/sh
# Asks lintian about the package in dist/. A warning or an error fails; hints of the two weakest kinds
# are shown only. Overrides stand, with their reasons, in debian/barenode.lintian-overrides.
set -eu

cd "$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)"
version=$(dpkg-parsechangelog -l packaging/debian/changelog -S Version)
arch=$(dpkg --print-architecture)
lintian --allow-root --info --display-info --pedantic --fail-on error,warning \
    "dist/barenode_${version}_$arch.changes"
