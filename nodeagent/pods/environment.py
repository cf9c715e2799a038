"""The environment of a container: service variables, envFrom, env, and ``$(NAME)`` in texts.

A later source takes the place of an earlier one of the same name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from nodeagent.api.port import Kind, ServiceLink
from nodeagent.errors import PodError
from nodeagent.pods.container import Container, EnvFromSource, EnvVar, KeyRef, ResourceFieldRef
from nodeagent.pods.fieldpath import REASON, field_value
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod
from nodeagent.pods.resources import resource_field
from nodeagent.pods.servicelinks import linked, service_variables, too_many

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))", re.DOTALL)
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")

Data = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class EnvInputs:
    """What variables are made of; None stands for a ConfigMap or Secret that does not exist.

    *pod_ip* is the sandbox's address, not read for pods in the host's network.
    """

    services: tuple[ServiceLink, ...]
    config_maps: Mapping[str, Data | None]
    secrets: Mapping[str, Data | None]
    pod_ip: str
    host: Host


@dataclass(frozen=True, slots=True)
class Environment:
    """*variables* are ``NAME=VALUE``, each name once.

    *warnings* are sentences for events, *left_out* those about keys that became no variable.
    """

    variables: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)


def references(pod: Pod, container: Container | None = None) -> frozenset[tuple[Kind, str]]:
    """The ConfigMaps and Secrets of the pod's namespace that it is made of.

    With *container* only those of its variables; without, also those of volumes and pulls.
    """
    if container is not None:
        return frozenset(_of_container(container))
    found: set[tuple[Kind, str]] = set()
    for one in (*pod.spec.init_containers, *pod.spec.containers):
        found.update(_of_container(one))
    found.update(("Secret", reference.name) for reference in pod.spec.image_pull_secrets)
    found.update(_of_volumes(pod))
    return frozenset((kind, name) for kind, name in found if name)


def environment(pod: Pod, container: Container, inputs: EnvInputs) -> Environment:
    """All variables of *container*.

    Raises PodError CreateContainerConfigError for a source that is missing and not optional.
    """
    left_out: list[str] = []
    values = service_variables(pod, inputs.services)
    crowd = too_many(linked(pod, inputs.services))
    for source in container.env_from:
        values.update(_from_source(source, inputs, left_out))
    for variable in container.env:
        value = _value(pod, container, variable, inputs, values)
        if value is not None:
            values[variable.name] = value
    lines = tuple(f"{name}={value}" for name, value in values.items())
    return Environment(lines, (crowd,) if crowd else (), tuple(left_out), values)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """*text* with ``$(NAME)`` replaced and ``$$`` as ``$``; unknown names stay as they are."""

    def replaced(found: re.Match[str]) -> str:
        name = found[1]
        return "$" if name is None else variables.get(name, found[0])

    return _REFERENCE.sub(replaced, text)


def expand_strictly(text: str, variables: Mapping[str, str], what: str) -> str:
    """As ``expand``; raises PodError, with *what* at its beginning, for an unknown name."""
    for found in _REFERENCE.finditer(text):
        if found[1] is not None and found[1] not in variables:
            raise PodError(
                REASON, f"{what}: {found[0]} is not a variable of the container", final=True
            )
    return expand(text, variables)


def expanded_container(container: Container, variables: Mapping[str, str]) -> Container:
    """*container* with the variables in command and arguments replaced."""
    return msgspec.structs.replace(
        container,
        command=tuple(expand(word, variables) for word in container.command),
        args=tuple(expand(word, variables) for word in container.args),
    )


def _of_container(container: Container) -> Iterator[tuple[Kind, str]]:
    for source in container.env_from:
        if source.config_map_ref is not None:
            yield "ConfigMap", source.config_map_ref.name
        if source.secret_ref is not None:
            yield "Secret", source.secret_ref.name
    for variable in container.env:
        origin = variable.value_from
        if origin is not None and origin.config_map_key_ref is not None:
            yield "ConfigMap", origin.config_map_key_ref.name
        if origin is not None and origin.secret_key_ref is not None:
            yield "Secret", origin.secret_key_ref.name


def _of_volumes(pod: Pod) -> Iterator[tuple[Kind, str]]:
    for volume in pod.spec.volumes:
        if volume.config_map is not None:
            yield "ConfigMap", volume.config_map.name
        if volume.secret is not None:
            yield "Secret", volume.secret.secret_name
        for source in volume.projected.sources if volume.projected is not None else ():
            if source.config_map is not None:
                yield "ConfigMap", source.config_map.name
            if source.secret is not None:
                yield "Secret", source.secret.name


def _from_source(
    source: EnvFromSource, inputs: EnvInputs, left_out: list[str]
) -> Iterator[tuple[str, str]]:
    for kind, reference, objects in (
        ("ConfigMap", source.config_map_ref, inputs.config_maps),
        ("Secret", source.secret_ref, inputs.secrets),
    ):
        if reference is None:
            continue
        data = objects.get(reference.name)
        if data is None:
            if reference.optional:
                continue
            raise _missing(f"envFrom: {kind} {reference.name!r} does not exist")
        yield from _usable(data, source.prefix, f"{kind} {reference.name!r}", left_out)


def _usable(data: Data, prefix: str, what: str, left_out: list[str]) -> Iterator[tuple[str, str]]:
    unnamed, unreadable = [], []
    for key in sorted(data):
        name = prefix + key
        value = _text(data[key])
        if not _NAME.fullmatch(name) or name in (".", ".."):
            unnamed.append(name)
        elif value is None:
            unreadable.append(key)
        else:
            yield name, value
    if unnamed:
        left_out.append(
            f"envFrom: keys of {what} left out because they are no names of variables: "
            f"{_listed(unnamed)}"
        )
    if unreadable:
        left_out.append(
            f"envFrom: keys of {what} left out because their values are not UTF-8 text: "
            f"{_listed(unreadable)}; mount them as files"
        )


def _listed(names: Iterable[str], most: int = 10) -> str:
    every = [repr(name) for name in names]
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest


def _value(
    pod: Pod,
    container: Container,
    variable: EnvVar,
    inputs: EnvInputs,
    before: Mapping[str, str],
) -> str | None:
    """The value of *variable*; None leaves it unset, as an optional source that is missing."""
    origin = variable.value_from
    if variable.value or origin is None:
        return expand(variable.value, before)
    what = f"env {variable.name!r}"
    if origin.field_ref is not None:
        path = origin.field_ref.field_path
        return field_value(pod, path, pod_ip=inputs.pod_ip, host=inputs.host)
    if origin.resource_field_ref is not None:
        return resource_value(pod, container, origin.resource_field_ref, inputs.host, what)
    if origin.config_map_key_ref is not None:
        return _keyed("ConfigMap", origin.config_map_key_ref, inputs.config_maps, what)
    if origin.secret_key_ref is not None:
        return _keyed("Secret", origin.secret_key_ref, inputs.secrets, what)
    raise PodError(REASON, f"{what}: valueFrom names no source", final=True)


def resource_value(
    pod: Pod, container: Container | None, reference: ResourceFieldRef, host: Host, what: str
) -> str:
    """The value of a resourceFieldRef; without a containerName it is about *container*."""
    chosen = container
    if reference.container_name:
        every = (*pod.spec.init_containers, *pod.spec.containers)
        chosen = next((one for one in every if one.name == reference.container_name), None)
    if chosen is None:
        raise PodError(
            REASON,
            f"{what}: resourceFieldRef.containerName {reference.container_name!r} is no container "
            "of the pod",
            final=True,
        )
    return resource_field(chosen, reference.resource, reference.divisor, host)


def _keyed(
    kind: str, reference: KeyRef, objects: Mapping[str, Data | None], what: str
) -> str | None:
    data = objects.get(reference.name)
    if data is None:
        if reference.optional:
            return None
        raise _missing(f"{what}: {kind} {reference.name!r} does not exist")
    if reference.key not in data:
        if reference.optional:
            return None
        raise _missing(f"{what}: {kind} {reference.name!r} has no key {reference.key!r}")
    value = _text(data[reference.key])
    if value is None:
        raise PodError(
            REASON,
            f"{what}: key {reference.key!r} of {kind} {reference.name!r} is not UTF-8 text "
            "without NUL: mount it as a file",
        )
    return value


def _missing(message: str) -> PodError:
    return PodError(REASON, message)


def _text(value: bytes) -> str | None:
    # execve(2) ends a variable at the first NUL.
    if b"\0" in value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
