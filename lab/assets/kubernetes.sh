#!/bin/sh
# Builds commands of Kubernetes from Debian's source package `kubernetes`:
# lab/assets/kubernetes.sh [--version 1.20] kube-apiserver [kube-scheduler ...]
# Prints the folder of the binaries. Binaries are kept by version outside the checkout, so a
# second call answers at once; a build that was interrupted goes on where it stopped.
# Exit status: 0 done, 1 failed, 2 wrong usage or a version that Debian does not have, 5 this
# machine lacks something, 130 interrupted.
# Building with Go's own tool alone fails for kube-apiserver: its Makefile generates code first.
set -eu

base=${BARENODE_CACHE:-/var/cache/barenode}/kubernetes

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "kubernetes: $*"
    exit 1
}
lacks() {
    say "kubernetes: $*"
    exit 5
}
usage() {
    say "usage: ${0##*/} [--version MAJOR.MINOR] COMMAND...   such as kube-apiserver, kube-controller-manager, kube-scheduler, kubectl"
    exit 2
}
upstream() { # Kubernetes' version in Debian's, such as 1.20.2 in 1.20.5+really1.20.2-1.1+deb12u1
    printf '%s\n' "$1" | sed 's/^[0-9]*://; s/-[^-]*$//; s/.*+really//'
}
is_wanted() {
    case $(upstream "$1") in "$asked" | "$asked".*) ;; *) [ -z "$asked" ] ;; esac
}

asked=
if [ "${1-}" = --version ]; then
    [ $# -gt 2 ] || usage
    asked=$2
    shift 2
fi
[ $# -gt 0 ] || usage
for command in "$@"; do
    case $command in kube-apiserver | kube-controller-manager | kube-scheduler | kubectl | kubelet | kube-proxy) ;; *) usage ;; esac
done

# A finished build is found without apt and without root.
for bin in "$base"/*/bin; do
    missing=
    for command in "$@"; do [ -x "$bin/$command" ] || missing=1; done
    home=${bin%/bin}
    if [ -z "$missing" ] && is_wanted "${home##*/}"; then
        printf '%s\n' "$bin"
        exit 0
    fi
done

[ "$(id -u)" -eq 0 ] || lacks "building needs root: it installs Debian's Go compiler"
mkdir -p "$base/apt/lists/partial"
exec 9>"$base/lock"
flock -n 9 || {
    say "kubernetes: another build is running, waiting for it"
    flock 9
}

# What an earlier build left in the folder is not needed again.
need_mib=6000
used_mib=$(du -sm "$base" | cut -f 1)
need_mib=$((need_mib > used_mib + 1000 ? need_mib - used_mib : 1000))
free_mib=$(df -Pm "$base" | awk 'NR == 2 { print $4 }')
say "kubernetes: building from Debian's source package: 4 to 20 minutes on two cores, up to $need_mib MB more in $base ($free_mib MB are free)"
[ "$free_mib" -ge "$need_mib" ] || lacks "$base has $free_mib MB free and $need_mib are needed: make room, or name another folder by BARENODE_CACHE"

log=$base/build.log
: >"$log"
run() { # what it is, then the command; its output goes to the log, a sign of life to the terminal
    what=$1
    shift
    say "kubernetes: $what"
    started=$(date +%s)
    "$@" >>"$log" 2>&1 &
    child=$!
    trap 'kill "$child" 2>/dev/null; wait "$child" || :; exit 130' INT TERM
    while kill -0 "$child" 2>/dev/null; do
        sleep 1
        passed=$(($(date +%s) - started))
        if [ $((passed % 60)) -eq 59 ]; then say "kubernetes: $what, $((passed / 60 + 1)) min"; fi
    done
    wait "$child" || {
        tail -n 30 "$log" >&2
        fail "$what failed (all output: $log). Mend the cause and run this again: it goes on from here"
    }
    trap - INT TERM
}

# Source packages come from the same archive as the installed ones, through a list of our own.
list_archives() {
    apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(COMPONENT)' 'Created-By: Packages' |
        sort -u | while IFS='|' read -r uri suite component; do
        [ "$component" = main ] || continue
        echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite $component"
    done >"$base/apt/sources.list"
}
list_archives
if [ ! -s "$base/apt/sources.list" ]; then
    # A machine whose lists were never fetched, or were removed to save space.
    run "refreshing the list of packages" apt-get update -q
    list_archives
fi
[ -s "$base/apt/sources.list" ] || lacks "apt knows no archive of Debian: look at /etc/apt/sources.list"
source_apt() {
    apt-get -q -o Dir::Etc::SourceList="$base/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$base/apt/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
run "reading the archive's list of sources" source_apt update
version=$(source_apt source --print-uris kubernetes 2>/dev/null |
    sed -n "s/.* kubernetes_\([^ ]*\)\.dsc .*/\1/p" | head -n 1)
[ -n "$version" ] || lacks "the archive has no source package kubernetes"
is_wanted "$version" || {
    say "kubernetes: Debian's source package is version $(upstream "$version"), not $asked"
    exit 2
}

wanted=
for package in golang-go golang-github-modern-go-reflect2-dev rsync jq dpkg-dev make gcc libc6-dev; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || wanted="$wanted $package"
done
if [ -n "$wanted" ]; then
    run "refreshing the list of packages" apt-get update -q
    # shellcheck disable=SC2086 # one word per package
    run "installing$wanted" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $wanted
fi

home=$base/$version
tree=$home/go/src/k8s.io/kubernetes
mkdir -p "$home/bin" "$home/go/src/k8s.io"
if [ ! -e "$home/unpacked" ]; then
    rm -rf "$home/source" "$tree"
    mkdir -p "$home/source"
    cd "$home/source"
    run "fetching and unpacking kubernetes $version" source_apt source kubernetes
    mv "$home/source"/kubernetes-*/ "$tree"
    rm -rf "$home/source"
    touch "$home/unpacked"
fi

# The vendored reflect2 1.0.1 reaches into the runtime of Go before 1.18: built with Debian's Go, a
# server panics at the first JSON map (fixed in 1.0.2, which Debian packages).
reflect2=vendor/github.com/modern-go/reflect2
cd "$tree"
if [ ! -e "$home/reflect2-replaced" ]; then
    rm -rf "$reflect2"
    cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 "$reflect2"
    touch "$home/reflect2-replaced"
fi
left=
for command in "$@"; do [ -x "$home/bin/$command" ] || left="$left $command"; done
for command in $left; do
    left=${left#" $command"}
    run "compiling $command${left:+, then$left}" env GOPATH="$home/go" GOCACHE="$home/go-cache" \
        GO111MODULE=off GOFLAGS= CGO_ENABLED=0 make "WHAT=cmd/$command"
    install -m 755 "_output/bin/$command" "$home/bin/.$command"
    mv "$home/bin/.$command" "$home/bin/$command"
done
say "kubernetes: done"
printf '%s\n' "$home/bin"
