"""What other programs read of us: flannel's subnet.env and the options for dockerd.

``subnet.env`` is flannel's file, variable for variable. ``docker_opts.env`` holds what flannel's
``mk-docker-opts.sh`` would have made of it. The drop-in lets ``docker.service`` read that file,
so that no ``daemon.json`` has to be edited.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Network


@dataclass(frozen=True, slots=True)
class Facts:
    """What the files tell: *mtu* in bytes is that of the overlay, for containers."""

    network: IPv4Network
    subnet: IPv4Network
    mtu: int
    ip_masq: bool

    @property
    def gateway(self) -> str:
        """The bridge's address with its prefix length, the subnet's first."""
        return f"{self.subnet.network_address + 1}/{self.subnet.prefixlen}"


def subnet_env(facts: Facts) -> str:
    """The content of ``/run/flannel/subnet.env``."""
    return (
        f"FLANNEL_NETWORK={facts.network}\n"
        f"FLANNEL_SUBNET={facts.gateway}\n"
        f"FLANNEL_MTU={facts.mtu}\n"
        f"FLANNEL_IPMASQ={'true' if facts.ip_masq else 'false'}\n"
    )


def parse_subnet_env(text: str) -> IPv4Network | None:
    """The subnet that a subnet.env names, None when it names none."""
    match = re.search(r"^FLANNEL_SUBNET=([0-9.]+/[0-9]+)\s*$", text, re.MULTILINE)
    if match is None:
        return None
    try:
        return IPv4Network(match[1], strict=False)
    except ValueError:
        return None


def docker_env(facts: Facts) -> str:
    """The environment file for dockerd's ``$DOCKER_OPTS``.

    dockerd masquerades by itself unless we do: the two would rewrite each other's packets.
    """
    bip = f"--bip={facts.gateway}"
    masq = f"--ip-masq={'false' if facts.ip_masq else 'true'}"
    mtu = f"--mtu={facts.mtu}"
    return (
        f'DOCKER_OPT_BIP="{bip}"\n'
        f'DOCKER_OPT_IPMASQ="{masq}"\n'
        f'DOCKER_OPT_MTU="{mtu}"\n'
        f'DOCKER_OPTS=" {bip} {masq} {mtu}"\n'
    )


DROP_IN_MARK = "# Written by netd.\n"
"""How a drop-in of netd's own begins."""


def drop_in(env_file: str, unit_text: str) -> str:
    """A systemd drop-in that hands *env_file* to dockerd.

    *unit_text* is the installed docker.service: Debian's passes ``$DOCKER_OPTS`` already, other
    packages' do not and get their own command line with it appended.
    """
    lines = ["[Service]", f"EnvironmentFile=-{env_file}"]
    # systemd.service(5): an empty ExecStart= takes back what stood before.
    command = _command(unit_text)
    if command and not _passes_options(command):
        lines += ["ExecStart=", f"ExecStart={command} $DOCKER_OPTS"]
    return DROP_IN_MARK + "\n".join(lines) + "\n"


def is_enough(static: str, env_file: str, unit_text: str) -> bool:
    """Whether the drop-in *static*, which came with a package or from an operator, hands
    *env_file* to the dockerd of *unit_text*: then netd writes none. No unit counts as Debian's."""
    files = re.findall(r"^EnvironmentFile=-?(.*?)\s*$", static, re.MULTILINE)
    command = _command(f"{unit_text}\n{static}")
    return env_file in files and (not command or _passes_options(command))


def _command(unit_text: str) -> str:
    """The last ExecStart= that is not empty, "" for none."""
    commands = re.findall(r"^ExecStart=((?:.*\\\n)*.*)$", unit_text, re.MULTILINE)
    return next((one for one in reversed(commands) if one.strip()), "")


def _passes_options(command: str) -> bool:
    return bool(re.search(r"\$\{?DOCKER_OPTS\b", command))
