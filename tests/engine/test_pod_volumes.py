"""Volumes: what a container finds in them, what the node has of them, and what is left of them."""

import base64

import pytest

from tests.engine.pods import PodWorld, Raw, shell, sleeper, state
from tests.engine.volumes import FOLDERS, at, mounts_of, removed, spec
from tests.support.netns import eventually

REST = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"


# --- emptyDir ---


def test_an_empty_dir_is_shared_outlives_its_containers_and_goes_with_the_pod(
    pods: PodWorld,
) -> None:
    writer = shell(f"date > /data/first; {REST}", "writer", volumeMounts=[at("/data")])
    reader = sleeper("reader", volumeMounts=[at("/other", readOnly=True)])
    made = pods.create("empty", spec(writer, reader, volumes=[{"name": "data", "emptyDir": {}}]))
    pods.ready("empty")
    first = eventually(
        lambda: pods.exec("empty", "reader", "sh", "-c", "cat /other/first || true"), "the file",
        deadline=60,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="Read-only"):
        pods.exec("empty", "reader", "touch", "/other/mine")
    assert pods.exec("empty", "writer", "stat", "-c", "%a", "/data").strip() == "777"
    on_node = f"{FOLDERS}/{made['metadata']['uid']}/volumes/kubernetes.io~empty-dir/data/first"
    assert pods.node_run("cat", on_node) == first

    pods.exec("empty", "writer", "sh", "-c", "echo kept > /data/kept")
    pods.node_run("/usr/bin/docker", "rm", "-f", pods.container("empty", "writer")["Id"])
    pods.restarted("empty", 1, "writer")
    assert pods.exec("empty", "writer", "cat", "/data/kept") == "kept\n"
    removed(pods, "empty")


def test_an_empty_dir_in_memory_has_the_size_that_was_asked_for(pods: PodWorld) -> None:
    volume = {"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}
    made = pods.create("memory", spec(sleeper(volumeMounts=[at("/data")]), volumes=[volume]))
    pods.ready("memory")
    line = pods.exec("memory", "main", "grep", " /data ", "/proc/mounts")
    assert line.startswith("tmpfs ")
    assert "size=2048k" in line
    with pytest.raises(AssertionError, match="No space left"):
        pods.exec("memory", "main", "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=3")
    assert mounts_of(pods, made["metadata"]["uid"])
    removed(pods, "memory")


def test_a_pod_whose_empty_dir_outgrows_its_limit_is_evicted(pods: PodWorld) -> None:
    volume = {"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}
    fill = f"dd if=/dev/zero of=/data/big bs=1M count=3; {REST}"
    pods.create("glutton", spec(shell(fill, volumeMounts=[at("/data")]), volumes=[volume]))
    found = pods.phase("glutton", "Failed")
    assert found["status"]["reason"] == "Evicted"
    assert "'data' is larger than its sizeLimit 1Mi" in found["status"]["message"]
    pods.event("glutton", "Evicted", "sizeLimit")
    pods.wait("glutton", lambda p: "terminated" in state(p), "its container has ended")


# --- hostPath ---


def host_path(name: str, path: str, kind: str) -> Raw:
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def test_host_paths_of_every_type_are_checked_and_made(pods: PodWorld) -> None:
    pods.node_run("mkdir", "-p", "/var/hp/there")
    pods.node_run("sh", "-c", "echo hello > /var/hp/file; [ -b /var/hp/block ] "
                  "|| mknod /var/hp/block b 7 200")  # fmt: skip
    volumes = [
        host_path("any", "/var/hp/any/deep", ""),
        host_path("folder", "/var/hp/there", "Directory"),
        host_path("made", "/var/hp/made", "DirectoryOrCreate"),
        host_path("file", "/var/hp/file", "File"),
        host_path("new", "/var/hp/new", "FileOrCreate"),
        host_path("socket", "/run/docker.sock", "Socket"),
        host_path("char", "/dev/zero", "CharDevice"),
        host_path("block", "/var/hp/block", "BlockDevice"),
    ]
    mounts = [at(f"/m/{one['name']}", one["name"]) for one in volumes]
    pods.create("host-paths", spec(sleeper(volumeMounts=mounts), volumes=volumes))
    pods.ready("host-paths")
    kinds = pods.exec(
        "host-paths", "main", "stat", "-c", "%n %F", *(m["mountPath"] for m in mounts)
    )
    assert dict(line.removeprefix("/m/").split(" ", 1) for line in kinds.splitlines()) == {
        "any": "directory", "folder": "directory", "made": "directory", "file": "regular file",
        "new": "regular empty file", "socket": "socket", "char": "character special file",
        "block": "block special file",
    }  # fmt: skip
    pods.exec("host-paths", "main", "sh", "-c", "echo back > /m/new; touch /m/made/x")
    modes = pods.node_run("stat", "-c", "%a", "/var/hp/made", "/var/hp/new", "/var/hp/any/deep")
    assert modes.split() == ["755", "644", "755"]
    removed(pods, "host-paths")
    assert pods.node_run("cat", "/var/hp/new") == "back\n", "what is the host's stays"
    pods.node_run("rm", "-r", "/var/hp")


def test_host_paths_of_another_type_are_all_named_and_the_pod_begins_once_they_are_right(
    pods: PodWorld,
) -> None:
    wrong = [
        host_path("folder", "/etc/hostname", "Directory"),
        host_path("file", "/etc", "File"),
        host_path("missing", "/var/not-there", "Directory"),
        host_path("socket", "/etc/hostname", "Socket"),
        host_path("char", "/etc/hostname", "CharDevice"),
        host_path("block", "/dev/zero", "BlockDevice"),
    ]
    pods.create("wrong-paths", spec(sleeper(), volumes=wrong))
    message = pods.event("wrong-paths", "FailedMount", "'block'")["message"]
    for one in wrong:
        assert f"volume '{one['name']}': hostPath {one['hostPath']['path']}" in message
    assert pods.get("wrong-paths")["status"]["phase"] == "Pending"

    pods.create("late-path", spec(sleeper(), volumes=wrong[2:3]))
    pods.event("late-path", "FailedMount", "/var/not-there does not exist")
    pods.node_run("mkdir", "/var/not-there")
    pods.ready("late-path")
    pods.node_run("rmdir", "/var/not-there")


# --- contents: configMap, secret, downwardAPI, projected ---


def test_a_config_map_as_files_and_its_changes_reach_all_but_a_sub_path(pods: PodWorld) -> None:
    pods.put(
        "/api/v1/namespaces/default/configmaps",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
         "data": {"one": "1", "two": "2"},
         "binaryData": {"raw": base64.b64encode(b"\0\1").decode()}},
    )  # fmt: skip
    volumes = [
        {"name": "whole", "configMap": {"name": "settings", "defaultMode": 0o440}},
        {"name": "chosen", "configMap": {"name": "settings", "items": [
            {"key": "two", "path": "deep/er/zwei", "mode": 0o600}]}},
        {"name": "absent", "configMap": {"name": "no-such-map", "optional": True}},
    ]  # fmt: skip
    mounts = [
        at("/whole", "whole"), at("/chosen", "chosen"), at("/absent", "absent"),
        at("/etc/one.conf", "whole", subPath="one"),
    ]  # fmt: skip
    pods.create("configured", spec(sleeper(volumeMounts=mounts), volumes=volumes))
    pods.ready("configured")

    def read(*paths: str) -> str:
        return pods.exec("configured", "main", "cat", *paths)

    assert read("/whole/one", "/whole/two", "/chosen/deep/er/zwei", "/etc/one.conf") == "1221"
    assert pods.exec("configured", "main", "ls", "/whole", "/absent").split() == [
        "/absent:", "/whole:", "one", "raw", "two"
    ]  # fmt: skip
    modes = pods.exec("configured", "main", "stat", "-L", "-c", "%a", "/whole/one",
                      "/chosen/deep/er/zwei")  # fmt: skip
    assert modes.split() == ["440", "600"]
    assert pods.exec("configured", "main", "od", "-An", "-tx1", "/whole/raw").split() == [
        "00",
        "01",
    ]
    with pytest.raises(AssertionError, match="Read-only"):
        pods.exec("configured", "main", "touch", "/whole/mine")

    pods.config_map("settings", {"one": "eins", "two": "zwei", "three": "drei"})
    # Each volume has its own turn.
    eventually(
        lambda: read("/whole/one", "/chosen/deep/er/zwei") == "einszwei", "the change",
        deadline=60, interval=0.1,
    )  # fmt: skip
    assert read("/whole/three") == "drei"
    assert pods.exec("configured", "main", "ls", "/whole").split() == ["one", "three", "two"]
    assert read("/etc/one.conf") == "1", "a subPath is what it was at the start"
    assert pods.get("configured")["status"]["containerStatuses"][0]["restartCount"] == 0
    removed(pods, "configured")


def test_a_secret_is_in_memory_only_with_the_modes_that_were_asked_for(pods: PodWorld) -> None:
    pods.secret("keys", {"user": "admin", "password": "hunter2"})
    volume = {"name": "data", "secret": {"secretName": "keys", "defaultMode": 0o400}}
    made = pods.create("secretive", spec(sleeper(volumeMounts=[at("/data")]), volumes=[volume]))
    pods.ready("secretive")
    assert pods.exec("secretive", "main", "cat", "/data/password") == "hunter2"
    modes = pods.exec("secretive", "main", "stat", "-L", "-c", "%a", "/data/user", "/data/password")
    assert modes.split() == ["400", "400"]
    assert pods.exec("secretive", "main", "grep", " /data ", "/proc/mounts").startswith("tmpfs ")
    where = f"{made['metadata']['uid']}/volumes/kubernetes.io~secret/data"
    assert [line for line in mounts_of(pods, made["metadata"]["uid"]) if where in line]
    pods.secret("keys", {"user": "admin", "password": "better"})
    eventually(
        lambda: pods.exec("secretive", "main", "cat", "/data/password") == "better", "the change",
        deadline=60, interval=0.1,
    )  # fmt: skip
    removed(pods, "secretive")


def test_a_pod_waits_for_its_secret_and_begins_when_it_comes(pods: PodWorld) -> None:
    volume = {"name": "data", "secret": {"secretName": "not-yet"}}
    pods.create("patient", spec(sleeper(volumeMounts=[at("/data")]), volumes=[volume]))
    pods.event("patient", "FailedMount", "'not-yet' does not exist")
    assert pods.get("patient")["status"]["phase"] == "Pending"
    pods.secret("not-yet", {"key": "come"})
    pods.ready("patient")
    assert pods.exec("patient", "main", "cat", "/data/key") == "come"


def test_the_pods_own_fields_as_files_follow_its_labels(pods: PodWorld) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "note", "fieldRef": {"fieldPath": "metadata.annotations['note']"}},
        {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}, "mode": 0o400},
        {"path": "cpu", "resourceFieldRef": {
            "containerName": "main", "resource": "limits.cpu", "divisor": "1m"}},
        {"path": "memory", "resourceFieldRef": {
            "containerName": "main", "resource": "requests.memory"}},
    ]  # fmt: skip
    resources = {"limits": {"cpu": "250m", "memory": "32Mi"}, "requests": {"memory": "16Mi"}}
    pods.create(
        "introspective",
        spec(sleeper(volumeMounts=[at("/data")], resources=resources),
             volumes=[{"name": "data", "downwardAPI": {"items": items}}]),
        labels={"colour": "red", "shape": "round"}, annotations={"note": "line one\nline two"},
    )  # fmt: skip
    pods.ready("introspective")

    def read(name: str) -> str:
        return pods.exec("introspective", "main", "cat", f"/data/{name}")

    assert read("labels").splitlines() == ['colour="red"', 'shape="round"']
    assert read("note") == "line one\nline two"
    assert [read("name"), read("cpu"), read("memory")] == ["introspective", "250", "16777216"]
    pods.api("PATCH", pods.path("introspective"), {"metadata": {"labels": {"colour": "blue"}}})
    eventually(lambda: 'colour="blue"' in read("labels"), "the change", deadline=60, interval=0.1)


def test_a_projected_volume_holds_a_token_of_the_pods_account_beside_other_sources(
    pods: PodWorld,
) -> None:
    pods.config_map("roots", {"ca.crt": "certificate"})
    pods.secret("more", {"key": "value"})
    token = {"path": "token", "expirationSeconds": 3600, "audience": "lab"}
    sources = [
        {"serviceAccountToken": token},
        {"configMap": {"name": "roots", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"secret": {"name": "more", "items": [{"key": "key", "path": "deep/key", "mode": 0o440}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        {"configMap": {"name": "no-such-map", "optional": True}},
    ]  # fmt: skip
    volumes = [{"name": "data", "projected": {"sources": sources, "defaultMode": 0o644}}]
    container = sleeper(volumeMounts=[at("/data")])
    pods.create("projected", spec(container, volumes=volumes, securityContext={"runAsUser": 1234}))
    pods.ready("projected")

    def read(name: str) -> str:
        return pods.exec("projected", "main", "cat", f"/data/{name}")

    assert len(read("token")) > 20
    assert [read("ca.crt"), read("deep/key"), read("namespace")] == [
        "certificate", "value", "default"
    ]  # fmt: skip
    found = pods.exec(
        "projected", "main", "stat", "-L", "-c", "%u %a", "/data/token", "/data/ca.crt"
    )
    assert found.splitlines() == ["1234 600", "0 644"], "the token is for the pod's user alone"
    assert pods.exec("projected", "main", "grep", " /data ", "/proc/mounts").startswith("tmpfs ")
    removed(pods, "projected")
