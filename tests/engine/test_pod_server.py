"""The agent's own server: who is let in, and what it tells of pods that really run."""

import json
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from tests.engine.pods import PodWorld, Raw, shell, sleeper
from tests.support.netns import eventually

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
READ_ONLY = "http://127.0.0.1:10255"


def curl(pods: PodWorld, url: str, *options: str) -> tuple[int, str]:
    """Status and body of an answer that a client on the node gets; status 0 for none."""
    form = "\n%{http_code}"
    out = pods.node_run("/usr/bin/curl", "-sk", "-m", "60", "-w", form, *options, url, check=False)
    body, _, status = out.rpartition("\n")
    return int(status or 0), body


def secured(pods: PodWorld, path: str) -> str:
    return f"https://{pods.spec.nodes[0].address}:10250{path}"


@pytest.fixture
def token(pods: PodWorld) -> str:
    """A token of a service account."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}}
    pods.put(ACCOUNTS, account)
    made = pods.api("POST", f"{ACCOUNTS}/reader/token", {"spec": {"expirationSeconds": 3600}})
    return str(made["status"]["token"])


def get(pods: PodWorld, token: str, path: str, *options: str) -> str:
    """The body of an answer to the holder of *token*."""
    bearer = ("-H", f"Authorization: Bearer {token}")
    status, body = curl(pods, secured(pods, path), *bearer, *options)
    assert status == 200, f"{path}: {status} {body}"
    return body


PATHS = (
    "/pods", "/runningpods/", "/stats/summary", "/metrics", "/metrics/resource",
    "/metrics/cadvisor", "/spec/", "/healthz", "/containerLogs/default/x/y", "/nothing",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_nobody_is_let_in_without_credentials(pods: PodWorld, path: str) -> None:
    assert curl(pods, secured(pods, path))[0] == 401


@pytest.mark.parametrize(
    "header",
    ["Authorization: Bearer wrong", "Authorization: Bearer ", "Authorization: Basic YTpi"],
)
def test_wrong_credentials_are_refused(pods: PodWorld, header: str) -> None:
    assert curl(pods, secured(pods, "/pods"), "-H", header)[0] == 401
    wanted = curl(pods, secured(pods, "/run/default/x/main?cmd=id"), "-X", "POST", "-H", header)
    assert wanted[0] == 401


def test_a_service_accounts_token_is_taken_until_the_api_server_knows_it_no_more(
    pods: PodWorld, token: str
) -> None:
    assert get(pods, token, "/healthz").strip() == "ok"
    header = f"Authorization: Bearer {token[:-1]}"
    assert curl(pods, secured(pods, "/healthz"), "-H", header)[0] == 401


def test_pods_and_running_pods(pods: PodWorld, token: str) -> None:
    pods.create("runs", [sleeper(), sleeper("two")])
    pods.create("ended", {"containers": [shell("true")], "restartPolicy": "Never"})
    uid = pods.ready("runs")["metadata"]["uid"]
    pods.phase("ended", "Succeeded")

    def listed(path: str) -> dict[str, Raw]:
        document = json.loads(get(pods, token, path))
        assert document["kind"] == "PodList"
        return {one["metadata"]["name"]: one for one in document["items"]}

    found = listed("/pods")
    assert found["runs"]["metadata"]["uid"] == uid
    assert found["runs"]["status"]["phase"] == "Running"
    assert found["ended"]["status"]["phase"] == "Succeeded"
    assert found["runs"]["spec"]["containers"][0]["image"] == "barenode/busybox:lab"
    running = listed("/runningpods/")
    assert "ended" not in running
    assert {c["name"] for c in running["runs"]["spec"]["containers"]} == {"main", "two"}


def test_the_summary_tells_what_pods_and_node_use(pods: PodWorld, token: str) -> None:
    busy = shell("trap 'exit 0' TERM; while :; do :; done", resources={"limits": {"cpu": "200m"}})
    pods.create("busy", [busy])
    pods.ready("busy")

    def of_pod() -> Any:
        summary = json.loads(get(pods, token, "/stats/summary"))
        assert summary["node"]["nodeName"] == "node1"
        assert summary["node"]["memory"]["workingSetBytes"] > 0
        assert summary["node"]["fs"]["capacityBytes"] > 0
        found = [one for one in summary["pods"] if one["podRef"]["name"] == "busy"]
        containers = found[0]["containers"] if found else []
        used = containers and containers[0]["cpu"].get("usageCoreNanoSeconds", 0)
        return found[0] if used else None

    found = eventually(of_pod, "figures of the pod", deadline=60, interval=0.5)
    (container,) = found["containers"]
    assert container["name"] == "main"
    assert 0 < container["memory"]["workingSetBytes"] < 100 * 1024 * 1024
    assert found["network"]["name"] == "eth0"


def test_metrics_name_the_pods_containers(pods: PodWorld, token: str) -> None:
    pods.create("measured", [sleeper()])
    pods.ready("measured")

    def has(path: str, name: str) -> bool:
        # Figures are a few seconds old at most.
        return any(
            line.startswith(name) and 'container="main"' in line and 'pod="measured"' in line
            for line in get(pods, token, path).splitlines()
        )

    for path, name in (
        ("/metrics/resource", "container_memory_working_set_bytes"),
        ("/metrics/resource", "container_cpu_usage_seconds_total"),
        ("/metrics/cadvisor", "container_memory_working_set_bytes"),
    ):
        eventually(partial(has, path, name), f"{name} in {path}", deadline=60, interval=0.2)
    own = get(pods, token, "/metrics")
    for name in ("kubelet_running_pods", 'kubelet_node_name{node="node1"} 1.0',
                 "kubelet_pleg_relist_duration_seconds_count",
                 "kubelet_runtime_operations_total"):  # fmt: skip
        assert name in own


def test_a_command_is_run_in_a_container_and_its_output_comes_back(
    pods: PodWorld, token: str
) -> None:
    pods.create("host", [sleeper()])
    pods.ready("host")
    command = quote("cat /etc/hostname")
    assert get(pods, token, f"/run/default/host/main?cmd={command}", "-X", "POST") == "host\n"
    header = ("-X", "POST", "-H", f"Authorization: Bearer {token}")
    for where in ("/run/default/host/none", "/run/default/nobody/main"):
        assert curl(pods, secured(pods, f"{where}?cmd=id"), *header)[0] == 404
    assert curl(pods, secured(pods, "/exec/default/host/main?command=id"), *header)[0] == 501


def test_logs_are_read_from_the_server_itself(pods: PodWorld, token: str) -> None:
    script = "echo one; echo two; echo three; trap 'exit 0' TERM; while :; do sleep 9 & wait; done"
    pods.create("talker", [shell(script)])
    pods.ready("talker")
    path = "/containerLogs/default/talker/main"
    eventually(lambda: "three" in get(pods, token, path), "the log", deadline=60, interval=0.1)
    assert get(pods, token, f"{path}?tailLines=1") == "three\n"
    assert get(pods, token, f"{path}?limitBytes=5") == "one\nt"
    assert get(pods, token, f"{path}?timestamps=true").splitlines()[0].endswith("Z one")


def test_the_port_without_credentials_is_for_this_host_alone_and_tells_figures_only(
    pods: PodWorld,
) -> None:
    pods.create("seen", [sleeper()])
    pods.ready("seen")
    status, body = curl(pods, f"{READ_ONLY}/pods")
    assert status == 200
    assert "seen" in {one["metadata"]["name"] for one in json.loads(body)["items"]}
    for path in ("/stats/summary", "/metrics", "/metrics/resource", "/healthz"):
        assert curl(pods, f"{READ_ONLY}{path}")[0] == 200
    for path in ("/containerLogs/default/seen/main", "/run/default/seen/main?cmd=id"):
        assert curl(pods, f"{READ_ONLY}{path}")[0] == 404
        assert curl(pods, f"{READ_ONLY}{path}", "-X", "POST")[0] in {404, 405}
    outside = f"http://{pods.spec.nodes[0].address}:10255/pods"
    assert curl(pods, outside)[0] == 0


def test_the_certificate_names_the_node(pods: PodWorld) -> None:
    address = pods.spec.nodes[0].address
    text = pods.node_run(
        "sh", "-c", f"openssl s_client -connect {address}:10250 </dev/null 2>/dev/null "
        "| openssl x509 -noout -text",
    )  # fmt: skip
    assert "DNS:node1" in text
    assert f"IP Address:{address}" in text
