"""Which interface carries the overlay: the order of the wishes, and errors that help."""

from ipaddress import IPv4Address, IPv4Interface

import pytest

from netd.errors import UnderlayError
from netd.underlay import Interface, Sight, Underlay, Wish, choose


def interface(name: str, index: int, *addresses: str) -> Interface:
    """An interface with *addresses*."""
    return Interface(name, index, 1500, tuple(IPv4Interface(one) for one in addresses))


LO = interface("lo", 1)
ETH0 = interface("eth0", 2, "10.0.2.15/24")
ETH1 = interface("eth1", 3, "192.168.0.201/24", "192.168.7.201/24")
BARE = interface("eth2", 4)
SIGHT = Sight((LO, ETH0, ETH1, BARE), default_index=2)


def ip(text: str) -> IPv4Address:
    """Short for an address."""
    return IPv4Address(text)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(), Underlay(ETH0, ip("10.0.2.15"))),
        (Wish(ifaces=("eth1",)), Underlay(ETH1, ip("192.168.0.201"))),
        (Wish(ifaces=("192.168.7.201",)), Underlay(ETH1, ip("192.168.7.201"))),
        (Wish(ifaces=("wlan0", "eth1", "eth0")), Underlay(ETH1, ip("192.168.0.201"))),
        (Wish(patterns=("eth1",)), Underlay(ETH1, ip("192.168.0.201"))),
        (Wish(patterns=(r"^192\.168\.7\.",)), Underlay(ETH1, ip("192.168.7.201"))),
        (Wish(patterns=("wlan", "eth[01]$")), Underlay(ETH0, ip("10.0.2.15"))),
        (Wish(ifaces=("wlan0",), patterns=("eth1",)), Underlay(ETH1, ip("192.168.0.201"))),
        (Wish(ifaces=("eth1",), patterns=("eth0",)), Underlay(ETH1, ip("192.168.0.201"))),
        (Wish(ifaces=("eth1",), can_reach="10.0.2.2"), Underlay(ETH1, ip("192.168.0.201"))),
        (Wish(public_ip=ip("192.168.7.201")), Underlay(ETH1, ip("192.168.7.201"))),
        (Wish(public_ip=ip("203.0.113.9")), Underlay(ETH0, ip("203.0.113.9"))),
        (
            Wish(ifaces=("eth1",), public_ip=ip("203.0.113.9")),
            Underlay(ETH1, ip("203.0.113.9")),
        ),
        (Wish(ifaces=("eth2",), public_ip=ip("203.0.113.9")), Underlay(BARE, ip("203.0.113.9"))),
    ],
)
def test_the_wish_decides_and_without_one_the_default_route(wish: Wish, expected: Underlay) -> None:
    assert choose(SIGHT, wish) == expected


def test_an_address_pattern_goes_before_a_name_pattern() -> None:
    named_like_an_address = interface("net192", 9, "172.16.0.1/24")
    sight = Sight((named_like_an_address, ETH1))
    assert choose(sight, Wish(patterns=("192",))).interface is ETH1


def test_can_reach_takes_the_interface_and_source_of_that_route() -> None:
    sight = Sight(SIGHT.interfaces, 2, reach_index=3, reach_source=ip("192.168.7.201"))
    wish = Wish(can_reach="192.168.7.1")
    assert choose(sight, wish) == Underlay(ETH1, ip("192.168.7.201"))


def test_can_reach_without_a_known_source_takes_the_first_address() -> None:
    sight = Sight(SIGHT.interfaces, 2, reach_index=3)
    assert choose(sight, Wish(can_reach="192.168.7.1")).public_ip == ip("192.168.0.201")


@pytest.mark.parametrize(
    ("sight", "wish", "words"),
    [
        (
            SIGHT, Wish(ifaces=("wlan0", "wlan1"), patterns=("^en",)),
            ["--iface wlan0", "--iface wlan1", "--iface-regex ^en", "eth0 10.0.2.15",
             "eth1 192.168.0.201/192.168.7.201", "eth2 without address"],
        ),
        (SIGHT, Wish(patterns=("eth[",)), ["--iface-regex 'eth['", "no regular expression"]),
        (SIGHT, Wish(can_reach="10.9.9.9"), ["--iface-can-reach 10.9.9.9", "no route"]),
        (SIGHT, Wish(ifaces=("eth2",)), ["eth2 has no IPv4 address", "--iface", "--public-ip"]),
        (Sight(SIGHT.interfaces), Wish(), ["no default route", "--iface", "eth1"]),
        (Sight((LO,)), Wish(), ["no interface but lo"]),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused_with_what_there_is_instead(
    sight: Sight, wish: Wish, words: list[str]
) -> None:
    with pytest.raises(UnderlayError) as caught:
        choose(sight, wish)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "lo " not in str(caught.value).replace("but lo ", "")


def test_an_interface_knows_its_addresses() -> None:
    assert ETH1.holds(ip("192.168.7.201"))
    assert not ETH1.holds(ip("192.168.7.202"))
