"""Reads the protobuf that ``kubectl create NAME`` of version 1.32 and newer sends, and no more.

Those commands (create namespace, deployment, service, configmap, secret, serviceaccount, token)
no longer speak JSON, and know no fallback. ``FIELDS`` names the fields in the order of their
numbers in Kubernetes' ``generated.proto`` ("-" is a gap); a number beyond is refused. The
message is wrapped in ``runtime.Unknown`` behind the four bytes ``k8s\\0``.
"""

import base64
from collections.abc import Iterator
from typing import Any

from lab.api import schema
from lab.api.objects import Json, StatusError
from lab.api.schema import Field

MAGIC = b"k8s\x00"

FIELDS = {
    name: fields
    for name, *fields in (
        line.split()
        for line in """
Unknown typeMeta raw contentEncoding contentType
TypeMeta apiVersion kind
ObjectMeta name generateName namespace selfLink uid resourceVersion generation creationTimestamp deletionTimestamp deletionGracePeriodSeconds labels annotations ownerReferences finalizers
Namespace metadata spec status
NamespaceSpec finalizers
NamespaceStatus phase conditions
ConfigMap metadata data binaryData immutable
Secret metadata data type stringData immutable
ServiceAccount metadata secrets imagePullSecrets automountServiceAccountToken
Service metadata spec status
ServiceSpec ports selector clusterIP type externalIPs - sessionAffinity loadBalancerIP loadBalancerSourceRanges externalName externalTrafficPolicy healthCheckNodePort publishNotReadyAddresses - - - ipFamilyPolicy clusterIPs ipFamilies allocateLoadBalancerNodePorts loadBalancerClass internalTrafficPolicy
ServicePort name protocol port targetPort nodePort appProtocol
ServiceStatus loadBalancer conditions
LoadBalancer ingress
Deployment metadata spec status
DeploymentSpec replicas selector template strategy minReadySeconds revisionHistoryLimit paused - progressDeadlineSeconds
DeploymentStatus observedGeneration replicas updatedReplicas availableReplicas unavailableReplicas conditions readyReplicas
Strategy type rollingUpdate
LabelSelector matchLabels matchExpressions
PodTemplate metadata spec
PodSpec volumes containers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy nodeSelector serviceAccountName serviceAccount nodeName hostNetwork hostPID hostIPC securityContext imagePullSecrets hostname subdomain affinity schedulerName initContainers automountServiceAccountToken tolerations hostAliases priorityClassName priority dnsConfig shareProcessNamespace readinessGates runtimeClassName enableServiceLinks
Container name image command args workingDir ports env resources volumeMounts livenessProbe readinessProbe lifecycle terminationMessagePath imagePullPolicy securityContext stdin stdinOnce tty envFrom terminationMessagePolicy
ContainerPort name hostPort containerPort protocol hostIP
Resources limits requests claims
TokenRequest metadata spec status
TokenRequestSpec audiences - boundObjectRef expirationSeconds
TokenRequestStatus token expirationTimestamp
BoundReference kind apiVersion name uid
""".strip().splitlines()  # noqa: E501 - a line a type
    )
}


def decode(data: bytes) -> Json:
    """The object in the body of a request; raises 415 for what is not known here."""
    try:
        envelope = dict(_fields(data.removeprefix(MAGIC)))
        meta = {number: _text(value) for number, value in _fields(_bytes(envelope[1]))}
        kind = meta[2]
        if kind not in FIELDS or "metadata" not in FIELDS[kind]:
            raise ValueError(f"kind {kind}")
        return {"apiVersion": meta[1], "kind": kind, **_struct(kind, _bytes(envelope[2]))}
    except (ValueError, KeyError, IndexError) as error:
        text = f"this protobuf is not understood by the lab's API server, send JSON: {error}"
        raise StatusError(415, "UnsupportedMediaType", text) from error


def _struct(type_name: str, data: bytes) -> Json:
    found: Json = {}
    for number, value in _fields(data):
        known = FIELDS.get(type_name, [])
        name = known[number - 1] if 0 < number <= len(known) else "-"
        if name == "-":
            raise ValueError(f"field {number} of {type_name}")
        if name.endswith("Timestamp"):
            continue
        field = schema.FIELDS[type_name][name]
        if field.type == "map":
            binary = name == "binaryData" or (type_name, name) == ("Secret", "data")
            found.setdefault(name, {}).update(_entry(_bytes(value), binary=binary))
        elif field.many:
            found.setdefault(name, []).append(_value(field, value))
        # kubectl sends the fields that were not set too, as zero; only replicas: 0 is a wish.
        elif (one := _value(field, value)) or name == "replicas":
            found[name] = one
    return found


def _value(field: Field, value: int | bytes) -> Any:
    if field.type == "str":
        return _text(value)
    if field.type in {"int", "bool"} and isinstance(value, int):
        signed = value - (1 << 64) if value >> 63 else value
        return bool(value) if field.type == "bool" else signed
    if field.type == "port":
        parts = dict(_fields(_bytes(value)))
        return _text(parts.get(3, b"")) if parts.get(1) else parts.get(2, 0)
    return _struct(field.type, _bytes(value))


def _entry(data: bytes, *, binary: bool) -> dict[str, str]:
    parts = dict(_fields(data))
    value = parts.get(2, b"")
    text = base64.b64encode(_bytes(value)).decode() if binary else _text(value)
    return {_text(parts.get(1, b"")): text}


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a text was expected")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: protobuf's wire types 0 (varint) and 2 (bytes)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag & 7 == 0:
            yield tag >> 3, value
        elif tag & 7 == 2 and at + value <= len(data):
            yield tag >> 3, data[at : at + value]
            at += value
        else:
            raise ValueError(f"wire type {tag & 7}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
