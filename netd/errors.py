"""What netd raises; the messages are fit for an operator."""

from hostkit.errors import HostkitError


class NetdError(HostkitError):
    """Base of netd's own errors."""


class UnderlayError(NetdError):
    """The interface or address that carries the overlay cannot be determined."""


class LeaseError(NetdError):
    """No subnet can be held at the moment; the message says why and what to do."""


class BridgeError(NetdError):
    """The container bridge cannot be put right."""


class FirewallError(NetdError):
    """The iptables chains cannot be read or written."""
