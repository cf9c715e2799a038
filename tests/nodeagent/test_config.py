"""nodeagent's settings: the kubelet's flags work, and mistakes name flag and remedy."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostkit.config import ConfigError, Settings
from nodeagent.config import (
    OPTIONS,
    Sources,
    api_config,
    cert_dir,
    docker_socket,
    eviction,
    load_settings,
    log_max_size,
    manifest_path,
    node_labels,
    node_name,
    node_taints,
    parallel_pulls,
    reserved,
    seccomp_root,
    sources,
)
from nodeagent.kubeletflags import REFUSED, UNUSED, notes

NO_FILE = {"NODEAGENT_SETTINGS": "/dev/null"}


def read(*argv: str, **environ: str) -> Settings:
    """The settings, without this machine's file."""
    return load_settings(argv, NO_FILE | environ)


KUBELET: list[tuple[str, str, object]] = [
    ("api-servers", "http://a:8080,http://b:8080", ("http://a:8080", "http://b:8080")),
    ("address", "0.0.0.0", "0.0.0.0"),
    ("port", "10350", 10350),
    ("read-only-port", "0", 0),
    ("enable-server", "true", True),
    ("hostname-override", "Node-1", "node-1"),
    ("hostname-override", "127.0.0.1", "127.0.0.1"),
    ("node-ip", "192.168.0.201", "192.168.0.201"),
    ("node-ip", "0.0.0.0", ""),
    ("config", "/etc/kubernetes/manifests-multi", "/etc/kubernetes/manifests-multi"),
    ("file-check-frequency", "5s", 5.0),
    ("cluster-dns", "10.0.0.10,10.0.0.11", ("10.0.0.10", "10.0.0.11")),
    ("cluster-domain", "Cluster.Local.", "cluster.local"),
    ("pod-infra-container-image", "k8s.gcr.io/pause:3.2", "k8s.gcr.io/pause:3.2"),
    ("root-dir", "/var/lib/kubelet", "/var/lib/kubelet"),
    ("max-pods", "40", 40),
    ("node-labels", "rack=7,example.com/disk=ssd,empty=", ("rack=7", "example.com/disk=ssd",
     "empty=")),
    ("register-with-taints", "dedicated=db:NoSchedule", ("dedicated=db:NoSchedule",)),
    ("system-reserved", "cpu=500m,memory=1Gi", ("cpu=500m", "memory=1Gi")),
    ("container-runtime-endpoint", "unix:///run/docker.sock", "/run/docker.sock"),
    ("container-runtime-endpoint", "unix:///var/run/dockershim.sock", ""),
    ("anonymous-auth", "true", True),
    ("authorization-mode", "AlwaysAllow", "AlwaysAllow"),
    ("image-gc-high-threshold", "90", 90),
    ("minimum-image-ttl-duration", "5m", 300.0),
    ("allowed-unsafe-sysctls", "net.*,kernel.msg*", ("net.*", "kernel.msg*")),
    ("v", "2", 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "value"), KUBELET)
def test_flags_of_the_kubelet_are_taken_with_their_meaning(
    name: str, given: str, value: object
) -> None:
    assert read(f"--{name}={given}")[name] == value
    assert read(f"-{name.replace('-', '_')}={given}")[name] == value


def test_the_walk_throughs_master_is_started_by_the_flags_it_always_had() -> None:
    argv = [
        "--api-servers=http://localhost:8080",
        "--v=2",
        "--address=0.0.0.0",
        "--enable-server",
        "--hostname-override=127.0.0.1",
        "--config=/etc/kubernetes/manifests-multi",
        "--cluster-dns=10.0.0.10",
        "--cluster-domain=cluster.local",
    ]
    settings = read(*argv)
    assert sources(settings) == Sources(True, Path("/etc/kubernetes/manifests-multi"))
    assert node_name(settings) == "127.0.0.1"
    assert settings.arguments == ()
    assert notes(settings) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--address=everywhere"], ["address", "'everywhere'", "0.0.0.0"]),
        (["--port=0"], ["port", "1 to 65535"]),
        (["--file-check-frequency=0s"], ["file-check-frequency", "1s or more"]),
        (["--node-status-update-frequency=10ms"], ["node-status-update-frequency", "1s or more"]),
        (["--runtime-request-timeout=0"], ["runtime-request-timeout", "1s or more"]),
        (["--hostname-override=a_b"], ["hostname-override", "letters"]),
        (["--node-ip=::1"], ["node-ip", "IPv4"]),
        (["--cluster-dns=dns"], ["cluster-dns", "10.0.0.10"]),
        (["--cluster-domain=a b"], ["cluster-domain", "such as cluster.local"]),
        (["--node-labels=rack"], ["node-labels", "'rack'", "KEY=VALUE"]),
        (["--register-with-taints=a=b"], ["'a=b'", "NoSchedule"]),
        (["--system-reserved=disk=1Gi"], ["'disk=1Gi'", "NAME=AMOUNT"]),
        (["--eviction-hard=memory<1"], ["eviction-hard", "memory"]),
        (["--docker-endpoint=tcp://10.0.0.1:2375"], ["docker-endpoint", "Unix socket"]),
        (
            ["--container-runtime-endpoint=unix:///run/containerd/containerd.sock"],
            ["container-runtime-endpoint", "--docker-endpoint"],
        ),
        (["--container-log-max-size=big"], ["container-log-max-size", "10Mi"]),
        (["--authorization-mode=RBAC"], ["AlwaysAllow or Webhook"]),
        (["--image-gc-low-threshold=90"], ["flag --image-gc-low-threshold", "lower"]),
        (["--tls-cert-file=/c.pem"], ["tls-private-key-file", "give both"]),
        (["--container-backoff-first=10m"], ["container-backoff-first", "longer"]),
        (
            ["--serialize-image-pulls", "--max-parallel-image-pulls=3"],
            ["max-parallel-image-pulls is 3", "leave one"],
        ),
        (
            ["--docker-endpoint=/a/docker.sock", "--container-runtime-endpoint=/b/docker.sock"],
            ["/b/docker.sock", "/a/docker.sock", "leave one out"],
        ),
        (["--network-plugin=cni"], ["network-plugin", "docker0"]),
        (["--allow-privileged=false"], ["allow-privileged", "PodSecurity"]),
        (["--manifest-url=http://x"], ["manifest-url", "--config"]),
        (["--api-server=http://x"], ["unknown flag --api-server", "--api-servers"]),
    ],
)
def test_what_cannot_be_used_is_named_with_the_remedy(argv: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*argv)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    "flag",
    ["--network-plugin=", "--allow-privileged=true", "--container-runtime=docker",
     "--cpu-manager-policy=none", "--enforce-node-allocatable=pods", "--configure-cbr0=false",
     "--cpu-cfs-quota", "--host-network-sources=*"],
)  # fmt: skip
def test_a_flag_that_asks_for_what_is_done_anyway_is_taken_in_silence(flag: str) -> None:
    assert notes(read(flag)) == []


def test_harmless_flags_are_taken_and_each_says_why_it_is_not_used() -> None:
    said = notes(read("--feature-gates=A=true", "--fail-swap-on=false", "--cgroup-driver=systemd"))
    assert len(said) == 3
    assert all(one.startswith("--") and " is not used: " in one for one in said)
    assert any("--cgroup-driver" in one and "Docker" in one for one in said)


def test_no_flag_is_known_twice_and_hidden_ones_have_no_meaning_of_their_own() -> None:
    names = [option.name for option in OPTIONS]
    assert len(names) == len(set(names))
    assert not {option.name for option in REFUSED} & set(UNUSED)
    assert all(option.help for option in OPTIONS)


def test_weak_to_strong_are_file_kubelets_variable_ours_and_flag(tmp_path: Path) -> None:
    file = tmp_path / "nodeagent.toml"
    file.write_text('max-pods = 10\ncluster-dns = ["10.0.0.10"]\nport = 1\nv = 1\n')
    settings = load_settings(
        ["--v=3"],
        {"NODEAGENT_SETTINGS": str(file), "KUBELET_MAX_PODS": "20", "NODEAGENT_MAX_PODS": "30",
         "KUBELET_PORT": "2"},
    )  # fmt: skip
    assert (settings["max-pods"], settings["port"], settings["v"]) == (30, 2, 3)
    assert settings["cluster-dns"] == ("10.0.0.10",)
    assert settings.origins["max-pods"] == "environment NODEAGENT_MAX_PODS"


def test_red_hats_variables_that_hold_whole_flags_are_read_too() -> None:
    settings = read(
        KUBELET_ADDRESS="--address=127.0.0.1",
        KUBELET_API_SERVERS="--api-servers=http://10.0.0.1:8080",
        KUBELET_ARGS="--anything",
    )
    assert settings["address"] == "127.0.0.1"
    assert settings["api-servers"] == ("http://10.0.0.1:8080",)


@pytest.mark.parametrize("line", ["kind: KubeletConfiguration", '"kind": "KubeletConfiguration",'])
def test_a_kubelet_configuration_given_as_manifests_is_refused_with_the_way_out(
    tmp_path: Path, line: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"apiVersion: kubelet.config.k8s.io/v1beta1\n{line}\n")
    with pytest.raises(ConfigError, match=r"nodeagent\.toml"):
        read(f"--config={file}")
    file.write_text("kind: Pod\n")
    assert manifest_path(read(f"--config={file}")) == file


def test_two_names_for_the_manifests_have_to_agree() -> None:
    assert manifest_path(read("--config=/m", "--pod-manifest-path=/m/")) == Path("/m")
    assert manifest_path(read("--pod-manifest-path=/m")) == Path("/m")
    with pytest.raises(ConfigError, match="leave one out"):
        manifest_path(read("--config=/m", "--pod-manifest-path=/n"))


def test_without_any_source_of_pods_there_is_nothing_to_run() -> None:
    with pytest.raises(ConfigError, match="--api-servers or --kubeconfig"):
        sources(read())
    assert sources(read("--kubeconfig=/k")) == Sources(api=True, manifests=None)
    assert sources(read("--config=/m")) == Sources(api=False, manifests=Path("/m"))


def test_api_servers_become_urls_and_their_faults_name_the_flag(tmp_path: Path) -> None:
    assert api_config(read("--config=/m")) is None
    config = api_config(read("--api-servers=10.0.0.1:8080,http://10.0.0.2:8080/"))
    assert config is not None
    assert config.servers == ("http://10.0.0.1:8080", "http://10.0.0.2:8080")
    with pytest.raises(ConfigError, match="flag --api-servers: api-servers: 'x://'"):
        api_config(read("--api-servers=http://a,x://"))
    with pytest.raises(ConfigError, match="flag --kubeconfig: kubeconfig: /nowhere"):
        api_config(read("--kubeconfig=/nowhere"))
    file = tmp_path / "kubeconfig"
    file.write_text("clusters: [{name: c, cluster: {server: 'ftp://x'}}]\n"
                    "contexts: [{name: c, context: {cluster: c}}]\n")  # fmt: skip
    with pytest.raises(ConfigError, match="flag --kubeconfig: kubeconfig: 'ftp://x'"):
        api_config(read(f"--kubeconfig={file}"))


def test_docker_answers_where_either_flag_says() -> None:
    assert docker_socket(read()) == Path("/var/run/docker.sock")
    one = read("--container-runtime-endpoint=unix:///run/x/docker.sock")
    assert docker_socket(one) == Path("/run/x/docker.sock")
    assert docker_socket(read("--docker-endpoint=/run/y.sock")) == Path("/run/y.sock")


@pytest.mark.parametrize(
    ("given", "size"),
    [("10Mi", 10 * 2**20), ("10m", 10**7), ("5M", 5 * 10**6), ("300", 300), ("1Ki", 1024)],
)
def test_log_sizes_are_quantities_or_dockers_notation(given: str, size: int) -> None:
    assert log_max_size(read(f"--container-log-max-size={given}")) == str(size)


def test_pulls_are_parallel_unless_serialized() -> None:
    assert parallel_pulls(read()) == 4
    assert parallel_pulls(read("--serialize-image-pulls")) == 1
    assert parallel_pulls(read("--max-parallel-image-pulls=2")) == 2


def test_what_the_node_shows_and_keeps_back_is_typed() -> None:
    settings = read(
        "--node-labels=a=1", "--node-labels=b=", "--register-with-taints=k=v:NoExecute",
        "--system-reserved=cpu=500m,memory=1Gi", "--kube-reserved=cpu=250m",
    )  # fmt: skip
    assert node_labels(settings) == {"a": "1", "b": ""}
    assert node_taints(settings) == ({"key": "k", "value": "v", "effect": "NoExecute"},)
    assert reserved(settings) == {"cpu": Fraction(3, 4), "memory": 2**30}
    assert len(eviction(settings)) == 4
    assert eviction(read("--eviction-hard=")) == ()
    with pytest.raises(ConfigError, match="flag --system-reserved: system-reserved: cpu"):
        reserved(read("--system-reserved=cpu=1", "--system-reserved=cpu=2"))


VALUED = [option.name for option in OPTIONS if not option.is_boolean and option.name != "settings"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(VALUED), st.text(max_size=40))
def test_any_text_for_any_flag_is_taken_or_refused_in_words(name: str, value: str) -> None:
    try:
        found = read(f"--{name}={value}")
    except ConfigError as error:
        assert name in str(error)
    else:
        assert found.origins[name] == f"flag --{name}"


def test_folders_lie_below_the_root_unless_named() -> None:
    settings = read("--root-dir=/r")
    assert (cert_dir(settings), seccomp_root(settings)) == (Path("/r/pki"), Path("/r/seccomp"))
    assert cert_dir(read("--cert-dir=/c")) == Path("/c")
    assert seccomp_root(read("--seccomp-profile-root=/s")) == Path("/s")
