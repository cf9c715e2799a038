"""Sockets that notice dead hosts; what the kernel makes of it is in tests/kernel."""

import errno
import socket

import pytest

from hostkit.sockets import host_is_silent, wary_socket


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_is_given_up_within_3_s_but_not_for_one_packet_that_is_lost(
    family: socket.AddressFamily,
) -> None:
    with wary_socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ())) as made:
        assert made.family == family
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

        def option(number: int) -> int:
            return made.getsockopt(socket.IPPROTO_TCP, number)

        dead = option(socket.TCP_USER_TIMEOUT) / 1000
        assert dead <= 3
        assert option(socket.TCP_KEEPIDLE) + option(socket.TCP_KEEPINTVL) < dead
        assert option(socket.TCP_SYNCNT) == 1


@pytest.mark.parametrize(
    ("error", "silent"),
    [
        (OSError(errno.ETIMEDOUT, "Connection timed out"), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), False),
        (OSError(errno.ECONNREFUSED, "Connection refused"), False),
        (TimeoutError(), False),
        (ValueError(errno.ETIMEDOUT), False),
        (None, False),
    ],
)
def test_only_the_kernels_word_makes_a_host_silent(error: Exception | None, silent: bool) -> None:
    assert host_is_silent(error) is silent
