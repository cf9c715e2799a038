"""Hosts that die without a word: packets to and from an address vanish, and nobody is told."""

import contextlib
from collections.abc import Iterator

from tests.support.netns import Namespace


@contextlib.contextmanager
def silenced(space: Namespace, address: str) -> Iterator[None]:
    """*address* of *space* is dead to all others for the time of the context.

    Connections stay open on both sides and no reset is sent. Inside *space* it still works.
    """
    rules = (
        f"INPUT ! -i lo -d {address} -j DROP",
        f"OUTPUT ! -o lo -s {address} -j DROP",
    )
    for rule in rules:
        space.run(f"iptables -w -I {rule}")
    try:
        yield
    finally:
        for rule in rules:
            space.run(f"iptables -w -D {rule}")
