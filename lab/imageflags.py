"""The flags that say where Kubernetes' image comes from, of every command that needs it."""

import argparse


def add_hyperkube(group: "argparse._ArgumentGroup") -> None:
    """The flags that say where Kubernetes' commands come from."""
    group.add_argument(
        "--hyperkube-image",
        default="",
        metavar="IMAGE",
        help="an image, or a 'docker save' archive, with Kubernetes' commands behind /hyperkube",
    )
    group.add_argument(
        "--kube-bin-dir",
        default="",
        metavar="DIR",
        help="folder with kube-apiserver, kube-controller-manager and kube-scheduler"
        " (default: built from Debian's source package, once)",
    )
    group.add_argument(
        "--kubernetes-version",
        default="",
        metavar="VERSION",
        help="what is in --hyperkube-image, where its tag does not tell",
    )
