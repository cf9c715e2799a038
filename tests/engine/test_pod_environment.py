"""Variables, as a process in the container has them; and what it writes, as ``kubectl logs``."""

import re
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from ipaddress import ip_network

import pytest

from tests.engine.pods import (
    DEADLINE,
    ApiError,
    PodWorld,
    Raw,
    condition,
    shell,
    sleeper,
    state,
    status_of,
)
from tests.support.netns import eventually

CORE = "/api/v1/namespaces/default"
STAY = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"


def environment(pods: PodWorld, name: str, container: str = "main") -> dict[str, str]:
    """What a process in the container finds."""
    text = pods.exec(name, container, "env")
    return dict(line.partition("=")[::2] for line in text.splitlines())


def field(path: str) -> Raw:
    return {"fieldRef": {"fieldPath": path}}


def service(pods: PodWorld, name: str, *ports: Raw) -> str:
    """Make a Service; its cluster IP."""
    address = str(ip_network(pods.spec.service_range)[100 + len(name)])
    spec = {"clusterIP": address, "selector": {"app": name}, "ports": list(ports)}
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    pods.put(f"{CORE}/services", document)
    return address


# --- variables ---


def test_variables_come_from_values_fields_resources_and_objects(pods: PodWorld) -> None:
    """All four kinds of valueFrom."""
    pods.config_map("settings", {"color": "blue"})
    pods.secret("hidden", {"word": "xyzzy"})
    env = [
        {"name": "PLAIN", "value": "as it is"},
        {"name": "EMPTY", "value": ""},
        {"name": "POD", "valueFrom": field("metadata.name")},
        {"name": "NAMESPACE", "valueFrom": field("metadata.namespace")},
        {"name": "UID_", "valueFrom": field("metadata.uid")},
        {"name": "LABEL", "valueFrom": field("metadata.labels['tier']")},
        {"name": "NOTE", "valueFrom": field("metadata.annotations['example.org/note']")},
        {"name": "NODE", "valueFrom": field("spec.nodeName")},
        {"name": "ACCOUNT", "valueFrom": field("spec.serviceAccountName")},
        {"name": "IP", "valueFrom": field("status.podIP")},
        {"name": "HOST", "valueFrom": field("status.hostIP")},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        {
            "name": "MILLI",
            "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}},
        },
        {
            "name": "OTHER",
            "valueFrom": {
                "resourceFieldRef": {
                    "containerName": "other",
                    "resource": "limits.memory",
                    "divisor": "1Mi",
                }
            },
        },
        {
            "name": "COLOR",
            "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}},
        },
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "word"}}},
        {
            "name": "ABSENT",
            "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x", "optional": True}},
        },
    ]
    resources = {"limits": {"memory": "64Mi"}, "requests": {"cpu": "50m", "memory": "32Mi"}}
    containers = [
        sleeper(env=env, resources=resources),
        sleeper("other", resources={"limits": {"memory": "48Mi"}}),
    ]
    made = pods.create(
        "vars", containers, labels={"tier": "front"}, annotations={"example.org/note": "a b"}
    )
    pod = pods.ready("vars")
    found = environment(pods, "vars")
    wanted = {
        "PLAIN": "as it is",
        "EMPTY": "",
        "POD": "vars",
        "NAMESPACE": "default",
        "UID_": made["metadata"]["uid"],
        "LABEL": "front",
        "NOTE": "a b",
        "NODE": "node1",
        "ACCOUNT": pod["spec"].get("serviceAccountName", ""),
        "IP": pod["status"]["podIP"],
        "HOST": pod["status"]["hostIP"],
        "LIMIT": str(64 << 20),
        "MILLI": "50",
        "OTHER": "48",
        "COLOR": "blue",
        "WORD": "xyzzy",
        "HOSTNAME": "vars",
    }
    assert {name: found.get(name) for name in wanted} == wanted
    assert "ABSENT" not in found


def test_whole_objects_become_variables_and_env_goes_first(pods: PodWorld) -> None:
    """envFrom with prefix; a key that is no name is left out and told; later ones win."""
    pods.config_map("base", {"A": "map", "B": "map", "1bad": "x"})
    pods.secret("more", {"B": "secret", "C": "secret"})
    container = sleeper(
        envFrom=[
            {"configMapRef": {"name": "base"}},
            {"secretRef": {"name": "more"}},
            {"prefix": "P_", "configMapRef": {"name": "base"}},
            {"configMapRef": {"name": "none", "optional": True}},
        ],
        env=[{"name": "C", "value": "own"}],
    )
    pods.create("whole", [container])
    pods.ready("whole")
    found = environment(pods, "whole")
    assert [found.get(name) for name in ("A", "B", "C", "P_A")] == ["map", "secret", "own", "map"]
    assert "1bad" not in found
    assert "1bad" in pods.event("whole", "InvalidEnvironmentVariableNames")["message"]


def test_references_to_variables_are_replaced_in_env_command_and_args(pods: PodWorld) -> None:
    """``$(VAR)`` of what came before; ``$$`` is a dollar; what is unknown stays as it is."""
    env = [
        {"name": "A", "value": "one"},
        {"name": "B", "value": "$(A)-two"},
        {"name": "C", "value": "$(LATER) $$(A) $(B)"},
        {"name": "LATER", "value": "x"},
    ]
    container = {
        "name": "main",
        "command": ["sh", "-c", 'echo "$0" "$@"; ' + STAY, "cmd:$(B)"],
        "args": ["arg:$(A)", "$$(A)", "$(NONE)"],
        "env": env,
    }
    pods.create("refs", [container])
    pods.ready("refs")
    found = environment(pods, "refs")
    assert (found["B"], found["C"]) == ("one-two", "$(LATER) $(A) one-two")
    document = pods.container("refs")
    assert document["Args"][2:] == ["cmd:one-two", "arg:one", "$(A)", "$(NONE)"]


def test_services_are_found_by_variables(pods: PodWorld) -> None:
    """Exactly the seven of a service with one port; more ports and names add to them."""
    redis = service(pods, "redis-master", {"port": 6379})
    ports = ({"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"})
    two = service(pods, "two", *ports)
    pods.create("finds", [sleeper()])
    pods.ready("finds")
    found = environment(pods, "finds")
    assert {k: v for k, v in found.items() if k.startswith("REDIS_MASTER")} == {
        "REDIS_MASTER_SERVICE_HOST": redis,
        "REDIS_MASTER_SERVICE_PORT": "6379",
        "REDIS_MASTER_PORT": f"tcp://{redis}:6379",
        "REDIS_MASTER_PORT_6379_TCP": f"tcp://{redis}:6379",
        "REDIS_MASTER_PORT_6379_TCP_PROTO": "tcp",
        "REDIS_MASTER_PORT_6379_TCP_PORT": "6379",
        "REDIS_MASTER_PORT_6379_TCP_ADDR": redis,
    }
    assert found["TWO_SERVICE_PORT"] == found["TWO_SERVICE_PORT_WEB"] == "80"
    assert found["TWO_SERVICE_PORT_DNS"] == "53"
    assert found["TWO_PORT_53_UDP"] == f"udp://{two}:53"
    first = str(ip_network(pods.spec.service_range)[1])
    assert found["KUBERNETES_SERVICE_HOST"] == first


def test_service_variables_can_be_left_out(pods: PodWorld) -> None:
    """enableServiceLinks false leaves the API server's only."""
    service(pods, "redis-master", {"port": 6379})
    pods.create("bare", {"enableServiceLinks": False, "containers": [sleeper()]})
    pods.ready("bare")
    found = environment(pods, "bare")
    assert not [name for name in found if name.startswith("REDIS")]
    assert "KUBERNETES_SERVICE_HOST" in found


@pytest.mark.parametrize("kind", ["map", "key", "secret", "envFrom"])
def test_what_is_missing_is_named_and_heals_when_it_comes(pods: PodWorld, kind: str) -> None:
    """CreateContainerConfigError until the object and its key are there."""
    refs: dict[str, Raw] = {
        "map": {"configMapKeyRef": {"name": "late", "key": "k"}},
        "key": {"configMapKeyRef": {"name": "late", "key": "k"}},
        "secret": {"secretKeyRef": {"name": "late", "key": "k"}},
    }
    if kind == "envFrom":
        container = sleeper(envFrom=[{"configMapRef": {"name": "late"}}])
    else:
        container = sleeper(env=[{"name": "k", "valueFrom": refs[kind]}])
    if kind == "key":
        pods.config_map("late", {"other": "x"})
    pods.create("waits", [container])
    pod = pods.waiting("waits", "CreateContainerConfigError")
    message = state(pod)["waiting"]["message"]
    assert "late" in message
    assert pods.event("waits", "Failed", "late")["type"] == "Warning"
    assert condition(pod, "Ready") == "False"
    if kind == "secret":
        pods.secret("late", {"k": "came"})
    else:
        pods.config_map("late", {"k": "came"})
    pod = pods.ready("waits")
    assert environment(pods, "waits")["k"] == "came"
    assert status_of(pod)["restartCount"] == 0


# --- logs ---


def test_a_log_is_read_through_the_api_server(pods: PodWorld) -> None:
    """Both streams; the last lines; from a moment on; with times; no more than so many bytes."""
    script = f"for n in 1 2 3 4; do echo line $n; done; echo oops >&2; {STAY}"
    pods.create("says", [shell(script)])
    pods.ready("says")
    eventually(lambda: len(pods.log("says").splitlines()) == 5, "all is said", deadline=DEADLINE)
    assert sorted(pods.log("says").splitlines()) == [
        "line 1", "line 2", "line 3", "line 4", "oops",
    ]  # fmt: skip
    assert len(pods.log("says", tailLines=2).splitlines()) == 2
    assert not pods.log("says", tailLines=0)
    assert pods.log("says", limitBytes=9)[:5] in {"line ", "oops\n"}
    assert len(pods.log("says", limitBytes=9)) == 9
    stamped = pods.log("says", timestamps=True).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z (line \d|oops)$", line) for line in stamped)
    assert len(pods.log("says", sinceSeconds=3600).splitlines()) == 5
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert not pods.log("says", sinceTime=later)


def test_the_log_of_the_instance_before_is_kept(pods: PodWorld) -> None:
    """``logs --previous``; there is none before the first restart."""
    mounted = [{"name": "shared", "mountPath": "/shared"}]
    script = (
        "echo x >> /shared/n; echo run $(wc -l < /shared/n); "
        f"test $(wc -l < /shared/n) -ge 2 || exit 3; {STAY}"
    )
    pods.create("twice", {"containers": [shell(script, volumeMounts=mounted), sleeper("calm")],
                          "volumes": [{"name": "shared", "emptyDir": {}}]})  # fmt: skip
    pods.restarted("twice", 1)
    eventually(lambda: pods.log("twice", container="main") == "run 2\n", "the second's log",
               deadline=DEADLINE)  # fmt: skip
    assert pods.log("twice", container="main", previous=True) == "run 1\n"
    with pytest.raises(ApiError, match="previous terminated container") as caught:
        pods.log("twice", container="calm", previous=True)
    assert caught.value.status == 400


def test_a_log_can_be_followed_to_the_end_of_the_container(pods: PodWorld) -> None:
    """What is written comes while it is written; the answer ends with the container."""
    script = "echo ready; read line < /pipe; echo got $line; exit 0"
    pods.create(
        "follows", {"restartPolicy": "Never", "containers": [shell(f"mkfifo /pipe; {script}")]}
    )
    pods.running("follows")
    with pods.follow("follows", follow=True, tailLines=10) as answer:
        assert line(answer) == "ready"
        pods.exec("follows", "main", "sh", "-c", "echo this > /pipe")
        assert line(answer) == "got this"
        assert not answer.read()
    pods.phase("follows", "Succeeded")
    assert pods.log("follows") == "ready\ngot this\n"


def line(answer: HTTPResponse) -> str:
    return answer.readline().decode().rstrip("\n")


def test_a_log_that_cannot_be_had_is_refused_with_a_reason(pods: PodWorld) -> None:
    """A container that waits, one that is not there, and no name where there are two."""
    absent = sleeper(image="barenode/none:lab", imagePullPolicy="Never")
    pods.create("dumb", [absent, sleeper("other")])
    pods.waiting("dumb", "ErrImageNeverPull")
    for query, text in (
        ({"container": "main"}, "is waiting to start: ErrImageNeverPull"),
        ({"container": "nobody"}, "container nobody is not valid for pod dumb"),
        ({}, "a container name must be specified"),
    ):
        with pytest.raises(ApiError, match=text) as caught:
            pods.log("dumb", **query)
        assert caught.value.status == 400


def test_a_terminal_has_one_stream(pods: PodWorld) -> None:
    """With tty the log is what the terminal showed."""
    pods.create("screen", [shell(f"echo out; echo err >&2; tty; {STAY}", tty=True)])
    pods.ready("screen")
    eventually(lambda: "/dev/" in pods.log("screen"), "all is said", deadline=DEADLINE)
    assert pods.log("screen").replace("\r", "").split()[:2] == ["out", "err"]
    assert pods.container("screen")["Config"]["Tty"] is True
