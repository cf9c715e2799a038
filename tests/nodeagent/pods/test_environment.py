"""Variables of a container."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.api.port import ServiceLink, ServicePort
from nodeagent.errors import PodError
from nodeagent.pods.environment import (
    EnvInputs,
    Environment,
    environment,
    expand,
    expand_strictly,
    expanded_container,
    references,
)
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod, decode
from nodeagent.pods.servicelinks import too_many

HOST = Host("n1", "192.0.2.1", "n1", Path("/x"), cpus=4, memory=8 << 30)
REDIS = ServiceLink("shop", "redis-master", "10.0.0.5", (ServicePort(6379),))
API = ServiceLink("default", "kubernetes", "10.0.0.1", (ServicePort(443, "https"),))


def pod(*env: Mapping[str, Any], sources: Any = (), **spec: Any) -> Pod:
    container: dict[str, Any] = {"name": "app", "image": "x"}
    container |= {"env": list(env), "envFrom": list(sources)}
    container["resources"] = {"limits": {"memory": "64Mi"}}
    return decode(
        {
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"containers": [container], **spec},
        }
    )


def made(
    one: Pod,
    services: tuple[ServiceLink, ...] = (),
    maps: Mapping[str, Mapping[str, bytes] | None] | None = None,
    secrets: Mapping[str, Mapping[str, bytes] | None] | None = None,
) -> Environment:
    inputs = EnvInputs(services, maps or {}, secrets or {}, "10.1.2.3", HOST)
    return environment(one, one.spec.containers[0], inputs)


def test_a_service_is_told_in_the_form_of_docker_links() -> None:
    assert made(pod(), (REDIS,)).values == {
        "REDIS_MASTER_SERVICE_HOST": "10.0.0.5",
        "REDIS_MASTER_SERVICE_PORT": "6379",
        "REDIS_MASTER_PORT": "tcp://10.0.0.5:6379",
        "REDIS_MASTER_PORT_6379_TCP": "tcp://10.0.0.5:6379",
        "REDIS_MASTER_PORT_6379_TCP_PROTO": "tcp",
        "REDIS_MASTER_PORT_6379_TCP_PORT": "6379",
        "REDIS_MASTER_PORT_6379_TCP_ADDR": "10.0.0.5",
    }


def test_the_first_port_is_the_services_and_named_ports_have_their_own() -> None:
    ports = (ServicePort(53, "dns", "UDP"), ServicePort(9153, "metrics-x"))
    values = made(pod(), (ServiceLink("shop", "dns", "fd00::1", ports),)).values
    assert values["DNS_SERVICE_PORT"] == "53"
    assert values["DNS_SERVICE_PORT_DNS"] == "53"
    assert values["DNS_SERVICE_PORT_METRICS_X"] == "9153"
    assert values["DNS_PORT"] == "udp://[fd00::1]:53"
    assert values["DNS_PORT_53_UDP_PROTO"] == "udp"
    assert values["DNS_PORT_9153_TCP_ADDR"] == "fd00::1"


def test_only_the_pods_namespace_and_the_api_servers_service_are_told() -> None:
    other = ServiceLink("else", "redis", "10.0.0.9", (ServicePort(1),))
    values = made(pod(), (API, other, REDIS)).values
    assert values["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"
    assert values["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert not any(name.startswith("REDIS_SERVICE") for name in values)


def test_without_service_links_only_the_api_server_is_told() -> None:
    values = made(pod(enableServiceLinks=False), (API, REDIS)).values
    assert values
    assert all(name.startswith("KUBERNETES_") for name in values)


@pytest.mark.parametrize("order", [1, -1])
def test_a_kubernetes_service_of_the_namespace_takes_the_place_of_the_api_servers(
    order: int,
) -> None:
    own = ServiceLink("shop", "kubernetes", "10.0.0.77", (ServicePort(1),))
    assert made(pod(), (API, own)[::order]).values["KUBERNETES_SERVICE_HOST"] == "10.0.0.77"


def test_headless_services_and_those_without_ports_are_not_told() -> None:
    headless = ServiceLink("shop", "a", "None", (ServicePort(1),))
    external = ServiceLink("shop", "b", "", (ServicePort(1),))
    assert made(pod(), (headless, external, ServiceLink("shop", "c", "10.0.0.3"))).values == {}


def test_very_many_services_are_warned_of_with_the_remedy() -> None:
    services = tuple(
        ServiceLink("shop", f"s{number}", "10.0.0.1", (ServicePort(1),)) for number in range(1000)
    )
    assert "enableServiceLinks: false" in made(pod(), services).warnings[0]
    assert made(pod(enableServiceLinks=False), services).warnings == ()
    assert made(pod(), services[1:]).warnings == ()
    assert "argument list" in (too_many(2000) or "")


def test_env_replaces_env_from_which_replaces_services() -> None:
    one = pod(
        {"name": "B", "value": "env"},
        sources=[{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}, "prefix": "P_"}],
    )
    maps = {"m": {"A": b"map", "B": b"map", "REDIS_MASTER_SERVICE_PORT": b"1"}}
    values = made(one, (REDIS,), maps, {"s": {"k": b"secret"}}).values
    assert (values["A"], values["B"], values["P_k"]) == ("map", "env", "secret")
    assert values["REDIS_MASTER_SERVICE_PORT"] == "1"


def test_each_name_is_there_once() -> None:
    found = made(pod({"name": "A", "value": "1"}, {"name": "A", "value": "2$(A)"})).variables
    assert found == ("A=21",)


def test_variables_refer_to_those_before_them() -> None:
    one = pod(
        {"name": "LATE", "value": "$(HOST)"},
        {"name": "HOST", "value": "$(REDIS_MASTER_SERVICE_HOST):$(X)"},
        {"name": "URL", "value": "http://$(HOST)/$$(HOST)"},
        sources=[{"configMapRef": {"name": "m"}}],
    )
    values = made(one, (REDIS,), {"m": {"X": b"$(HOST)"}}).values
    assert values["LATE"] == "$(HOST)"
    assert values["URL"] == "http://10.0.0.5:$(HOST)/$(HOST)"


def test_values_come_from_fields_resources_and_keys() -> None:
    one = pod(
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        {"name": "M", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "b"}}},
    )
    values = made(one, maps={"m": {"a": b"$(IP)"}}, secrets={"s": {"b": b"=x="}}).values
    assert values == {"IP": "10.1.2.3", "MEM": "67108864", "M": "$(IP)", "S": "=x="}


@pytest.mark.parametrize("source", ["configMapKeyRef", "secretKeyRef"])
@pytest.mark.parametrize("data", [None, {"other": b""}])
def test_a_missing_source_stops_the_container_unless_it_is_optional(
    source: str, data: Mapping[str, bytes] | None
) -> None:
    inputs: dict[str, Any] = {"maps": {"x": data}, "secrets": {"x": data}}
    reference = {"name": "x", "key": "k"}
    with pytest.raises(PodError, match="'x'") as caught:
        made(pod({"name": "A", "valueFrom": {source: reference}}), **inputs)
    assert caught.value.reason == "CreateContainerConfigError"
    assert not caught.value.final
    optional = {**reference, "optional": True}
    assert made(pod({"name": "A", "valueFrom": {source: optional}}), **inputs).values == {}


@pytest.mark.parametrize("source", ["configMapRef", "secretRef"])
def test_a_missing_env_from_stops_the_container_unless_it_is_optional(source: str) -> None:
    with pytest.raises(PodError, match="does not exist"):
        made(pod(sources=[{source: {"name": "x"}}]))
    assert made(pod(sources=[{source: {"name": "x", "optional": True}}])).values == {}


def test_keys_that_cannot_be_variables_are_left_out_and_named() -> None:
    data = {"1a": b"", "a b": b"", "..": b"", "ok.x-y": b"1", "bin": b"\xff", "nul": b"a\0b"}
    found = made(pod(sources=[{"configMapRef": {"name": "m"}}]), maps={"m": data})
    assert found.variables == ("ok.x-y=1",)
    assert "'..', '1a', 'a b'" in found.left_out[0]
    assert "'bin', 'nul'" in found.left_out[1]


def test_a_key_that_is_no_text_cannot_be_a_variable() -> None:
    with pytest.raises(PodError, match="mount it as a file"):
        made(
            pod({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "b"}}}),
            secrets={"s": {"b": b"\xff"}},
        )


def test_a_source_without_kind_and_an_unknown_container_are_refused() -> None:
    with pytest.raises(PodError, match="no source"):
        made(pod({"name": "A", "valueFrom": {}}))
    reference = {"resource": "limits.cpu", "containerName": "other"}
    with pytest.raises(PodError, match="'other'"):
        made(pod({"name": "A", "valueFrom": {"resourceFieldRef": reference}}))


def test_references_are_all_objects_of_the_pod_or_those_of_one_container() -> None:
    one = pod(
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "a"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "a"}}},
        sources=[{"configMapRef": {"name": "m2"}}, {"secretRef": {"name": "s2"}}],
        imagePullSecrets=[{"name": "s3"}, {"name": ""}],
        initContainers=[{"name": "i", "envFrom": [{"configMapRef": {"name": "m6"}}]}],
        volumes=[
            {"name": "a", "configMap": {"name": "m3"}},
            {"name": "b", "secret": {"secretName": "s4"}},
            {
                "name": "c",
                "projected": {
                    "sources": [{"configMap": {"name": "m4"}}, {"secret": {"name": "s5"}}]
                },
            },
        ],
    )
    of_container = references(one, one.spec.containers[0])
    assert of_container == {
        ("ConfigMap", "m1"), ("Secret", "s1"), ("ConfigMap", "m2"), ("Secret", "s2"),
    }  # fmt: skip
    assert references(one) - of_container == {
        ("ConfigMap", "m3"), ("ConfigMap", "m4"), ("ConfigMap", "m6"),
        ("Secret", "s3"), ("Secret", "s4"), ("Secret", "s5"),
    }  # fmt: skip


def spelt_out(text: str, variables: Mapping[str, str]) -> str:
    """The rules of expansion, character by character."""
    out, at = "", 0
    while at < len(text):
        end = text.find(")", at)
        if text.startswith("$$", at):
            out, at = out + "$", at + 2
        elif text.startswith("$(", at) and end != -1:
            whole = text[at : end + 1]
            out, at = out + variables.get(whole[2:-1], whole), end + 1
        else:
            out, at = out + text[at], at + 1
    return out


@settings(max_examples=200, deadline=None)
@given(st.text("$()AB x", max_size=30))
def test_expansion_follows_its_rules(text: str) -> None:
    variables = {"A": "1", "B": "$(A)", "": "?"}
    assert expand(text, variables) == spelt_out(text, variables)


def test_command_and_arguments_are_expanded() -> None:
    container = pod().spec.containers[0]
    made_of = expanded_container(
        decode(
            {
                "metadata": {},
                "spec": {
                    "containers": [{"name": "a", "command": ["$(A)"], "args": ["$(B)", "$$"]}]
                },
            }
        ).spec.containers[0],
        {"A": "1"},
    )
    assert (made_of.command, made_of.args) == (("1",), ("$(B)", "$"))
    assert expanded_container(container, {}) == container


def test_strict_expansion_names_what_is_unknown() -> None:
    assert expand_strictly("$(A)/$$", {"A": "1"}, "x") == "1/$"
    with pytest.raises(PodError, match=r"x: \$\(B\)"):
        expand_strictly("$(A)/$(B)", {"A": "1"}, "x")
