"""Claims, parts of volumes and the group that owns them: inside a container and on the node."""

from typing import Any

import pytest

from tests.engine.pods import PodWorld, Raw, shell, sleeper, state
from tests.engine.volumes import at, mounts_of, removed, spec

CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"


# --- claims ---


def volume_of(name: str, **source: Raw) -> Raw:
    return {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                 "storageClassName": name, "persistentVolumeReclaimPolicy": "Retain", **source},
    }  # fmt: skip


def claim_of(name: str) -> Raw:
    return {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": name,
                 "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip


def claiming(name: str, **fields: Any) -> Raw:
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": name}}
    return spec(sleeper(volumeMounts=[at("/data")]), volumes=[volume], **fields)


def test_a_claim_is_waited_for_and_what_is_written_outlives_the_pod(pods: PodWorld) -> None:
    pods.create("claims", claiming("late"))
    pods.event("claims", "FailedMount", "'late' does not exist")
    pods.put("/api/v1/persistentvolumes", volume_of("late", hostPath={
        "path": "/var/pv-late", "type": "DirectoryOrCreate"}))  # fmt: skip
    pods.put(CLAIMS, claim_of("late"))
    pods.ready("claims")
    pods.exec("claims", "main", "sh", "-c", "echo precious > /data/file")
    removed(pods, "claims")
    assert pods.node_run("cat", "/var/pv-late/file") == "precious\n"
    pods.create("claims-again", claiming("late"))
    pods.ready("claims-again")
    assert pods.exec("claims-again", "main", "cat", "/data/file") == "precious\n"
    removed(pods, "claims-again")
    pods.node_run("rm", "-r", "/var/pv-late")


def test_a_local_volume_of_this_node_is_given_to_the_fs_group(pods: PodWorld) -> None:
    pods.node_run("mkdir", "-p", "/var/pv-local/sub")
    pods.node_run("touch", "/var/pv-local/sub/file")

    def on(node: str) -> Raw:
        expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        return {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}

    for name, node in (("here", "node1"), ("elsewhere", "node9")):
        local = {"path": "/var/pv-local"}
        pods.put("/api/v1/persistentvolumes", volume_of(name, local=local, nodeAffinity=on(node)))
        pods.put(CLAIMS, claim_of(name))
    user = {"runAsUser": 1000, "fsGroup": 2000}
    pods.create("local", claiming("here", securityContext=user))
    pods.create("not-here", {**claiming("elsewhere"), "nodeName": "node1"})
    pods.ready("local")
    pods.exec("local", "main", "touch", "/data/sub/mine")
    found = pods.node_run("stat", "-c", "%u:%g %a", "/var/pv-local/sub", "/var/pv-local/sub/file",
                          "/var/pv-local/sub/mine")  # fmt: skip
    assert found.splitlines() == ["0:2000 2775", "0:2000 664", "1000:2000 644"]
    pods.event("not-here", "FailedMount", "nodeAffinity")
    for name in ("local", "not-here"):
        removed(pods, name)
    pods.node_run("rm", "-r", "/var/pv-local")


# --- subPath ---


def test_sub_paths_are_made_and_hold_one_part_of_the_volume(pods: PodWorld) -> None:
    mounts = [
        at("/one", subPath="a/b"), at("/two", subPathExpr="$(POD)/x"), at("/all"),
        at("/etc/motd", subPath="file"),
    ]  # fmt: skip
    env = [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    init = shell("echo hello > /all/file", "init", volumeMounts=[at("/all")])
    container = sleeper(volumeMounts=mounts, env=env)
    made = pods.create(
        "sub-paths",
        spec(container, volumes=[{"name": "data", "emptyDir": {}}], initContainers=[init]),
    )
    pods.ready("sub-paths")
    pods.exec("sub-paths", "main", "sh", "-c", "touch /one/here /two/there; echo more >> /etc/motd")
    found = pods.exec("sub-paths", "main", "sh", "-c", "cd /all; find . -type f | sort; cat file")
    assert found.split() == ["./a/b/here", "./file", "./sub-paths/x/there", "hello", "more"]
    assert len(mounts_of(pods, made["metadata"]["uid"])) >= 3, "each part is bound by itself"
    removed(pods, "sub-paths")


@pytest.mark.parametrize(
    ("make", "part", "words"),
    [
        ("ln -s / way-out", "way-out/etc", "absolute symlink"),
        ("ln -s ../../../../.. way-out", "way-out/etc", "leads out of the volume by a symlink"),
        ("mkdir deep; ln -s ../.. deep/way-out", "deep/way-out", "leads out of the volume"),
    ],
    ids=["absolute", "relative", "from below"],
)
def test_a_sub_path_that_leaves_the_volume_by_a_symlink_is_refused(
    pods: PodWorld, make: str, part: str, words: str
) -> None:
    init = shell(f"cd /data && {make}", "init", volumeMounts=[at("/data")])
    pods.create(
        "escape",
        spec(sleeper(volumeMounts=[at("/data", subPath=part)]), initContainers=[init],
             volumes=[{"name": "data", "emptyDir": {}}]),
    )  # fmt: skip
    found = pods.waiting("escape", "CreateContainerConfigError")
    assert words in state(found)["waiting"]["message"]
    removed(pods, "escape")


# --- fsGroup ---


def test_the_fs_group_reads_and_writes_what_the_pod_has(pods: PodWorld) -> None:
    pods.secret("grouped", {"key": "value"})
    volumes = [
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "secret", "secret": {"secretName": "grouped", "defaultMode": 0o400}},
    ]
    mounts = [at(f"/{one['name']}", str(one["name"])) for one in volumes]
    context = {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000}
    pods.create(
        "grouped", spec(sleeper(volumeMounts=mounts), volumes=volumes, securityContext=context)
    )
    pods.ready("grouped")
    assert pods.exec("grouped", "main", "id", "-G").split() == ["3000", "2000"]
    pods.exec("grouped", "main", "touch", "/disk/file", "/memory/file")
    found = pods.exec("grouped", "main", "stat", "-L", "-c", "%g %a", "/disk", "/memory",
                      "/disk/file", "/memory/file", "/secret/key")  # fmt: skip
    assert found.splitlines() == ["2000 2777", "2000 2777", "2000 644", "2000 644", "2000 440"]
    assert pods.exec("grouped", "main", "cat", "/secret/key") == "value"
    removed(pods, "grouped")
