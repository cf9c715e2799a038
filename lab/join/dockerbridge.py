"""Docker's own bridge, after netd's was taken away.

dockerd remembers its default network on disk and makes docker0 again with the address that it had
under netd, when it is told nothing. So it is told once the address that it would choose on a fresh
host, and remembers that. (A start with ``--bridge=none`` would make it forget as well, and would
take the network from containers that start again by themselves.) A Docker that never followed netd
is left alone: its containers go on.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

from hostkit.command import Runner
from hostkit.config import Settings
from hostkit.errors import HostkitError
from hostkit.files import remove, write_atomic
from lab.errors import LabError
from lab.join.hostservices import DOCKER, DOCKER_START, Outcome, Report, Systemd, bridge_of
from netd.bridge.options import drop_in
from netd.identity import last_subnet
from netd.state import load_state

BRIDGE = "docker0"
RESTARTED = "restarted, on a bridge of its own"
_DROP_IN = "run/systemd/system/docker.service.d/90-barenode-reset.conf"
_OPTIONS = "run/barenode-reset.env"
_DAEMON = "etc/docker/daemon.json"
_DEFAULTS = tuple(IPv4Network(f"172.{second}.0.0/16") for second in range(17, 32))
_LINK = f"sys/class/net/{BRIDGE}"


def subnet_of_netd(settings: Settings) -> IPv4Network | None:
    """The subnet that netd had last, None when it had none."""
    state = load_state(Path(settings["state-dir"]) / "state.json")
    return last_subnet(state, Path(settings["subnet-file"]))


def follows(network: str, subnet: IPv4Network | None) -> bool:
    """Whether dockerd's default network, as ``docker network inspect`` prints it, is *subnet*."""
    try:
        config = json.loads(network)[0]["IPAM"]["Config"] or ()
        return subnet is not None and any(one.get("Subnet") == str(subnet) for one in config)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


async def own_bridge(
    runner: Runner, report: Report, services: Systemd, subnet: IPv4Network | None, root: Path
) -> Outcome:
    """Have a running Docker on a bridge of its own; *subnet* is what netd gave it."""
    try:
        if not services.booted() or not await services.is_active(DOCKER):
            return Outcome("docker", "does not run")
        there = (root / _LINK).exists()
        if there and not follows(await bridge_of(runner), subnet):
            return Outcome("docker", "is on a bridge of its own")
        report("docker", "restarting: it makes its own bridge again")
        await services.stop(DOCKER, within=DOCKER_START)
        # One that containers were on is still there, with netd's MTU.
        await runner.run(["ip", "link", "delete", BRIDGE], check=False)
        await services.up(DOCKER, report, timeout=DOCKER_START)
        if follows(await bridge_of(runner), subnet):
            await _forget(runner, report, services, root, subnet)
        if follows(await bridge_of(runner), subnet):
            return Outcome("docker", f"still is on netd's subnet {subnet}", ok=False)
    except (LabError, HostkitError, OSError) as error:
        return Outcome("docker", str(error), ok=False)
    return Outcome("docker", RESTARTED)


def own_subnet(taken: Iterable[IPv4Network], daemon: str) -> IPv4Network | None:
    """The network that dockerd gives docker0 on a fresh host; None when all are taken.

    *daemon* is the text of daemon.json, which may name pools of its own. The defaults are those of
    libnetwork, ipamutils/utils.go.
    """
    used = list(taken)
    for pool in (*_pools(daemon), *_DEFAULTS):
        if not any(pool.overlaps(one) for one in used):
            return pool
    return None


def _pools(daemon: str) -> Iterator[IPv4Network]:
    """The networks in daemon.json's default-address-pools, as far as they can be read."""
    try:
        for pool in json.loads(daemon or "{}").get("default-address-pools") or ():
            yield from IPv4Network(pool["base"]).subnets(new_prefix=int(pool["size"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return


def routed(routes: str) -> list[IPv4Network]:
    """The destinations in what ``ip -json route`` prints, without the default route."""
    found = [str(route.get("dst", "")) for route in json.loads(routes or "[]")]
    return [IPv4Network(text) for text in found if text[:1].isdigit()]


async def _forget(
    runner: Runner, report: Report, services: Systemd, root: Path, netd: IPv4Network | None
) -> None:
    """Start Docker once with the address that it would have on a fresh host."""
    routes = routed((await runner.run(["ip", "-json", "-4", "route"])).stdout)
    subnet = own_subnet((one for one in routes if one != netd), _text(root / _DAEMON))
    if subnet is None:
        raise LabError("Docker has no network left for docker0: set bip in /etc/docker/daemon.json")
    report("docker", f"restarting again, on {subnet}: it remembers the address of netd")
    options = root / _OPTIONS
    unit = (await runner.run(["systemctl", "cat", DOCKER])).stdout
    try:
        write_atomic(options, f'DOCKER_OPTS="--bip={subnet[1]}/{subnet.prefixlen}"\n')
        write_atomic(root / _DROP_IN, drop_in(f"/{_OPTIONS}", unit))
        await services.reload_units()
        await services.up(DOCKER, report, timeout=DOCKER_START, again=True)
    finally:
        remove(options)
        remove(root / _DROP_IN)
        with contextlib.suppress(OSError):
            (root / _DROP_IN).parent.rmdir()
        await services.reload_units()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
