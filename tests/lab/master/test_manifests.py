"""The control plane's static pods: what every version gets, and what differs between versions."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import UsageError
from lab.master.manifests import KUBERNETES, PKI, manifests
from lab.master.plane import Master, Plane, Version
from nodeagent.pods.check import problems_of
from nodeagent.sources.manifests import parse
from tests.lab.master.planes import ONE, THREE, plane

USUAL = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NETWORK = "etcd-network"
VERSIONS = st.integers(16, 40).map(lambda minor: f"v1.{minor}.0")


def flags(made: Plane, name: str, master: Master = ONE[0]) -> dict[str, str]:
    """The flags of the component *name* on *master*."""
    pod = yaml.safe_load(manifests(made, master)[f"{name}.yaml"])
    words = [w for w in pod["spec"]["containers"][0]["command"] if w.startswith("--")]
    found = dict(word[2:].split("=", 1) for word in words)
    assert len(found) == len(words), "a flag is given twice"
    return found


@settings(max_examples=30, deadline=None)
@given(version=VERSIONS, masters=st.sampled_from((ONE, THREE)), insecure=st.booleans())
def test_nodeagent_takes_every_manifest_without_a_word(
    version: str, masters: tuple[Master, ...], insecure: bool
) -> None:
    """No field is unknown to it, none is refused."""
    made = plane(masters, version=version, insecure=insecure)
    for master in masters:
        for file, text in manifests(made, master).items():
            found = parse(text.encode(), file, master.name, problems_of)
            assert found.errors == ()
            (pod,) = found.pods
            assert pod.pod.metadata.namespace == "kube-system"


@settings(max_examples=30, deadline=None)
@given(version=VERSIONS, insecure=st.booleans())
def test_a_plane_gives_the_same_text_each_time(version: str, insecure: bool) -> None:
    """Else a command that is repeated would restart the control plane."""
    made = plane(THREE, version=version, insecure=insecure)
    again = plane(THREE, version=version, insecure=insecure)
    assert manifests(made, THREE[1]) == manifests(again, THREE[1])


def test_manifests_can_be_read_and_edited_by_people() -> None:
    """No anchors, who made it on top."""
    for text in manifests(plane(THREE, insecure=True), THREE[0]).values():
        assert text.startswith("# ")
        assert "&id" not in text


def test_every_file_that_a_flag_names_is_mounted_read_only() -> None:
    """And etcd's data can be written."""
    for text in manifests(plane(), ONE[0]).values():
        pod = yaml.safe_load(text)
        container = pod["spec"]["containers"][0]
        mounts = {m["mountPath"]: m["readOnly"] for m in container["volumeMounts"]}
        for word in container["command"]:
            value = word.partition("=")[2]
            if value.startswith(KUBERNETES):
                assert any(value.startswith(path) and mounts[path] for path in mounts), word
        for path in ("/var/lib/etcd", "/var/lib/etcd-network"):
            assert mounts.get(path, False) is False


def test_the_network_s_etcd_gets_the_files_that_it_reads_and_no_other_key() -> None:
    """Who takes it over can sign nothing, and is neither server nor client of the API."""
    pod = yaml.safe_load(manifests(plane(), ONE[0])[f"{NETWORK}.yaml"])
    paths = {
        volume["hostPath"]["path"]: volume["hostPath"]["type"] for volume in pod["spec"]["volumes"]
    }
    assert paths == {
        "/var/lib/etcd-network": "DirectoryOrCreate",
        f"{PKI}/network": "DirectoryOrCreate",
        f"{PKI}/ca.crt": "File",
        f"{PKI}/etcd/ca.crt": "File",
        f"{PKI}/etcd/peer.crt": "File",
        f"{PKI}/etcd/peer.key": "File",
    }


def test_the_network_s_etcd_trusts_clients_that_kubernetes_etcd_does_not() -> None:
    """Whoever the cluster's CA signed; between its members the pair of etcd's peers counts."""
    made = plane(THREE)
    network, kubernetes = flags(made, NETWORK, THREE[1]), flags(made, "etcd", THREE[1])
    assert network["trusted-ca-file"] == f"{PKI}/ca.crt"
    assert kubernetes["trusted-ca-file"] == f"{PKI}/etcd/ca.crt"
    for name in ("client-cert-auth", "peer-client-cert-auth"):
        assert network[name] == kubernetes[name] == "true"
    for name in ("peer-trusted-ca-file", "peer-cert-file", "peer-key-file"):
        assert network[name] == kubernetes[name]


def test_two_etcds_on_one_host_share_neither_port_nor_folder() -> None:
    """Nor do their members take each other for their own."""
    made = plane(THREE)
    network, kubernetes = flags(made, NETWORK), flags(made, "etcd")
    for name in (
        "listen-client-urls", "advertise-client-urls", "listen-peer-urls", "initial-cluster",
        "listen-metrics-urls", "data-dir", "cert-file",
    ):  # fmt: skip
        assert not set(network[name].split(",")) & set(kubernetes[name].split(",")), name
    assert network["advertise-client-urls"] in made.network_etcd_urls()
    assert kubernetes["advertise-client-urls"] in made.etcd_urls()
    assert network["initial-cluster-token"] != kubernetes.get("initial-cluster-token")


def test_the_network_s_history_is_dropped_by_its_etcd_itself() -> None:
    """No API server does; and a network's keys are small."""
    found = flags(plane(), NETWORK)
    assert (found["auto-compaction-mode"], found["auto-compaction-retention"]) == ("periodic", "1h")
    assert int(found["quota-backend-bytes"]) >= 64 * 1024 * 1024
    assert "auto-compaction-retention" not in flags(plane(), "etcd")


def test_without_tls_one_etcd_serves_all() -> None:
    """As the source documents have it: credentials would keep nobody from anything."""
    made = plane(THREE, insecure=True)
    assert f"{NETWORK}.yaml" not in manifests(made, THREE[0])
    assert made.network_etcd_urls("master2") == made.etcd_urls("master2")


@pytest.mark.parametrize(("insecure", "scheme"), [(False, "https"), (True, "http")])
def test_an_api_server_asks_the_etcd_beside_it_and_no_other(insecure: bool, scheme: str) -> None:
    """A master that dies silently then holds up none of the others; etcd knows all members."""
    made = plane(THREE, insecure=insecure)
    assert flags(made, "kube-apiserver", THREE[1])["etcd-servers"] == f"{scheme}://127.0.0.1:2379"
    members = flags(made, "etcd", THREE[1])["initial-cluster"]
    assert members.count(f"{scheme}://198.18.0.") == 3


def test_tls_is_everywhere_unless_it_is_not_wanted() -> None:
    """etcd in plain HTTP answers at its old port too, as flannel's default has it."""
    secure = flags(plane(), "etcd")
    assert secure["client-cert-auth"] == "true"
    assert "http://" not in secure["listen-client-urls"] + secure["listen-peer-urls"]
    open_ = flags(plane(insecure=True), "etcd")
    assert "client-cert-auth" not in open_
    assert "http://198.18.0.2:4001" in open_["listen-client-urls"].split(",")


def test_plain_http_comes_from_the_server_while_it_has_it_and_from_a_pod_afterwards() -> None:
    """Kubernetes 1.20 removed the port."""
    old = plane(version="v1.19.7", insecure=True)
    assert flags(old, "kube-apiserver")["insecure-port"] == "8080"
    assert set(manifests(old, ONE[0])) == {f"{name}.yaml" for name in USUAL}
    new = plane(version="v1.20.2", insecure=True)
    assert "insecure-port" not in flags(new, "kube-apiserver")
    assert flags(new, "kube-apiserver-http")["port"] == "8080"
    assert "kube-apiserver-http.yaml" not in manifests(plane(version="v1.20.2"), ONE[0])


def test_plain_http_is_shut_where_the_server_would_open_it_by_itself() -> None:
    """On 127.0.0.1:8080, where every process of the host is administrator."""
    assert flags(plane(version="v1.19.7"), "kube-apiserver")["insecure-port"] == "0"
    assert "insecure-port" not in flags(plane(version="v1.20.2"), "kube-apiserver")


@pytest.mark.parametrize(
    ("version", "path", "port"),
    [("v1.15.9", "/healthz", True), ("v1.20.2", "/livez", True), ("v1.30.0", "/livez", False)],
)  # fmt: skip
def test_what_a_version_does_not_know_it_does_not_get(version: str, path: str, port: bool) -> None:
    """/livez came with 1.16, --port of the others ended with 1.23."""
    made = plane(version=version)
    server = yaml.safe_load(manifests(made, ONE[0])["kube-apiserver.yaml"])
    probe = server["spec"]["containers"][0]["livenessProbe"]["httpGet"]
    assert probe["path"] == f"{path}?exclude=etcd"
    for name in ("kube-controller-manager", "kube-scheduler"):
        assert ("port" in flags(made, name)) is port


def test_nodes_that_die_are_noticed_within_forty_seconds() -> None:
    """A sign of life each 10 s, 30 s of grace, a look each 2 s."""
    found = flags(plane(), "kube-controller-manager")
    assert (found["node-monitor-grace-period"], found["node-monitor-period"]) == ("30s", "2s")
    assert found["cluster-signing-key-file"] == f"{PKI}/ca.key"


@pytest.mark.parametrize(("text", "version"), [("v1.20.2", Version(1, 20)), ("1.9", Version(1, 9)),
    ("v1.36.0-rc.1", Version(1, 36)), ("v1.20.0+barenode", Version(1, 20))])  # fmt: skip
def test_versions_are_read_as_they_are_written(text: str, version: Version) -> None:
    """They are ordered by number, not by letter."""
    assert Version.parse(text) == version
    assert Version(1, 9) < Version(1, 20)


@pytest.mark.parametrize("text", ["", "latest", "v1", "1.x", "v1.20x"])
def test_what_is_no_version_is_refused_with_an_example(text: str) -> None:
    """Such as a tag without one."""
    with pytest.raises(UsageError, match=r"write it like v1\.20\.2"):
        Version.parse(text)


def test_no_pod_is_restarted_because_another_one_is_away() -> None:
    """The back-off would keep it away for minutes when that one is there again.

    An API server beside others ends, so that clients go to those.
    """
    beside = yaml.safe_load(manifests(plane(THREE), THREE[0])["kube-apiserver.yaml"])
    assert beside["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"] == "/livez"
    made = {
        name.removesuffix(".yaml"): yaml.safe_load(text)["spec"]["containers"][0]["livenessProbe"]
        for name, text in manifests(plane(insecure=True), ONE[0]).items()
    }
    assert made["kube-apiserver"]["httpGet"]["path"] == "/livez?exclude=etcd"
    assert made["etcd"]["httpGet"]["path"] == "/metrics"
    network = yaml.safe_load(manifests(plane(), ONE[0])[f"{NETWORK}.yaml"])
    probe = network["spec"]["containers"][0]["livenessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) == ("/metrics", 12381)
    assert made["kube-apiserver-http"]["tcpSocket"] == {"host": "127.0.0.1", "port": 8080}
