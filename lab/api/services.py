"""Services: what is filled in, what is refused, and which addresses and node ports they get."""

import random
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address, IPv4Network

from lab.api import names
from lab.api.objects import FieldErrors, Json, StatusError, items, part, path

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
POLICIES = ("Cluster", "Local")
NODE_PORTS = range(30000, 32768)
AFFINITY_SECONDS = 10800


def claims(obj: Json) -> Collection[str]:
    """What *obj* has and no other service may have: its address and its node ports."""
    spec = part(obj, "spec")
    ports = [port.get("nodePort") for port in items(spec, "ports")]
    found = {f":{port}" for port in (*ports, spec.get("healthCheckNodePort")) if port}
    ip = spec.get("clusterIP")
    return found | {ip} if isinstance(ip, str) and names.ipv4(ip) else found


def _external(spec: Json) -> bool:
    return spec.get("type") in {"NodePort", "LoadBalancer"}


def _wants_check_port(spec: Json) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def keep_assigned(old: Json, new: Json) -> None:
    """Give *new* what *old* was assigned where *new* leaves it open; drop what its type has not."""
    was, spec = part(old, "spec"), new.setdefault("spec", {})
    had, has = _assigned(was), _assigned(spec)
    for name in had - has:
        if spec.get(name) == was.get(name):
            spec.pop(name, None)
    for name in had & has:
        if not spec.get(name) and was.get(name):
            spec[name] = was[name]
    numbers = {(p.get("protocol"), p.get("port")): p.get("nodePort") for p in items(was, "ports")}
    for port in items(spec, "ports"):
        given = numbers.get((port.get("protocol") or "TCP", port.get("port")))
        if _external(spec) and given and not port.get("nodePort"):
            port["nodePort"] = given
        elif not _external(spec) and _external(was) and port.get("nodePort") in numbers.values():
            port.pop("nodePort", None)


def _assigned(spec: Json) -> set[str]:
    """The fields that a service of this type is assigned."""
    names: set[str] = set()
    if spec.get("type") != "ExternalName":
        names |= {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"}
    if _external(spec):
        names |= {"externalTrafficPolicy", "allocateLoadBalancerNodePorts"}
    return names | ({"healthCheckNodePort"} if _wants_check_port(spec) else set())


def fill(obj: Json) -> None:
    """Set what kube sets when it is left open, except what has to be assigned."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        affinity = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        affinity.setdefault("timeoutSeconds", AFFINITY_SECONDS)
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    for port in spec.get("ports", []):
        port.setdefault("protocol", "TCP")
        if not port.get("targetPort"):
            port["targetPort"] = port.get("port", 0)
    if spec["type"] == "ExternalName":
        return
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if _external(spec) or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    elif spec.get("clusterIPs") and not spec.get("clusterIP"):
        spec["clusterIP"] = spec["clusterIPs"][0]


def check(errors: FieldErrors, obj: Json, old: Json | None) -> None:
    """Note what is wrong with a filled-in service, and with its change from *old*."""
    spec = obj["spec"]
    _check_ports(errors, spec)
    names.check_labels(errors, "spec.selector", spec.get("selector", {}))
    errors.one_of("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
    errors.one_of("spec.type", spec["type"], TYPES)
    seconds = path(spec, "sessionAffinityConfig.clientIP.timeoutSeconds")
    if seconds is not None and not 0 < seconds <= 86400:
        errors.invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds,
            "must be greater than 0 and less than 86400",
        )  # fmt: skip
    for name in ("internalTrafficPolicy", "externalTrafficPolicy"):
        if name in spec:
            errors.one_of(f"spec.{name}", spec[name], POLICIES)
    if "externalTrafficPolicy" in spec and not (_external(spec) or spec.get("externalIPs")):
        errors.invalid(
            "spec.externalTrafficPolicy", spec["externalTrafficPolicy"],
            "may only be set for externally-accessible services",
        )  # fmt: skip
    if spec.get("healthCheckNodePort") and not _wants_check_port(spec):
        errors.invalid(
            "spec.healthCheckNodePort", spec["healthCheckNodePort"],
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )  # fmt: skip
    for at, ip in enumerate(spec.get("externalIPs", [])):
        errors.check(f"spec.externalIPs[{at}]", ip, names.endpoint_address(ip))
    _check_ranges(errors, spec)
    _check_cluster_ip(errors, spec, part(old, "spec"))


def _check_ports(errors: FieldErrors, spec: Json) -> None:
    ports = spec.get("ports", [])
    headless = spec.get("clusterIP") == "None"
    if not ports and not headless and spec["type"] != "ExternalName":
        errors.required("spec.ports")
    seen_names: set[str] = set()
    seen: set[tuple[str, object]] = set()
    for at, port in enumerate(ports):
        where = f"spec.ports[{at}]"
        name = port.get("name", "")
        if not name and len(ports) > 1:
            errors.required(f"{where}.name")
        elif name:
            errors.check(f"{where}.name", name, names.dns_label(name))
            if name in seen_names:
                errors.duplicate(f"{where}.name", name)
        seen_names.add(name)
        errors.check(f"{where}.port", port.get("port", 0), names.port_number(port.get("port")))
        errors.one_of(f"{where}.protocol", port["protocol"], names.PROTOCOLS)
        target = port["targetPort"]
        errors.check(f"{where}.targetPort", target, names.target_port(target))
        if port.get("nodePort") and spec["type"] == "ClusterIP":
            errors.forbidden(f"{where}.nodePort", "may not be used when `type` is 'ClusterIP'")
        same = (port["protocol"], port.get("port"))
        if same in seen:
            errors.duplicate(where, {"port": port.get("port"), "protocol": port["protocol"]})
        seen.add(same)


def _check_ranges(errors: FieldErrors, spec: Json) -> None:
    ranges = spec.get("loadBalancerSourceRanges", [])
    if ranges and spec["type"] != "LoadBalancer":
        text = "may only be used when `type` is 'LoadBalancer'"
        errors.forbidden("spec.LoadBalancerSourceRanges", text)
    for at, text in enumerate(ranges):
        try:
            IPv4Network(text.strip(), strict=False)
        except ValueError:
            errors.invalid(
                f"spec.loadBalancerSourceRanges[{at}]", text,
                "must be a valid IPv4 CIDR, (e.g. 10.9.8.0/24)",
            )  # fmt: skip


def _check_cluster_ip(errors: FieldErrors, spec: Json, was: Json) -> None:
    ip, ips = spec.get("clusterIP"), spec.get("clusterIPs", [])
    if spec["type"] == "ExternalName":
        if ip:
            errors.forbidden("spec.clusterIPs[0]", "may not be set when `type` is 'ExternalName'")
        elsewhere = spec.get("externalName", "")
        if elsewhere:
            wrong = names.dns_subdomain(elsewhere.rstrip("."))
            errors.check("spec.externalName", elsewhere, wrong)
        else:
            errors.required("spec.externalName")
        return
    if ip and ip != "None":
        errors.check("spec.clusterIPs[0]", ip, names.address(ip))
    if ip == "None" and spec["type"] != "ClusterIP":
        errors.invalid(
            "spec.clusterIPs[0]", ip, f"may not be set to 'None' for {spec['type']} services"
        )
    if len(ips) > 1:
        errors.invalid("spec.clusterIPs", ips, "only one IPv4 address is supported by the lab")
    elif was.get("type", "ExternalName") != "ExternalName" and ip != was.get("clusterIP"):
        errors.invalid("spec.clusterIPs[0]", ips, "may not change once set")
    elif ips and ips[0] != ip:
        errors.invalid("spec.clusterIPs", ips, "first value must match `clusterIP`")


class ServicePool:
    """The addresses and node ports that services can have."""

    def __init__(
        self,
        network: IPv4Network,
        *,
        node_ports: range = NODE_PORTS,
        choose: Callable[[int], int] = random.randrange,
    ) -> None:
        self.network = network
        self._node_ports = node_ports
        self._choose = choose

    @property
    def first(self) -> IPv4Address:
        """The address of the service ``kubernetes``."""
        return self.network[1]

    def assign(
        self, errors: FieldErrors, obj: Json, old: Json | None, taken: Mapping[str, int]
    ) -> None:
        """Complete *obj*; *taken* tells by ``claims`` what is used. Raises 500 when all is."""
        spec, own = obj["spec"], claims(old or {})

        def used(claim: str) -> bool:
            return bool(taken.get(claim)) and claim not in own

        if spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
            self._assign_ip(errors, spec, used)
        wanted: list[tuple[str, Json, str]] = []
        if _external(spec) and spec.get("allocateLoadBalancerNodePorts", True):
            ports = enumerate(spec.get("ports", []))
            wanted = [(f"spec.ports[{at}].nodePort", port, "nodePort") for at, port in ports]
        if _wants_check_port(spec):
            wanted.append(("spec.healthCheckNodePort", spec, "healthCheckNodePort"))
        given: set[tuple[int, str]] = set()
        # What was asked for comes first: a port chosen freely must not take it.
        for where, holder, name in sorted(wanted, key=lambda one: not one[1].get(one[2])):
            self._assign_port(errors, where, holder, name, used=used, given=given)

    def _assign_ip(self, errors: FieldErrors, spec: Json, used: Callable[[str], bool]) -> None:
        ip = spec.get("clusterIP")
        if not ip:
            hosts = range(1, self.network.num_addresses - 1)
            free = self._free(hosts, lambda at: str(self.network[at]), used)
            if free is None:
                raise _exhausted("failed to allocate a serviceIP: range is full")
            spec["clusterIP"], spec["clusterIPs"] = free, [free]
        elif names.ipv4(ip) not in self.network and not used(ip):
            why = (
                f"the provided IP ({ip}) is not in the valid range. "
                f"The range of valid IPs is {self.network}"
            )
            errors.invalid("spec.clusterIPs", [ip], f"failed to allocate IP {ip}: {why}")
        elif used(ip):
            why = "provided IP is already allocated"
            errors.invalid("spec.clusterIPs", [ip], f"failed to allocate IP {ip}: {why}")

    def _assign_port(
        self,
        errors: FieldErrors,
        where: str,
        holder: Json,
        name: str,
        *,
        used: Callable[[str], bool],
        given: set[tuple[int, str]],
    ) -> None:
        port, protocol, ports = holder.get(name), holder.get("protocol", ""), self._node_ports
        if not port:
            numbers = {number for number, _ in given}
            free = self._free(
                ports, lambda at: f":{at}", lambda claim: used(claim) or int(claim[1:]) in numbers
            )
            if free is None:
                raise _exhausted("failed to allocate a nodePort: range is full")
            holder[name] = port = int(free[1:])
        elif port not in ports:
            valid = f"{ports[0]}-{ports[-1]}"
            text = f"provided port is not in the valid range. The range of valid ports is {valid}"
            errors.invalid(where, port, text)
        # One port number may serve TCP and UDP of one service, and nothing of another one.
        elif used(f":{port}") or (port, protocol) in given:
            errors.invalid(where, port, "provided port is already allocated")
        given.add((port, protocol))

    def _free(
        self, numbers: range, claim: Callable[[int], str], used: Callable[[str], bool]
    ) -> str | None:
        first = self._choose(len(numbers))
        for step in range(len(numbers)):
            found = claim(numbers[(first + step) % len(numbers)])
            if not used(found):
                return found
        return None


def _exhausted(text: str) -> StatusError:
    return StatusError(500, "InternalError", f"Internal error occurred: {text}")
