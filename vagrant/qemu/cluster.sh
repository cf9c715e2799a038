#!/bin/sh
# A cluster on virtual machines that qemu emulates: a master and workers, made by the scripts that
# the Vagrantfile runs. Needs neither KVM, libvirt nor a box: Debian comes from its archive.
#   vagrant/qemu/cluster.sh        WORKERS=1 CPUS=2 MEMORY=3072 (MiB) from the environment
# Each machine has two networks, as under VirtualBox: NAT, in which all of them have 10.0.2.15 and
# their default route, and a private one. All of it lives in a network namespace and ends with this
# script. Proves that every node is Ready at its private address, and the overlay between them.
# Exit status: 0 all of it, 1 not, 2 wrong usage, 4 another one runs, 5 this machine lacks something.
set -eu

say() { printf '%4ss  %s\n' "$(($(date +%s) - begin))" "$*"; }
fail() {
    status=$1
    shift
    printf 'cluster: %s\n' "$*" >&2
    exit "$status"
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
scripts=$here/../scripts
dist=${BARENODE_DIST:-$here/../../dist}
cache=${BARENODE_CACHE:-/var/cache/barenode}/machines
workers=${WORKERS:-1} cpus=${CPUS:-2} memory=${MEMORY:-3072}
patience=${PATIENCE:-900} # seconds for a boot, for init and for a join, each

[ $# -eq 0 ] || fail 2 "usage: WORKERS=1 CPUS=2 MEMORY=3072 ${0##*/}"
for number in "$workers" "$cpus" "$memory" "$patience"; do
    case $number in '' | *[!0-9]*) fail 2 "WORKERS, CPUS, MEMORY and PATIENCE are numbers" ;; esac
done
[ "$workers" -lt 9 ] || fail 2 "WORKERS=$workers: 8 at most"
[ "$(id -u)" -eq 0 ] || fail 5 "root is needed, for the machines' disks and a network namespace"
for command in qemu-system-x86_64 mmdebstrap mke2fs ssh ssh-keygen unshare ip; do
    command -v "$command" >/dev/null ||
        fail 5 "no $command: apt-get install qemu-system-x86 mmdebstrap e2fsprogs openssh-client util-linux iproute2"
done
set -- "$dist"/barenode_*.deb
deb=$1
if [ $# -ne 1 ] || [ ! -f "$deb" ]; then fail 5 "one barenode_*.deb is needed in $dist: 'make deb'"; fi
hyperkube=$dist/images/hyperkube.tar etcd=$dist/images/etcd.tar
for archive in "$hyperkube" "$etcd"; do
    [ -f "$archive" ] ||
        fail 5 "$archive is needed, to build it on an emulated machine takes hours: 'barenode image build $(basename "$archive" .tar) -o $archive'"
done

begin=${BARENODE_BEGIN:-$(date +%s)}
mkdir -p "$cache"
chmod 700 "$cache"
# One at a time: what lies there from one that was killed can go.
if [ -z "${BARENODE_BEGIN-}" ]; then
    exec 9>"$cache/lock"
    flock -n 9 || fail 4 "another one runs, in $cache"
    rm -rf "$cache"/run.*
fi

# The same for all machines, kept: Debian with a kernel, Docker and what the package depends on.
depends=$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/|[^,]*//g; s/:any//g; s/ //g')
include=apparmor,systemd-sysv,dbus,udev,kmod,linux-image-cloud-amd64,initramfs-tools,iproute2,iputils-ping,openssh-server,kubernetes-client,$depends
include=$(printf '%s\n' "$include" | tr , '\n' | sort -u | paste -s -d ,)
root=$cache/bookworm-$(printf %s "$include" | sha256sum | cut -c 1-12)
if [ ! -e "$root" ]; then
    say "Debian from its archive, kept in $root"
    rm -rf "$root.new"
    # What it mounts in the tree goes with its namespace, however it ends.
    unshare --mount mmdebstrap --quiet --variant=minbase --include="$include" bookworm "$root.new" ||
        fail 1 "Debian could not be fetched; what mmdebstrap says is above"
    mv "$root.new" "$root"
fi

# In namespaces of its own no port or process of this machine is met, and whatever still runs at
# the end is killed with the first process.
if [ -z "${BARENODE_BEGIN-}" ]; then
    exec env BARENODE_BEGIN="$begin" unshare --net --pid --mount-proc --fork --kill-child "$0"
fi
ip link set lo up
# qemu's machines share a multicast group.
ip route add 224.0.0.0/4 dev lo

# Beside the tree, which is copied by hard links.
scratch=$(mktemp -d "$cache/run.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

cp "$root"/boot/vmlinuz-* "$scratch/kernel"
cp "$root"/boot/initrd.img-* "$scratch/initrd"
ssh-keygen -q -t ed25519 -N '' -f "$scratch/key"

shell() { # shell NAME COMMAND...
    machine=$1
    shift
    ssh -q -i "$scratch/key" -p "$(port "$machine")" -o BatchMode=yes -o ConnectTimeout=60 \
        -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no root@127.0.0.1 "$@"
}
place() { case $1 in master) echo 10 ;; *) echo $((10 + ${1#node})) ;; esac }
port() { echo $((2200 + $(place "$1"))); }
address() { echo "192.168.56.$(place "$1")"; }

boot() { # boot NAME: its disk, and its process
    name=$1
    copy=$scratch/$name
    # The tree is copied by links: only what is written anew differs.
    cp -al "$root" "$copy"
    rm -f "$copy/etc/hostname" "$copy/etc/hosts" "$copy/etc/fstab" "$copy/etc/resolv.conf"
    echo "$name" >"$copy/etc/hostname"
    # As Debian's installer and Vagrant write it: a host's name is an address that no other reaches.
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >"$copy/etc/hosts"
    echo '/dev/vda / ext4 noatime 0 1' >"$copy/etc/fstab"
    install -d -m 700 "$copy/root/.ssh"
    cp "$scratch/key.pub" "$copy/root/.ssh/authorized_keys"
    mac=$(printf '%02x' "$(place "$name")")
    cat >"$copy/etc/systemd/network/nat.network" <<EOF
[Match]
MACAddress=52:54:00:00:00:$mac
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
EOF
    cat >"$copy/etc/systemd/network/private.network" <<EOF
[Match]
MACAddress=52:54:00:00:01:$mac
[Network]
Address=$(address "$name")/24
EOF
    ln -sf /lib/systemd/system/systemd-networkd.service "$copy/etc/systemd/system/multi-user.target.wants/"
    cp "$deb" "$copy/root/barenode.deb"
    cp "$scripts"/*.sh "$copy/root/"
    [ "$name" != master ] || cp "$hyperkube" "$etcd" "$copy/root/"
    truncate -s 8G "$copy.img"
    mke2fs -q -t ext4 -d "$copy" "$copy.img"
    rm -rf "$copy"
    # On a busy machine the kernel's check of its timer fails under emulation.
    qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp "$cpus" -m "$memory" \
        -display none -no-reboot -serial "file:$scratch/$name.log" \
        -kernel "$scratch/kernel" -initrd "$scratch/initrd" \
        -append "root=/dev/vda rw console=ttyS0 quiet no_timer_check panic=-1" \
        -drive "file=$copy.img,if=virtio,format=raw,cache=unsafe" \
        -netdev "user,id=nat,restrict=on,hostfwd=tcp:127.0.0.1:$(port "$name")-:22" \
        -device "virtio-net-pci,netdev=nat,mac=52:54:00:00:00:$mac" \
        -netdev "socket,id=private,mcast=230.0.0.1:5000,localaddr=127.0.0.1" \
        -device "virtio-net-pci,netdev=private,mac=52:54:00:00:01:$mac" &
    echo $! >"$scratch/$name.pid"
}
is_up() { # is_up NAME: also true for a machine that is no more, to end the wait
    shell "$1" true || ! kill -0 "$(cat "$scratch/$1.pid")"
}
until_true() { # until_true WHAT COMMAND...
    what=$1
    shift
    end=$(($(date +%s) + patience))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || fail 1 "$what: not within $patience s"
        sleep 2
    done
}
failed() { # failed NAME WHAT: what the machine says, and the end
    shell "$1" 'journalctl -q --no-pager -n 60 -u netd -u nodeagent -u docker; docker ps -a' >&2 || true
    fail 1 "$1: $2 failed; its journal is above"
}

names=master
number=0
while [ "$number" -lt "$workers" ]; do
    number=$((number + 1))
    names="$names node$number"
done
for name in $names; do boot "$name"; done
for name in $names; do
    until_true "$name boots" is_up "$name"
    shell "$name" true || fail 1 "$name does not boot: $(tail -n 5 "$scratch/$name.log")"
    say "$name has booted: $(shell "$name" 'uname -r; cat /proc/uptime' | tr '\n' ' ')"
done

for name in $names; do
    shell "$name" "sh /root/install.sh /root/barenode.deb" >"$scratch/install.log" 2>&1 || {
        cat "$scratch/install.log" >&2
        fail 1 "$name: install.sh failed"
    }
    say "$name has barenode"
done
shell master "sh /root/master.sh $(address master) /root/join --hyperkube-image /root/hyperkube.tar --etcd-image /root/etcd.tar --timeout ${patience}s" 2>&1 ||
    failed master master.sh
say "master is a master"

# An emulated machine may take longer than join waits by itself.
(umask 077 && shell master 'cat /root/join' | sed "s/\$/ --timeout ${patience}s/" >"$scratch/join")
for name in $names; do
    [ "$name" != master ] || continue
    shell "$name" 'umask 077; cat >/root/join' <"$scratch/join"
    shell "$name" "sh /root/worker.sh /root/join" 2>&1 || failed "$name" worker.sh
    say "$name is a worker"
done

kubectl="kubectl --kubeconfig /etc/kubernetes/admin.conf"
for name in $names; do
    found=$(shell master "$kubectl get node $name -o 'jsonpath={.status.conditions[?(@.type==\"Ready\")].status} {.status.addresses[?(@.type==\"InternalIP\")].address}'")
    [ "$found" = "True $(address "$name")" ] || fail 1 "$name should be Ready at $(address "$name"): $found"
    bridge=$(shell "$name" "ip -4 -brief address show docker0 | awk '{sub(\"/.*\", \"\", \$3); print \$3}'")
    for other in $names; do
        shell "$other" "ping -q -c 1 -W 60 $bridge" >/dev/null || fail 1 "$other does not reach $bridge on $name"
    done
done
shell master "$kubectl get nodes -o wide"
say "every node is Ready at its private address, and reaches the others' pod networks"
