"""Conformance: volumes on the node: emptyDir, parts of volumes, several sources in one."""

from collections.abc import Iterator

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
from tests.support.realnode import container
from tests.support.services import Json

pytestmark = pytest.mark.e2e

EMPTY = "[sig-storage] EmptyDir volumes "
KINDS = {"default": {}, "tmpfs": {"medium": "Memory"}}
MODES = ("0644", "0666", "0777")
USERS = {"root": 0, "non-root": 1001}
LINUX = "[LinuxOnly] [NodeConformance] [Conformance]"


@pytest.fixture(scope="module")
def space(kube: KubeLab) -> Iterator[Space]:
    """The pods of this module."""
    with space_of(kube, __name__) as made:
        yield made


# --- emptyDir ---


def writers() -> Json:
    """A pod with a container for each user, mode and kind; each writes a file and reads it."""
    containers, volumes = [], []
    for kind, source in KINDS.items():
        for who, number in USERS.items():
            for mode in MODES:
                name = f"{who}-{mode}-{kind}"
                script = (
                    "umask 0; echo content > /v/f; "
                    f"chmod {mode} /v/f; cat /v/f; stat -c %04a:%u /v/f; stat -f -c %T /v"
                )
                containers.append(container(script, name, volumeMounts=[mount(name, "/v")],
                                            securityContext={"runAsUser": number}))  # fmt: skip
                volumes.append({"name": name, "emptyDir": source})
    return pod("writers", *containers, volumes=volumes, restartPolicy="Never")


@case(
    *(f"{EMPTY}should support ({who},{mode},{kind}) {LINUX}"
      for who in USERS for mode in MODES for kind in KINDS),
    needs=[writers()],
)  # fmt: skip
def test_files_keep_their_mode_for_root_and_others_on_disk_and_in_memory(space: Space) -> None:
    for who, number in USERS.items():
        for mode in MODES:
            for kind in KINDS:
                lines = space.output("writers", f"{who}-{mode}-{kind}").splitlines()
                assert lines[:2] == ["content", f"{mode}:{number}"], (who, mode, kind)
                assert (lines[2] == "tmpfs") == (kind == "tmpfs"), (who, mode, kind)


@case(
    EMPTY + f"volume on default medium should have the correct mode {LINUX}",
    EMPTY + f"volume on tmpfs should have the correct mode {LINUX}",
    needs=[once("modes", "stat -c %a /disk /memory; stat -f -c %T /memory",
                volumeMounts=[mount("disk", "/disk"), mount("memory", "/memory")],
                volumes=[{"name": "disk", "emptyDir": {}},
                         {"name": "memory", "emptyDir": {"medium": "Memory"}}])],
)  # fmt: skip
def test_an_empty_volume_is_open_to_all(space: Space) -> None:
    assert space.output("modes").split() == ["777", "777", "tmpfs"]


@case(
    EMPTY + "pod should support shared volumes between containers [Conformance]",
    needs=[pod("shared",
               container("until cat /v/f 2>/dev/null; do sleep 0.1; done", "reads",
                         volumeMounts=[mount("v", "/v")]),
               container("echo shared > /v/new; mv /v/new /v/f", "writes",
                         volumeMounts=[mount("v", "/v")]),
               volumes=[{"name": "v", "emptyDir": {}}], restartPolicy="Never")],
)  # fmt: skip
def test_containers_share_a_volume(space: Space) -> None:
    assert space.output("shared", "reads") == "shared\n"


@case(
    "[sig-storage] EmptyDir wrapper volumes should not conflict [Conformance]",
    needs=[
        config_map("wrapped", data="from map"), secret("wrapped", data="from secret"),
        once("wrappers", "cat /m/data; echo; cat /s/data",
             volumeMounts=[mount("m", "/m"), mount("s", "/s")],
             volumes=[{"name": "m", "configMap": {"name": "wrapped"}},
                      {"name": "s", "secret": {"secretName": "wrapped"}}]),
    ],
)  # fmt: skip
def test_a_config_map_and_a_secret_of_one_name_are_two_volumes(space: Space) -> None:
    assert space.output("wrappers") == "from map\nfrom secret"


# --- parts of volumes ---

PART = "[sig-storage] Subpath Atomic writer volumes should support subpaths with "
NAME_FILE = {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}


def part(name: str, volume: Json, of: str, at: str = "/part") -> Json:
    """A pod that mounts *of* of a volume."""
    return once(name, f"cat {at}", volumeMounts=[mount("v", at, subPath=of)],
                volumes=[{"name": "v", **volume}])  # fmt: skip


@case(
    PART + "configmap pod [LinuxOnly] [Conformance]",
    PART + "secret pod [LinuxOnly] [Conformance]",
    PART + "downward pod [LinuxOnly] [Conformance]",
    PART + "projected pod [LinuxOnly] [Conformance]",
    PART + "configmap pod with mountPath of existing file [LinuxOnly] [Conformance]",
    needs=[
        config_map("parts", one="map one", two="map two"), secret("parts", one="secret one"),
        part("part-map", {"configMap": {"name": "parts"}}, "one"),
        part("part-secret", {"secret": {"secretName": "parts"}}, "one"),
        part("part-downward", {"downwardAPI": {"items": [NAME_FILE]}}, "name"),
        part("part-projected",
             {"projected": {"sources": [{"configMap": {"name": "parts"}}]}}, "two"),
        part("part-over", {"configMap": {"name": "parts"}}, "two", "/etc/passwd"),
    ],
)  # fmt: skip
def test_one_file_of_a_volume_is_mounted(space: Space) -> None:
    """Also over a file of the image."""
    expected = {"map": "map one", "secret": "secret one", "downward": "part-downward",
                "projected": "map two", "over": "map two"}  # fmt: skip
    assert {kind: space.output(f"part-{kind}") for kind in expected} == expected


# --- several sources ---


@case(
    "[sig-storage] Projected combined should project all components that make up the projection "
    "API [Projection][NodeConformance] [Conformance]",
    needs=[
        config_map("combined", config="from map"), secret("combined", word="from secret"),
        once("combines", "cd /all; cat name map/config; cat secret/word", volumes=[
            {"name": "all", "projected": {"sources": [
                {"downwardAPI": {"items": [NAME_FILE]}},
                {"configMap": {"name": "combined",
                               "items": [{"key": "config", "path": "map/config"}]}},
                {"secret": {"name": "combined", "items": [{"key": "word",
                                                           "path": "secret/word"}]}},
            ]}}], volumeMounts=[mount("all", "/all")]),
    ],
)  # fmt: skip
def test_several_sources_are_one_volume(space: Space) -> None:
    assert space.output("combines") == "combinesfrom mapfrom secret"
