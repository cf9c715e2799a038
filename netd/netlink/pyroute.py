"""pyroute2's asynchronous IPRoute, without the rest of pyroute2.

Importing the package runs its ``__init__``, which loads its interface database, conntrack,
nftables and more: 5 MB and 60 ms of a daemon that has 60 MB and starts in a second. The
one submodule that is needed here does not need them, so the package is not initialised while it
is imported. Anybody else's ``import pyroute2`` afterwards works as usual.
"""

import sys
from importlib.util import find_spec, module_from_spec

__all__ = ["AsyncIPRoute", "NetlinkError"]

_placeholder = None
if "pyroute2" not in sys.modules:
    _spec = find_spec("pyroute2")
    if _spec is not None:
        _placeholder = sys.modules["pyroute2"] = module_from_spec(_spec)
try:
    from pyroute2.iproute.linux import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError
finally:
    if _placeholder is not None and sys.modules.get("pyroute2") is _placeholder:
        del sys.modules["pyroute2"]
