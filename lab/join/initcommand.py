"""``barenode init``: flags and answer."""

import argparse
import os
from argparse import Namespace
from typing import TypeVar

from hostkit.command import SubprocessRunner
from hostkit.config import duration
from lab.errors import UsageError
from lab.imageflags import add_hyperkube
from lab.join import firstmaster, tokens
from lab.join.alone import alone
from lab.join.bootstrap import Joined
from lab.join.firstmaster import Asked
from lab.join.images import HostImages, ImageWish
from lab.join.initsteps import Init, Request
from lab.join.tokens import Token
from lab.output import Output
from lab.store import Paths

_P = TypeVar("_P", bound=argparse.ArgumentParser)


def add_arguments(groups: "argparse._SubParsersAction[_P]", epilog: str) -> None:
    """Add the command to *groups*."""
    text = "make this host the first master of a cluster, and print how others join"
    parser = groups.add_parser(
        "init", help=text, description=text, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(command="init", parser=parser)
    parser.add_argument(
        "--address", default="", help="where others reach this host (default: by the default route)"
    )
    parser.add_argument("--node-name", default="", metavar="NAME", help="default: the host's name")
    parser.add_argument(
        "--network", default="", metavar="CIDR",
        help=f"the pods' network (default: {firstmaster.DEFAULT_PODS})",
    )  # fmt: skip
    parser.add_argument(
        "--service-range", default="", metavar="CIDR",
        help=f"range of the cluster IPs (default: {firstmaster.DEFAULT_SERVICES})",
    )  # fmt: skip
    parser.add_argument("--domain", default="", help=f"default: {firstmaster.DEFAULT_DOMAIN}")
    parser.add_argument(
        "--name", metavar="EXTRA", action="append", default=[],
        help="further name or address of the API, for its certificate; may be repeated",
    )  # fmt: skip
    _add_images(parser)
    parser.add_argument("--token", default="", help="the join token (default: a new one)")
    parser.add_argument(
        "--token-ttl", default=tokens.DEFAULT_TTL, metavar="TIME",
        help=f"how long it lasts, 0 for ever (default: {tokens.DEFAULT_TTL})",
    )  # fmt: skip
    parser.add_argument(
        "--schedule-pods", action="store_true", help="let pods run on this master too"
    )
    parser.add_argument(
        "--timeout", default="10m", metavar="TIME",
        help="how long the control plane may take once its images are there (default: 10m)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def _add_images(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images (default: made of Debian's packages, once)")
    add_hyperkube(group)
    group.add_argument(
        "--etcd-image", default="", metavar="IMAGE", help="an image, or an archive, with etcd"
    )


def parse(args: Namespace) -> Request:
    """The request of the flags; raises UsageError."""
    try:
        timeout = duration(args.timeout)
    except ValueError as error:
        raise UsageError(f"--timeout {args.timeout}: {error}") from None
    if args.hyperkube_image and args.kube_bin_dir:
        raise UsageError("--hyperkube-image and --kube-bin-dir say the same: give one of them")
    return Request(
        Asked(args.node_name, args.address, args.network, args.service_range, args.domain),
        tuple(args.name),
        ImageWish(
            args.hyperkube_image, args.kube_bin_dir, args.kubernetes_version, args.etcd_image
        ),
        Token.parse(args.token) if args.token else Token.new(),
        tokens.parse_ttl(args.token_ttl, "--token-ttl"),
        args.schedule_pods,
        timeout,
    )


async def run(args: argparse.Namespace, output: Output) -> int:
    """Run the command in *args*; returns its exit status, raises LabError."""
    request = parse(args)
    cache = Paths.standard(os.environ).cache
    runner = SubprocessRunner()
    images = HostImages(runner, cache, output.progress)
    with alone():
        done = await Init(runner, images, output.progress).run(request)
    show(done, output, json=args.json)
    return 0


def show(done: Joined, output: Output, *, json: bool) -> None:
    """The answer: the line for others is the only one on stdout."""
    if json:
        output.json(done)
        return
    output.progress("kubectl", f"export KUBECONFIG={done.kubeconfig}")
    until = f"other hosts, until {done.expires}:" if done.expires else "other hosts:"
    output.progress("join", until)
    output.line(done.join)
