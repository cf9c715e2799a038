"""What is in the hyperkube image: Kubernetes' static commands, ``/hyperkube`` and a busybox."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from lab.layers import Entry, ImageConfig, directory, skeleton, symlink, text

REPOSITORY = "barenode/hyperkube"
# Part of the key: raise it when something else changes than the files that are named here.
FORMAT = 1

# Exit status 64 is EX_USAGE of sysexits.h. The short names are those of Kubernetes' first years.
DISPATCHER = """#!/bin/sh
usage() {
    echo "usage: hyperkube COMMAND [ARGS...]: kube-apiserver, kube-controller-manager, kube-scheduler, kubectl"
    echo "also by the names apiserver, controller-manager, scheduler"
}
case ${1-} in
kube-apiserver | apiserver) command=kube-apiserver ;;
kube-controller-manager | controller-manager) command=kube-controller-manager ;;
kube-scheduler | scheduler) command=kube-scheduler ;;
kubectl) command=kubectl ;;
kubelet)
    echo "hyperkube: there is no kubelet in this image: nodeagent runs the pods of a host" >&2
    exit 64
    ;;
kube-proxy | proxy)
    echo "hyperkube: there is no kube-proxy in this image: netd balances the services of a host" >&2
    exit 64
    ;;
'' | help | -h | --help)
    usage
    exit 0
    ;;
*)
    echo "hyperkube: unknown command: $1" >&2
    usage >&2
    exit 64
    ;;
esac
if [ ! -x "/usr/local/bin/$command" ]; then
    echo "hyperkube: there is no $command in this image" >&2
    exit 64
fi
shift
exec "/usr/local/bin/$command" "$@"
"""  # noqa: E501  # a line of the script

_TOOLS = (
    "[ awk cat chmod chown cp cut date df du echo env false find grep gzip head hostname id ip "
    "kill less ln ls mkdir mount mv nc netstat nslookup ping printf ps pwd rm rmdir sed sh sleep "
    "sort stat tail tar tee test top touch tr true umount uname vi wc wget which xargs"
)


def image_config(version: str) -> ImageConfig:
    """How the image of *version*, such as ``v1.20.2``, is called and starts."""
    # A tag may not have the plus sign of a vendor's version.
    return ImageConfig(f"{REPOSITORY}:{version.replace('+', '_')}", ("/hyperkube",))


def image_tree(commands: Mapping[str, Path], busybox: Mapping[str, Entry]) -> dict[str, Entry]:
    """The files of the image: *commands* by their names, and the files of a *busybox* package."""
    tree = skeleton() | dict(busybox)
    tree |= {f"usr/bin/{tool}": symlink("busybox") for tool in _TOOLS.split()}
    tree |= {
        "etc/passwd": text("root:x:0:0:root:/root:/bin/sh\n"),
        "etc/group": text("root:x:0:\n"),
        # Go asks the name server before /etc/hosts where this file is missing.
        "etc/nsswitch.conf": text("hosts: files dns\n"),
        "etc/ssl/certs": directory(),
        "hyperkube": text(DISPATCHER, 0o755),
        "usr/local/bin/hyperkube": symlink("/hyperkube"),
    }
    programs = {f"usr/local/bin/{name}": path for name, path in commands.items()}
    return tree | {place: Entry(0o755, source=path) for place, path in programs.items()}


def image_key(fingerprint: str) -> str:
    """16 hexadecimal digits that change with the recipe and with the commands' *fingerprint*."""
    recipe = (FORMAT, sorted(image_tree({}, {}).items()), fingerprint)
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]
