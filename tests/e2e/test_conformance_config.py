"""Conformance: ConfigMaps, Secrets and the downward API as volumes, and how changes reach them."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.conformance import (
    Space,
    case,
    config_map,
    mount,
    once,
    pod,
    secret,
    space_of,
)
from tests.support.kubelab import KubeLab
from tests.support.realnode import IDLE, container
from tests.support.services import Json

pytestmark = pytest.mark.e2e

SHOW = "cd /v; for f in $(find . -follow -type f -not -path './..*' | sort); do " \
       "echo $f $(stat -L -c %a $f) $(cat $f); done"  # fmt: skip
"""Prints path, mode and content of each file."""
USER = {"runAsUser": 1000}
ALL = " [NodeConformance] [Conformance]"
LINUX = " [LinuxOnly] [NodeConformance] [Conformance]"


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """The pods of this module."""
    with space_of(kube, __name__) as made:
        yield made


def shows(name: str, source: Json, context: Json | None = None) -> Json:
    """A pod that shows the files of a volume."""
    return once(name, SHOW, volumeMounts=[mount("v", "/v")], volumes=[{"name": "v", **source}],
                spec={"securityContext": context or {}})  # fmt: skip


def of_map(**more: Any) -> Json:
    """A volume of the ConfigMap."""
    return {"configMap": {"name": "conf", **more}}


def of_secret(**more: Any) -> Json:
    """A volume of the Secret."""
    return {"secret": {"secretName": "conf", **more}}


def projected(kind: str, mode: int | None = None, **more: Any) -> Json:
    """A projected volume of the ConfigMap or the Secret."""
    modes = {} if mode is None else {"defaultMode": mode}
    return {"projected": {"sources": [{kind: {"name": "conf", **more}}], **modes}}


def items(mode: int | None = None) -> list[Json]:
    """One key at another path."""
    modes = {} if mode is None else {"mode": mode}
    return [{"key": "data", "path": "path/to/data", **modes}]


CONF = [config_map("conf", data="value"), secret("conf", data="value")]
TWICE = pod(
    "twice",
    container("cat /one/data /two/data /three/data /four/data",
              volumeMounts=[mount(name, f"/{name}") for name in ("one", "two", "three", "four")]),
    volumes=[{"name": "one", **of_map()}, {"name": "two", **of_map()},
             {"name": "three", **of_secret()}, {"name": "four", **of_secret()}],
    restartPolicy="Never",
)  # fmt: skip
MAPS, SECRETS = "[sig-storage] ConfigMap should be ", "[sig-storage] Secrets should be "
P_MAPS = "[sig-storage] Projected configMap should be "
P_SECRETS = "[sig-storage] Projected secret should be "
MOUNTED = "consumable from pods in volume"

SHOWN: dict[str, tuple[Json, Json, str]] = {
    # codename: source, securityContext of the pod, what is shown
    MAPS + MOUNTED + ALL: (of_map(), {}, "./data 644 value"),
    MAPS + MOUNTED + " as non-root" + ALL: (of_map(), USER, "./data 644 value"),
    MAPS + MOUNTED + " with defaultMode set" + LINUX: (
        of_map(defaultMode=0o400), {}, "./data 400 value"),
    MAPS + MOUNTED + " with mappings" + ALL: (
        of_map(items=items()), {}, "./path/to/data 644 value"),
    MAPS + MOUNTED + " with mappings and Item mode set" + LINUX: (
        of_map(items=items(0o400)), {}, "./path/to/data 400 value"),
    MAPS + MOUNTED + " with mappings as non-root" + ALL: (
        of_map(items=items()), USER, "./path/to/data 644 value"),
    SECRETS + MOUNTED + ALL: (of_secret(), {}, "./data 644 value"),
    SECRETS + MOUNTED + " as non-root with defaultMode and fsGroup set" + LINUX: (
        of_secret(defaultMode=0o440), USER | {"fsGroup": 1001}, "./data 440 value"),
    SECRETS + MOUNTED + " with defaultMode set" + LINUX: (
        of_secret(defaultMode=0o400), {}, "./data 400 value"),
    SECRETS + MOUNTED + " with mappings" + ALL: (
        of_secret(items=items()), {}, "./path/to/data 644 value"),
    SECRETS + MOUNTED + " with mappings and Item Mode set" + LINUX: (
        of_secret(items=items(0o400)), {}, "./path/to/data 400 value"),
    P_MAPS + MOUNTED + ALL: (projected("configMap"), {}, "./data 644 value"),
    P_MAPS + MOUNTED + " with defaultMode set" + LINUX: (
        projected("configMap", 0o400), {}, "./data 400 value"),
    P_MAPS + MOUNTED + " with mappings and Item mode set" + LINUX: (
        projected("configMap", items=items(0o400)), {}, "./path/to/data 400 value"),
    P_SECRETS + MOUNTED + ALL: (projected("secret"), {}, "./data 644 value"),
    P_SECRETS + MOUNTED + " as non-root with defaultMode and fsGroup set" + LINUX: (
        projected("secret", 0o440), USER | {"fsGroup": 1001}, "./data 440 value"),
}  # fmt: skip


@case(
    *SHOWN,
    needs=[*CONF, *(shows(f"shows-{at}", source, context)
                    for at, (source, context, _) in enumerate(SHOWN.values()))],
)  # fmt: skip
def test_keys_are_files_at_the_path_and_with_the_mode_that_were_set(space: Space) -> None:
    found = {name: space.output(f"shows-{at}").strip() for at, name in enumerate(SHOWN)}
    assert found == {name: shown for name, (_, _, shown) in SHOWN.items()}


@case(
    MAPS + "consumable in multiple volumes in the same pod" + ALL,
    SECRETS + "consumable in multiple volumes in a pod" + ALL,
    needs=[TWICE],
)
def test_one_object_fills_several_volumes(space: Space) -> None:
    assert space.output("twice") == "value" * 4


@case(
    "[sig-storage] ConfigMap binary data should be reflected in volume" + ALL,
    needs=[
        {"kind": "ConfigMap", "metadata": {"name": "binary"}, "data": {"text": "value"},
         "binaryData": {"raw": base64.b64encode(b"\xde\xca\xfe\x00").decode()}},
        once("binary", "cat /v/text; od -An -tx1 /v/raw", volumeMounts=[mount("v", "/v")],
             volumes=[{"name": "v", "configMap": {"name": "binary"}}]),
    ],
)  # fmt: skip
def test_binary_data_arrives_unchanged(space: Space) -> None:
    assert space.output("binary").split() == ["value", "de", "ca", "fe", "00"]


# --- changes ---


def optional(kind: str, key: str) -> list[Json]:
    """Three volumes: of what will be made, changed and deleted."""
    return [{"name": f"{kind[0]}-{which}",
             kind: {key: f"{which}-later", "optional": True}}
            for which in ("made", "changed", "deleted")]  # fmt: skip


def watcher(name: str, volumes: Sequence[Json], **more: Any) -> Json:
    """A pod that keeps its volumes mounted below /v."""
    mounts = [mount(one["name"], f"/v/{one['name']}") for one in volumes]
    return pod(name, container(volumeMounts=mounts, **more), volumes=list(volumes))


@case(
    "[sig-storage] ConfigMap updates should be reflected in volume" + ALL,
    "[sig-storage] ConfigMap optional updates should be reflected in volume" + ALL,
    "[sig-storage] Secrets optional updates should be reflected in volume" + ALL,
    needs=[
        *(make(f"{which}-later", data=which) for make in (config_map, secret)
          for which in ("changed", "deleted")),
        watcher("changes", [*optional("configMap", "name"), *optional("secret", "secretName")]),
    ],
)  # fmt: skip
def test_what_is_made_changed_or_deleted_later_reaches_the_files(space: Space) -> None:
    space.ready("changes")
    look = "cd /v; for d in *; do echo $d=$(cat $d/data 2>/dev/null); done"
    before = (
        "c-changed=changed c-deleted=deleted c-made= s-changed=changed s-deleted=deleted s-made="
    )
    assert space.shell("changes", look).split() == before.split()
    space.create(config_map("made-later", data="new"), secret("made-later", data="new"))
    space.patch("ConfigMap", "changed-later", {"data": {"data": "other"}})
    space.patch("Secret", "changed-later", {"data": {"data": base64.b64encode(b"other").decode()}})
    for kind in ("ConfigMap", "Secret"):
        space.delete(kind, "deleted-later")
    after = "c-changed=other c-deleted= c-made=new s-changed=other s-deleted= s-made=new"
    space.kube.wait(
        lambda: space.shell("changes", look).split() == after.split(), "the files follow"
    )
    assert space.get("Pod", "changes")["status"]["containerStatuses"][0]["restartCount"] == 0


# --- the downward API ---

DOWN, P_DOWN = (
    "[sig-storage] Downward API volume should ",
    "[sig-storage] Projected downwardAPI should ",
)


def of_field(path: str, field: str, **more: Any) -> Json:
    """A file with a field of the pod."""
    return {"path": path, "fieldRef": {"fieldPath": field}, **more}


def of_resource(path: str, resource: str, divisor: str = "1") -> Json:
    """A file with an amount of the container."""
    return {"path": path, "resourceFieldRef": {"containerName": "c", "resource": resource,
                                               "divisor": divisor}}  # fmt: skip


AMOUNTS = [of_resource("cpu_limit", "limits.cpu", "1m"),
           of_resource("cpu_request", "requests.cpu", "1m"),
           of_resource("memory_limit", "limits.memory"),
           of_resource("memory_request", "requests.memory")]  # fmt: skip


def downward(entries: Sequence[Json], mode: int | None = None, *, project: bool = False) -> Json:
    """A volume of the downward API."""
    modes = {} if mode is None else {"defaultMode": mode}
    if project:
        return {"projected": {"sources": [{"downwardAPI": {"items": list(entries)}}], **modes}}
    return {"downwardAPI": {"items": list(entries), **modes}}


def with_limits(name: str, *, project: bool) -> Json:
    """A pod whose volume shows what its container asks for."""
    made = shows(name, downward(AMOUNTS, project=project))
    made["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "25m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}
    }  # fmt: skip
    return made


@case(
    *(prefix + f"provide container's {what}" + ALL for prefix in (DOWN, P_DOWN)
      for what in ("cpu limit", "cpu request", "memory limit", "memory request")),
    needs=[with_limits("down-amounts", project=False), with_limits("proj-amounts", project=True)],
)  # fmt: skip
def test_requests_and_limits_are_files(space: Space) -> None:
    expected = [f"./cpu_limit 644 {1250}", "./cpu_request 644 25",
                f"./memory_limit 644 {64 << 20}", f"./memory_request 644 {32 << 20}"]  # fmt: skip
    for name in ("down-amounts", "proj-amounts"):
        assert space.output(name).splitlines() == expected


@case(
    *(prefix + f"provide node allocatable ({of}) as default {of} limit if the limit is not set"
      + ALL for prefix in (DOWN, P_DOWN) for of in ("cpu", "memory")),
    needs=[shows("down-default", downward([AMOUNTS[0], AMOUNTS[2]])),
           shows("proj-default", downward([AMOUNTS[0], AMOUNTS[2]], project=True))],
)  # fmt: skip
def test_limits_that_are_not_set_are_the_node_s_allocatable(space: Space) -> None:
    for name in ("down-default", "proj-default"):
        lines = space.output(name).splitlines()
        node = space.ended(name)["spec"]["nodeName"]
        has = space.kube.api("GET", f"/api/v1/nodes/{node}")[1]["status"]["allocatable"]
        memory = int(has["memory"].removesuffix("Ki")) << 10
        assert lines == [
            f"./cpu_limit 644 {int(has['cpu']) * 1000}",
            f"./memory_limit 644 {memory}",
        ]


@case(
    *(prefix + "provide podname only" + ALL for prefix in (DOWN, P_DOWN)),
    *(prefix + "set DefaultMode on files" + LINUX for prefix in (DOWN, P_DOWN)),
    *(prefix + "set mode on item file" + LINUX for prefix in (DOWN, P_DOWN)),
    needs=[
        shows(f"{'proj' if project else 'down'}-{which}", downward(
            [of_field("name", "metadata.name", **({"mode": 0o400} if which == "item" else {}))],
            0o400 if which == "mode" else None, project=project))
        for project in (False, True) for which in ("name", "mode", "item")
    ],
)  # fmt: skip
def test_a_pod_s_name_is_a_file_with_the_mode_that_was_set(space: Space) -> None:
    for prefix in ("down", "proj"):
        for which, mode in (("name", 644), ("mode", 400), ("item", 400)):
            name = f"{prefix}-{which}"
            assert space.output(name) == f"./name {mode} {name}\n"


TOLD = [of_field("labels", "metadata.labels"), of_field("annotations", "metadata.annotations")]


@case(
    *(prefix + f"update {what} on modification" + ALL for prefix in (DOWN, P_DOWN)
      for what in ("labels", "annotations")),
    needs=[pod("modified", container(IDLE, volumeMounts=[mount("d", "/d"), mount("p", "/p")]),
               labels={"key": "old"}, annotations={"builder": "bar"},
               volumes=[{"name": "d", **downward(TOLD)},
                        {"name": "p", **downward(TOLD, project=True)}])],
)  # fmt: skip
def test_changed_labels_and_annotations_reach_the_files(space: Space) -> None:
    space.ready("modified")
    look = "cat /d/labels; echo; cat /d/annotations; echo; cat /p/labels; echo; cat /p/annotations"
    assert {'key="old"', 'builder="bar"'} <= set(space.shell("modified", look).splitlines())
    change = {"labels": {"key": "new"}, "annotations": {"builder": "foo"}}
    space.patch("Pod", "modified", {"metadata": change})

    def follows() -> bool:
        lines = space.shell("modified", look).splitlines()
        return lines.count('key="new"') == lines.count('builder="foo"') == 2

    space.kube.wait(follows, "both volumes follow")
