"""Commands that make a host a node, or no node, one at a time.

Two of them at once would each find the other's half: ``reset`` would remove what ``join`` has just
written. The kernel forgets a holder that was killed.
"""

import contextlib
from collections.abc import Iterator

from hostkit.cli import hold_name
from lab.errors import BusyError


@contextlib.contextmanager
def alone(name: str = "host") -> Iterator[None]:
    """Hold this host, by *name* in its network namespace; raises BusyError when another does."""
    held = hold_name(name)
    if held is None:
        raise BusyError(
            "another barenode init, join or reset works on this host: wait until it has ended, and"
            " look then whether this one is still needed"
        )
    with held:
        yield
