"""What kube's API server refuses, kind by kind, in its words: the errors of a completed object."""

import copy
from collections.abc import Callable

from lab.api import names, services
from lab.api.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    ENDPOINTS,
    NAMESPACE,
    POD,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    SECRET,
    SERVICE,
    Kind,
)
from lab.api.objects import FieldErrors, Json, go_value, items, part, path

POLICIES = ("Always", "OnFailure", "Never")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
MAX_REPLICAS = 2**31 - 1
MAX_DATA = 1024 * 1024

POD_CHANGES = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only "
    "additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be "
    "set to 1 if it was previously negative)"
)


def check(kind: Kind, obj: Json, old: Json | None) -> None:
    """Raise 422 if *obj*, or its change from *old*, is not allowed."""
    errors = FieldErrors()
    form = {SERVICE: names.dns_1035_label, NAMESPACE: names.dns_label}.get(
        kind, names.dns_subdomain
    )
    names.check_meta(errors, obj, form)
    if kind is SERVICE:
        services.check(errors, obj, old)
    checker = _CHECKERS.get(kind)
    if checker is not None:
        checker(errors, obj, old)
    errors.raise_for(kind, obj["metadata"].get("name", ""))


def _pod(errors: FieldErrors, obj: Json, old: Json | None) -> None:
    _pod_spec(errors, "spec", obj["spec"])
    was = part(old, "spec")
    # A pod without a node gets one by being scheduled.
    node = was.get("nodeName") or obj["spec"].get("nodeName")
    if old is None:
        return
    if len(items(obj, "spec.containers")) != len(items(old, "spec.containers")):
        errors.forbidden("spec.containers", "pod updates may not add or remove containers")
    elif _fixed(obj["spec"], node) != _fixed(was, node):
        errors.forbidden("spec", POD_CHANGES)


def _fixed(spec: Json, node: str | None) -> Json:
    """What of a pod's wishes can never change, were it on *node*."""
    fixed = copy.deepcopy({**spec, "nodeName": node})
    for name in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"):
        fixed.pop(name, None)
    for container in (*items(fixed, "containers"), *items(fixed, "initContainers")):
        container.pop("image", None)
    return fixed


def _pod_spec(errors: FieldErrors, where: str, spec: Json) -> None:
    volumes = [volume.get("name", "") for volume in spec.get("volumes", [])]
    for at, name in enumerate(volumes):
        if not name:
            errors.required(f"{where}.volumes[{at}].name")
        elif name in volumes[:at]:
            errors.duplicate(f"{where}.volumes[{at}].name", name)
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        if field == "containers" and not spec.get(field):
            errors.required(f"{where}.containers")
        for at, container in enumerate(spec.get(field, [])):
            _container(errors, f"{where}.{field}[{at}]", container, volumes, seen)
    errors.one_of(f"{where}.restartPolicy", spec["restartPolicy"], POLICIES)
    errors.one_of(f"{where}.dnsPolicy", spec["dnsPolicy"], DNS_POLICIES)
    if spec.get("nodeName"):
        errors.check(f"{where}.nodeName", spec["nodeName"], names.dns_subdomain(spec["nodeName"]))
    names.check_labels(errors, f"{where}.nodeSelector", spec.get("nodeSelector", {}))


def _container(
    errors: FieldErrors, where: str, container: Json, volumes: list[str], seen: set[str]
) -> None:
    name = container.get("name", "")
    if not name:
        errors.required(f"{where}.name")
    else:
        errors.check(f"{where}.name", name, names.dns_label(name))
        if name in seen:
            errors.duplicate(f"{where}.name", name)
    seen.add(name)
    if not container.get("image"):
        errors.required(f"{where}.image")
    errors.one_of(f"{where}.imagePullPolicy", container["imagePullPolicy"], PULL_POLICIES)
    _container_ports(errors, where, container)
    for at, env in enumerate(container.get("env", [])):
        if not env.get("name"):
            errors.required(f"{where}.env[{at}].name")
    for at, mount in enumerate(container.get("volumeMounts", [])):
        if mount.get("name", "") not in volumes:
            errors.absent(f"{where}.volumeMounts[{at}].name", mount.get("name", ""))
        if not mount.get("mountPath"):
            errors.required(f"{where}.volumeMounts[{at}].mountPath")


def _container_ports(errors: FieldErrors, where: str, container: Json) -> None:
    for at, port in enumerate(container.get("ports", [])):
        here = f"{where}.ports[{at}]"
        number = port.get("containerPort", 0)
        if not number:
            errors.required(f"{here}.containerPort")
        else:
            errors.check(f"{here}.containerPort", number, names.port_number(number))
        if port.get("hostPort"):
            errors.check(f"{here}.hostPort", port["hostPort"], names.port_number(port["hostPort"]))
        if port.get("name"):
            errors.check(f"{here}.name", port["name"], names.port_name(port["name"]))
        errors.one_of(f"{here}.protocol", port["protocol"], names.PROTOCOLS)


def _workload(errors: FieldErrors, obj: Json, old: Json | None) -> None:
    spec = obj["spec"]
    if not 0 <= spec["replicas"] <= MAX_REPLICAS:
        errors.invalid("spec.replicas", spec["replicas"], "must be greater than or equal to 0")
    template = spec.get("template")
    selector = spec.get("selector")
    if not selector:
        errors.required("spec.selector")
    if template is None:
        errors.required("spec.template")
        return
    labels = part(template, "metadata.labels")
    names.check_labels(errors, "spec.template.metadata.labels", labels)
    if selector and not selects(obj, labels):
        shown = f"map[string]string{go_value(labels)}"
        text = f"Invalid value: {shown}: `selector` does not match template `labels`"
        errors.found.append(("FieldValueInvalid", "spec.template.metadata.labels", text))
    _pod_spec(errors, "spec.template.spec", template["spec"])
    policy = template["spec"]["restartPolicy"]
    if policy in POLICIES:
        errors.one_of("spec.template.spec.restartPolicy", policy, ("Always",))
    if (
        old is not None
        and obj["apiVersion"] == "apps/v1"
        and selector != path(old, "spec.selector")
    ):
        errors.invalid("spec.selector", selector, "field is immutable")


def selects(workload: Json, labels: Json) -> bool:
    """Whether the selector of a replication controller, replica set or deployment has *labels*."""
    selector = workload["spec"].get("selector", {})
    if workload["apiVersion"] == "v1":
        return all(labels.get(key) == value for key, value in selector.items())
    wanted = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _meets(one, labels) for one in selector.get("matchExpressions", [])
    )


def _meets(expression: Json, labels: Json) -> bool:
    key, values = expression.get("key", ""), expression.get("values", [])
    match expression.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False


def _endpoints(errors: FieldErrors, obj: Json, _old: Json | None) -> None:
    for at, subset in enumerate(items(obj, "subsets")):
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            errors.required(f"subsets[{at}]", "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for index, one in enumerate(subset.get(field, [])):
                ip = one.get("ip", "")
                errors.check(f"subsets[{at}].{field}[{index}].ip", ip, names.endpoint_address(ip))
        ports = subset.get("ports", [])
        for index, port in enumerate(ports):
            where = f"subsets[{at}].ports[{index}]"
            if not port.get("name") and len(ports) > 1:
                errors.required(f"{where}.name")
            number = port.get("port", 0)
            errors.check(f"{where}.port", number, names.port_number(number))
            errors.one_of(f"{where}.protocol", port["protocol"], names.PROTOCOLS)


def _endpoint_slice(errors: FieldErrors, obj: Json, old: Json | None) -> None:
    kind = obj.get("addressType", "")
    if not kind:
        errors.required("addressType")
    else:
        errors.one_of("addressType", kind, ADDRESS_TYPES)
    if old is not None and old.get("addressType") != kind:
        errors.invalid("addressType", kind, "field is immutable")
    for at, endpoint in enumerate(items(obj, "endpoints")):
        where = f"endpoints[{at}].addresses"
        if not endpoint.get("addresses"):
            errors.required(where, "must contain at least 1 address")
        for index, ip in enumerate(endpoint.get("addresses", [])):
            if kind != "FQDN":
                errors.check(f"{where}[{index}]", ip, names.endpoint_address(ip))
    seen: set[str] = set()
    for at, port in enumerate(items(obj, "ports")):
        if port["name"] in seen:
            errors.duplicate(f"ports[{at}].name", port["name"])
        seen.add(port["name"])
        if "port" in port:
            errors.check(f"ports[{at}].port", port["port"], names.port_number(port["port"]))
        errors.one_of(f"ports[{at}].protocol", port["protocol"], names.PROTOCOLS)


def _data(errors: FieldErrors, obj: Json, _old: Json | None) -> None:
    size = 0
    for field in ("data", "binaryData"):
        for key, value in part(obj, field).items():
            size += len(value.encode())
            wrong = names.config_key(key)
            errors.check(f"{field}[{key}]", key, wrong)
    if size > MAX_DATA:
        text = f"Too long: must have at most {MAX_DATA} bytes"
        errors.found.append(("FieldValueTooLong", "data", text))


_Checker = Callable[[FieldErrors, Json, Json | None], None]
_CHECKERS: dict[Kind, _Checker] = {
    POD: _pod,
    REPLICATION_CONTROLLER: _workload,
    REPLICA_SET: _workload,
    DEPLOYMENT: _workload,
    ENDPOINTS: _endpoints,
    ENDPOINT_SLICE: _endpoint_slice,
    CONFIG_MAP: _data,
    SECRET: _data,
}
