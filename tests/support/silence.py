"""Hosts that die without a word: packets to and from an address vanish, and nobody is told.

And how an agent found out: from the kernel, or when a deadline had passed.
"""

import contextlib
import re
from collections.abc import Iterator

from tests.support.netns import Namespace

BY_THE_KERNEL = {"its host has fallen silent", "Connection timed out", "No route to host"}
"""What is said of a server whose host the kernel gave up."""


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


def told_by_the_kernel(log: str, server: str) -> list[str]:
    """The lines of an agent's *log* that tell why it left the API server at the URL *server*.

    AssertionError when there are none, or when it was not for the kernel's word.
    """
    found = re.findall(rf"^.*API server {re.escape(server)}: .*$", log, re.MULTILINE)
    assert found, f"nothing about {server} in:\n{log[-3000:]}"
    others = [line for line in found if not any(word in line for word in BY_THE_KERNEL)]
    assert not others, others
    return found
