"""The nodeagent command."""

import sys
from importlib.metadata import version

EX_UNAVAILABLE = 69  # sysexits.h: the service is not part of this build


def main() -> int:
    """Answer --version; say plainly that this release runs no pods."""
    if sys.argv[1:] in (["--version"], ["version"]):
        print(f"nodeagent {version('barenode')}")  # noqa: T201 - the answer itself
        return 0
    print(  # noqa: T201
        "nodeagent: this release of barenode has the network daemon only; "
        "pods are run by the kubelet until nodeagent is released.",
        file=sys.stderr,
    )
    return EX_UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
