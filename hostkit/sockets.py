"""Connections that notice within 3 s that the other host is dead.

A host that loses power sends no reset. The kernel then waits a quarter of an hour for an
acknowledgement (``tcp_retries2``), and on an idle connection for ever. ``wary_socket`` has it
give up sooner, whether something is under way or not. It is the other *kernel* that is watched:
a server that is slow, or stopped, is left alone, since its host goes on acknowledging. Only a
request larger than that host's buffers is cut off, too, when the server does not read it.
"""

import errno
import socket

import aiohttp

__all__ = ["host_is_silent", "wary_socket"]

# Quiet seconds until the kernel asks for a sign of life, and between two of them.
_ASK_AFTER = 1
# Milliseconds without an acknowledgement, of data or of such a question, after which the
# connection is dead. One question may be lost, and data are sent three times or more by then.
_DEAD_AFTER = 2500
# Sendings of the first packet of a connection after the first: with pauses of 1 s and 2 s, or
# of 1 s each from Linux 6.5 on, that is an end after 2 to 3 s.
_SYN_AGAIN = 1

_SILENT = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN}


def wary_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A TCP socket for *address*: the ``socket_factory`` of aiohttp's connectors; see tcp(7).

    What it asks for are empty packets that the other kernel answers, one a second while quiet.
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _ASK_AFTER),
        (socket.TCP_KEEPINTVL, _ASK_AFTER),
        (socket.TCP_USER_TIMEOUT, _DEAD_AFTER),
        (socket.TCP_SYNCNT, _SYN_AGAIN),
    ):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def host_is_silent(error: BaseException | None) -> bool:
    """Whether *error* is the kernel's word that nothing comes from the other host any more."""
    return isinstance(error, OSError) and error.errno in _SILENT
