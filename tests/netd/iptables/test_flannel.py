"""flannel's chains, rule for rule."""

from ipaddress import IPv4Network

from netd.iptables.chain import Jump, Wish
from netd.iptables.flannel import forward, masquerade

NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.33.0/24")


def test_forward_accepts_from_and_to_the_network() -> None:
    said = '-m comment --comment "flanneld forward"'
    assert forward(NETWORK) == Wish(
        "filter",
        chains={
            "FLANNEL-FWD": (f"-s 10.1.0.0/16 {said} -j ACCEPT", f"-d 10.1.0.0/16 {said} -j ACCEPT"),
        },
        jumps=(Jump("FORWARD", f"{said} -j FLANNEL-FWD", "FLANNEL-FWD"),),
    )


def test_masquerade_has_the_six_rules_in_their_order() -> None:
    said = '-m comment --comment "flanneld masq"'
    wish = masquerade(NETWORK, SUBNET)
    assert wish.table == "nat"
    assert wish.chains == {
        "FLANNEL-POSTRTG": (
            f"-m mark --mark 0x4000/0x4000 {said} -j RETURN",
            f"-s 10.1.33.0/24 -d 10.1.0.0/16 {said} -j RETURN",
            f"-s 10.1.0.0/16 -d 10.1.33.0/24 {said} -j RETURN",
            f"! -s 10.1.0.0/16 -d 10.1.33.0/24 {said} -j RETURN",
            f"-s 10.1.0.0/16 ! -d 224.0.0.0/4 {said} -j MASQUERADE --random-fully",
            f"! -s 10.1.0.0/16 -d 10.1.0.0/16 {said} -j MASQUERADE --random-fully",
        ),
    }
    assert wish.jumps == (Jump("POSTROUTING", f"{said} -j FLANNEL-POSTRTG", "FLANNEL-POSTRTG"),)


def test_without_random_ports_only_that_option_is_missing() -> None:
    full = masquerade(NETWORK, SUBNET).chains["FLANNEL-POSTRTG"]
    plain = masquerade(NETWORK, SUBNET, random_fully=False).chains["FLANNEL-POSTRTG"]
    assert plain == tuple(rule.removesuffix(" --random-fully") for rule in full)
    assert plain != full


def test_what_is_switched_off_is_wished_away() -> None:
    assert forward(None) == Wish("filter", absent=("FLANNEL-FWD",))
    away = Wish("nat", absent=("FLANNEL-POSTRTG",))
    assert masquerade(None, SUBNET) == masquerade(NETWORK, None) == away
