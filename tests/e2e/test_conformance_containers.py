"""Conformance: what a container is started with: command, environment, files, rights, names."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.conformance import (
    Space,
    case,
    config_map,
    mount,
    once,
    only,
    pod,
    secret,
    space_of,
)
from tests.support.kubelab import KubeLab
from tests.support.realnode import IDLE, IMAGE, container
from tests.support.services import Json

pytestmark = pytest.mark.e2e

V = [{"name": "v", "emptyDir": {}}]


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """The pods of this module."""
    with space_of(kube, __name__) as made:
        yield made


# --- command and arguments ---

DOCKER = "[k8s.io] Docker Containers should "


def plain(name: str, **fields: Any) -> Json:
    """A pod that runs what its image or *fields* say. The image's command is ``sh``."""
    return pod(name, {"name": "c", "image": IMAGE, **fields}, restartPolicy="Never")


@case(
    DOCKER + "use the image defaults if command and args are blank [NodeConformance] [Conformance]",
    needs=[plain("image-command", stdin=True, stdinOnce=True, tty=True)],
)
def test_the_image_s_command_is_run_when_none_is_given(space: Space) -> None:
    """A shell with a terminal waits for what is typed."""
    found = space.ready("image-command")
    # Docker says that it runs a moment before the shell is in its place.
    space.kube.wait(
        lambda: space.inside("image-command", "cat", "/proc/1/cmdline") == "sh\0", "a shell runs"
    )
    assert "command" not in found["spec"]["containers"][0]


@case(
    DOCKER + "be able to override the image's default arguments (docker cmd) [NodeConformance] "
    "[Conformance]",
    needs=[plain("other-arguments", args=["echo", "override", "arguments"])],
)
def test_arguments_replace_the_image_s(space: Space) -> None:
    assert space.output("other-arguments") == "override arguments\n"


@case(
    DOCKER + "be able to override the image's default command (docker entrypoint) "
    "[NodeConformance] [Conformance]",
    needs=[plain("other-command", command=["id", "-u"])],
)
def test_a_command_replaces_the_image_s_with_its_arguments(space: Space) -> None:
    assert space.output("other-command") == "0\n"


@case(
    DOCKER + "be able to override the image's default command and arguments [NodeConformance] "
    "[Conformance]",
    needs=[plain("other-both", command=["echo", "1"], args=["2", "3"])],
)
def test_arguments_follow_the_command(space: Space) -> None:
    assert space.output("other-both") == "1 2 3\n"


# --- variables in variables, commands and paths ---

EXPAND = "[k8s.io] Variable Expansion should "


def value(name: str, text: str) -> Json:
    """A variable of the environment."""
    return {"name": name, "value": text}


def field(name: str, path: str) -> Json:
    """A variable with a field of the pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


@case(
    EXPAND + "allow composing env vars into new env vars [NodeConformance] [Conformance]",
    EXPAND + "allow substituting values in a container's command [NodeConformance] [Conformance]",
    EXPAND + "allow substituting values in a container's args [NodeConformance] [Conformance]",
    needs=[plain("expands", env=[value("A", "a"), value("B", "$(A);;$(A)"), value("C", "$$(A)")],
                 command=["sh", "-c", 'echo "$B $C $(A)"; echo "$@"', "x"],
                 args=["$(B)", "$(NONE)", "$$(A)"])],
)  # fmt: skip
def test_variables_are_expanded_in_variables_command_and_arguments(space: Space) -> None:
    assert space.output("expands") == "a;;a $(A) a\na;;a $(NONE) $(A)\n"


def below(name: str, path: str, script: str, **spec: Any) -> Json:
    """A pod that mounts a folder of its volume, named by a variable's value."""
    wanted = container(
        script, env=[value("WHERE", path)],
        volumeMounts=[mount("v", "/sub", subPathExpr="$(WHERE)"), mount("v", "/all")],
    )  # fmt: skip
    return pod(name, wanted, volumes=V, restartPolicy="Never", **spec)


@case(
    EXPAND + "allow substituting values in a volume subpath [sig-storage] [Conformance]",
    EXPAND + "succeed in writing subpaths in container [sig-storage][Slow] [Conformance]",
    needs=[below("sub-path", "of/mine", "echo kept > /sub/file; cat /all/of/mine/file")],
)
def test_a_variable_names_the_folder_that_is_mounted(space: Space) -> None:
    assert space.output("sub-path") == "kept\n"


def waiting_for(space: Space, name: str) -> str:
    """The reason for which a pod's container has not been started."""
    wait = "waiting"

    def held(one: Json) -> bool:
        return "Config" in only(one).get("state", {}).get(wait, {}).get("reason", "")

    return str(only(space.until(name, held, "waits"))["state"][wait]["message"])


@case(
    EXPAND + "fail substituting values in a volume subpath with absolute path "
    "[sig-storage][Slow] [Conformance]",
    needs=[below("sub-path-absolute", "/tmp", "exit 0")],
)
def test_an_absolute_path_is_not_mounted(space: Space) -> None:
    assert "/tmp" in waiting_for(space, "sub-path-absolute")


@case(
    EXPAND + "fail substituting values in a volume subpath with backticks [sig-storage][Slow] "
    "[Conformance]",
    needs=[below("sub-path-above", "..", "exit 0")],
)
def test_a_path_that_leads_out_of_the_volume_is_not_mounted(space: Space) -> None:
    """The path of Kubernetes' own test for this name, which has no backticks in it either."""
    assert ".." in waiting_for(space, "sub-path-above")


@case(
    EXPAND + "verify that a failing subpath expansion can be modified during the lifecycle of a "
    "container [sig-storage][Slow] [Conformance]",
    needs=[pod(
        "sub-path-mended",
        container(IDLE, env=[field("WHERE", "metadata.annotations['where']")],
                  volumeMounts=[mount("v", "/sub", subPathExpr="$(WHERE)")]),
        volumes=V, annotations={"where": "../out"}, restartPolicy="Never",
    )],
)  # fmt: skip
def test_a_container_starts_once_the_path_is_mended(space: Space) -> None:
    waiting_for(space, "sub-path-mended")
    space.patch("Pod", "sub-path-mended", {"metadata": {"annotations": {"where": "mine"}}})
    assert only(space.ready("sub-path-mended"))["restartCount"] == 0


# --- the environment ---


@case(
    "[k8s.io] Pods should contain environment variables for services [NodeConformance] "
    "[Conformance]",
    needs=[
        {"kind": "Service", "metadata": {"name": "foo-service"},
         "spec": {"ports": [{"port": 8765, "targetPort": 8080}], "selector": {"name": "none"}}},
        once("service-variables", "env"),
    ],
)  # fmt: skip
def test_services_are_in_the_environment(space: Space) -> None:
    ip = space.get("Service", "foo-service")["spec"]["clusterIP"]
    found = set(space.output("service-variables").splitlines())
    assert found >= {
        f"FOO_SERVICE_SERVICE_HOST={ip}",
        "FOO_SERVICE_SERVICE_PORT=8765",
        f"FOO_SERVICE_PORT=tcp://{ip}:8765",
        f"FOO_SERVICE_PORT_8765_TCP=tcp://{ip}:8765",
        "FOO_SERVICE_PORT_8765_TCP_PROTO=tcp",
        "FOO_SERVICE_PORT_8765_TCP_PORT=8765",
        f"FOO_SERVICE_PORT_8765_TCP_ADDR={ip}",
    }


@case(
    "[sig-node] ConfigMap should be consumable via environment variable [NodeConformance] "
    "[Conformance]",
    "[sig-node] ConfigMap should be consumable via the environment [NodeConformance] [Conformance]",
    "[sig-api-machinery] Secrets should be consumable from pods in env vars [NodeConformance] "
    "[Conformance]",
    "[sig-api-machinery] Secrets should be consumable via the environment [NodeConformance] "
    "[Conformance]",
    needs=[
        config_map("env", data_1="value-1"), secret("env", data_2="value-2"),
        once("configured", "env",
             env=[{"name": "ONE", "valueFrom": {"configMapKeyRef": {"name": "env",
                                                                    "key": "data_1"}}},
                  {"name": "TWO", "valueFrom": {"secretKeyRef": {"name": "env",
                                                                 "key": "data_2"}}}],
             envFrom=[{"configMapRef": {"name": "env"}},
                      {"prefix": "p_", "secretRef": {"name": "env"}}]),
    ],
)  # fmt: skip
def test_config_maps_and_secrets_are_in_the_environment(space: Space) -> None:
    found = set(space.output("configured").splitlines())
    assert found >= {"ONE=value-1", "TWO=value-2", "data_1=value-1", "p_data_2=value-2"}


DOWNWARD = "[sig-node] Downward API should provide "


def amounts(name: str, **more: Any) -> Json:
    """A pod that prints its requests and limits."""
    wanted = [
        {"name": f"{kind}_{of}".upper(), "valueFrom": {"resourceFieldRef": {
            "resource": f"{kind}.{of}", **({"divisor": "1m"} if of == "cpu" else {})}}}
        for kind in ("requests", "limits") for of in ("cpu", "memory")
    ]  # fmt: skip
    return once(name, "env", env=wanted, **more)


@case(
    DOWNWARD + "container's limits.cpu/memory and requests.cpu/memory as env vars "
    "[NodeConformance] [Conformance]",
    needs=[amounts("amounts", resources={"requests": {"cpu": "20m", "memory": "32Mi"},
                                         "limits": {"cpu": "500m", "memory": "64Mi"}})],
)  # fmt: skip
def test_requests_and_limits_are_in_the_environment(space: Space) -> None:
    assert set(space.output("amounts").splitlines()) >= {
        "REQUESTS_CPU=20", "LIMITS_CPU=500",
        f"REQUESTS_MEMORY={32 << 20}", f"LIMITS_MEMORY={64 << 20}",
    }  # fmt: skip


@case(
    DOWNWARD + "default limits.cpu/memory from node allocatable [NodeConformance] [Conformance]",
    needs=[amounts("no-amounts")],
)
def test_limits_that_are_not_set_are_what_the_node_has(space: Space) -> None:
    found = dict(line.split("=", 1) for line in space.output("no-amounts").splitlines())
    node = space.ended("no-amounts")["spec"]["nodeName"]
    has = space.kube.api("GET", f"/api/v1/nodes/{node}")[1]["status"]["allocatable"]
    assert int(found["LIMITS_CPU"]) == int(has["cpu"]) * 1000
    assert int(found["LIMITS_MEMORY"]) == int(has["memory"].removesuffix("Ki")) * 1024


@case(
    DOWNWARD + "pod name, namespace and IP address as env vars [NodeConformance] [Conformance]",
    DOWNWARD + "host IP as an env var [NodeConformance] [Conformance]",
    DOWNWARD + "pod UID as env vars [NodeConformance] [Conformance]",
    needs=[once("who-am-i", "env", env=[
        field("NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace"),
        field("UID_OF_POD", "metadata.uid"), field("IP", "status.podIP"),
        field("HOST", "status.hostIP"),
    ])],
)  # fmt: skip
def test_a_pod_knows_who_and_where_it_is(space: Space) -> None:
    found = set(space.output("who-am-i").splitlines())
    pod_ = space.ended("who-am-i")
    assert found >= {
        "NAME=who-am-i", f"NAMESPACE={space.namespace}", f"UID_OF_POD={pod_['metadata']['uid']}",
        f"HOST={space.kube.address(pod_['spec']['nodeName'])}",
    }  # fmt: skip
    assert f"IP={pod_['status']['podIP']}" in found


# --- rights ---


@case(
    "[k8s.io] Security Context When creating a container with runAsUser should run the container "
    "with uid 65534 [LinuxOnly] [NodeConformance] [Conformance]",
    needs=[once("user", "id -u", securityContext={"runAsUser": 65534})],
)
def test_a_container_runs_as_the_user_that_is_named(space: Space) -> None:
    assert space.output("user") == "65534\n"


@case(
    "[k8s.io] Security Context When creating a pod with privileged should run the container as "
    "unprivileged when false [LinuxOnly] [NodeConformance] [Conformance]",
    needs=[once("unprivileged",
                "ip link add x0 type dummy 2>/dev/null && echo could || echo could not",
                securityContext={"privileged": False})],
)  # fmt: skip
def test_an_unprivileged_container_makes_no_links(space: Space) -> None:
    assert space.output("unprivileged") == "could not\n"


WRITE = "(echo x > /file) 2>/dev/null && echo could || echo could not"


@case(
    "[k8s.io] Kubelet when scheduling a read only busybox container should not write to root "
    "filesystem [LinuxOnly] [NodeConformance] [Conformance]",
    needs=[once("read-only", WRITE, securityContext={"readOnlyRootFilesystem": True})],
)
def test_a_read_only_root_takes_no_file(space: Space) -> None:
    assert space.output("read-only") == "could not\n"


@case(
    "[k8s.io] Security Context When creating a pod with readOnlyRootFilesystem should run the "
    "container with writable rootfs when readOnlyRootFilesystem=false [NodeConformance] "
    "[Conformance]",
    needs=[once("writable", WRITE, securityContext={"readOnlyRootFilesystem": False})],
)
def test_another_root_takes_files(space: Space) -> None:
    assert space.output("writable") == "could\n"


@case(
    "[k8s.io] Security Context when creating containers with AllowPrivilegeEscalation should not "
    "allow privilege escalation when false [LinuxOnly] [NodeConformance] [Conformance]",
    needs=[once("no-escalation", "id -u; grep NoNewPrivs /proc/self/status",
                securityContext={"runAsUser": 1000, "allowPrivilegeEscalation": False})],
)  # fmt: skip
def test_without_escalation_the_kernel_grants_no_new_rights(space: Space) -> None:
    assert space.output("no-escalation").split() == ["1000", "NoNewPrivs:", "1"]
