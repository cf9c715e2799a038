"""The kubelet's flags that nodeagent takes so that a unit file written for it goes on working.

Names are those of cmd/kubelet in Kubernetes 1.0 to 1.32. Those in ``UNUSED`` are harmless, and
``notes`` says why each is not used. ``REFUSED`` promise something that nodeagent does not keep:
the values that ask for nothing are taken, others raise ValueError with what to do instead.
"""

from collections.abc import Iterator

from hostkit.config import Option, Parser, Settings, boolean, text


def _only(accepted: str, why: str) -> Parser:
    """A parser for the words of *accepted*, nothing included."""
    words = {"", *accepted.split()}

    def parse(value: str) -> str:
        if value.strip() not in words:
            raise ValueError(why)
        return value.strip()

    return parse


def _must_be(wanted: bool, why: str) -> Parser:
    """A parser for a switch that has one position only."""

    def parse(value: str) -> bool:
        if boolean(value) is not wanted:
            raise ValueError(why)
        return wanted

    return parse


_DOCKER0 = "pods get their network from docker0, which netd sets up: leave it out"

_REFUSED_VALUES: tuple[tuple[str, str, str], ...] = (
    ("network-plugin", "kubenet", _DOCKER0),
    ("container-runtime", "docker", "nodeagent runs pods through Docker only: leave it out"),
    ("cloud-provider", "none", "nodeagent asks no cloud about this node: leave it out"),
    ("manifest-url", "", "manifests are read from files only: use --config"),
    ("bootstrap-kubeconfig", "", "nodeagent asks for no certificate: use --kubeconfig"),
    ("experimental-bootstrap-kubeconfig", "", "nodeagent asks for no certificate: use "
     "--kubeconfig"),
    ("auth-path", "", "use --kubeconfig"),
    ("dynamic-config-dir", "", "settings are read at the start from --settings: leave it out"),
    ("config-dir", "", "settings are read from one file: use --settings"),
    ("cpu-manager-policy", "none", "CPUs are shared, none is given to one container: leave it out"),
    ("memory-manager-policy", "None", "memory is not bound to NUMA nodes: leave it out"),
    ("topology-manager-policy", "none", "there is no topology manager: leave it out"),
    ("reserved-cpus", "", "CPUs are shared: use --system-reserved=cpu=..."),
    ("reserved-memory", "", "use --system-reserved=memory=..."),
    ("eviction-soft", "", "only hard thresholds are kept: use --eviction-hard"),
    ("enforce-node-allocatable", "none pods", "only pods are limited: use none or pods"),
    ("pods-per-core", "0", "use --max-pods"),
    ("pod-max-pids", "-1 0", "processes of pods are not counted: set default-pids-limit or "
     "--default-ulimit nproc in Docker"),
    ("process-limit", "-1 0", "processes of pods are not counted"),
    ("cpu-cfs-quota-period", "100ms 0.1s", "the period is 100ms: leave it out"),
    ("host-network-sources", "*", "pods are not told apart by their source: leave it out"),
    ("host-pid-sources", "*", "pods are not told apart by their source: leave it out"),
    ("host-ipc-sources", "*", "pods are not told apart by their source: leave it out"),
    ("provider-id", "", "set spec.providerID of the Node object with kubectl"),
    ("image-credential-provider-config", "", "credential plugins are not run: use imagePullSecrets "
     "or ~/.docker/config.json"),
    ("image-credential-provider-bin-dir", "", "credential plugins are not run: use "
     "imagePullSecrets or ~/.docker/config.json"),
    ("tls-cipher-suites", "", "ciphers cannot be chosen one by one: use "
     "--tls-min-version=VersionTLS13"),
)  # fmt: skip
"""Flag, values that are taken, what to do about others."""

_REFUSED_SWITCHES: tuple[tuple[str, bool, str], ...] = (
    ("allow-privileged", True, "nodeagent runs what the API server admits: forbid privileged pods "
     "there (PodSecurity), and leave this out"),
    ("configure-cbr0", False, _DOCKER0),
    ("cpu-cfs-quota", True, "limits of CPU time are always kept: leave it out"),
    ("protect-kernel-defaults", False, "nodeagent does not check sysctls of the host: leave it "
     "out"),
    ("runonce", False, "nodeagent keeps pods running: leave it out"),
    ("containerized", False, "nodeagent runs on the host itself: leave it out"),
    ("seccomp-default", False, "set seccompProfile in the pods, and leave this out"),
    ("exit-on-lock-contention", False, "nodeagent exits when another one runs: leave it out"),
)  # fmt: skip
"""Switch, its only position, what to do about the other."""

_UNUSED: tuple[tuple[str, str, str], ...] = (
    ("there is one cluster and one master namespace", "master-service-namespace", ""),
    (
        "nodeagent logs to standard error, and --v says how much",
        "log-dir log-file log-file-max-size log-backtrace-at log-flush-frequency logging-format "
        "log-json-info-buffer-size log-text-info-buffer-size stderrthreshold vmodule",
        "alsologtostderr logtostderr one-output skip-headers skip-log-headers add-dir-header "
        "log-json-split-stream log-text-split-stream",
    ),
    (
        "netd sees to the network",
        "cni-bin-dir cni-conf-dir cni-cache-dir network-plugin-dir network-plugin-mtu pod-cidr "
        "non-masquerade-cidr hairpin-mode iptables-masquerade-bit iptables-drop-bit",
        "reconcile-cidr make-iptables-util-chains experimental-flannel-overlay",
    ),
    ("Docker says which driver and folder it uses", "cgroup-driver docker-root", ""),
    (
        "nodeagent watches the API server, at no set rate",
        "kube-api-qps kube-api-burst kube-api-content-type http-check-frequency", "",
    ),
    ("pods are looked at when something happens, and once a minute", "sync-frequency", ""),
    ("pulls are bounded by --max-parallel-image-pulls", "registry-qps registry-burst", ""),
    ("a pull goes on as long as it makes progress", "image-pull-progress-deadline", ""),
    ("nodeagent has no such gates", "feature-gates show-hidden-metrics-for-version", ""),
    ("nodeagent runs with swap or without", "", "fail-swap-on experimental-fail-swap-on"),
    ("files named in the kubeconfig are read again when they change", "", "rotate-certificates"),
    (
        "nodeagent makes its own certificate unless --tls-cert-file is given, and renews it",
        "", "rotate-server-certificates",
    ),
    ("a kubeconfig is needed where the API server wants one", "", "require-kubeconfig"),
    (
        "the unit file can say it (Slice=, OOMScoreAdjust=, LimitNOFILE=)",
        "oom-score-adj runtime-cgroups system-cgroups kubelet-cgroups resource-container "
        "system-container docker-daemon-container cgroup-container max-open-files "
        "system-reserved-cgroup kube-reserved-cgroup qos-reserved",
        "",
    ),
    ("use --eviction-hard", "low-diskspace-threshold-mb outofdisk-transition-frequency", ""),
    (
        "there are only hard thresholds",
        "eviction-soft-grace-period eviction-max-pod-grace-period eviction-minimum-reclaim",
        "kernel-memcg-notification experimental-kernel-memcg-notification",
    ),
    (
        "dead containers are kept by --maximum-dead-containers-per-container",
        "maximum-dead-containers minimum-container-ttl-duration", "",
    ),
    ("volumes of ended pods are removed", "", "keep-terminated-pod-volumes"),
    (
        "volumes are those that nodeagent knows",
        "volume-plugin-dir volume-stats-agg-period",
        "enable-controller-attach-detach experimental-check-node-capabilities-before-mount",
    ),
    (
        "exec, attach and port-forward are not served",
        "streaming-connection-idle-timeout docker-exec-handler", "",
    ),
    (
        "figures are at /stats/summary and /metrics/resource of --port",
        "cadvisor-port housekeeping-interval global-housekeeping-interval "
        "containerd containerd-namespace container-hints docker docker-env-metadata-whitelist "
        "event-storage-age-limit event-storage-event-limit storage-driver-buffer-duration "
        "storage-driver-db storage-driver-host storage-driver-password storage-driver-table "
        "storage-driver-user machine-id-file boot-id-file application-metrics-count-limit",
        "enable-cadvisor-json-endpoints docker-only docker-tls log-cadvisor-usage "
        "enable-load-reader storage-driver-secure redirect-container-streaming",
    ),
    (
        "nodeagent has no profiling view",
        "", "profiling contention-profiling enable-profiling-handler",
    ),
    ("--run-dir has the lock", "lock-file", ""),
    ("the Node object shows the 50 largest images", "node-status-max-images", ""),
    (
        "a status without changes is sent every five minutes",
        "node-status-report-frequency node-lease-duration-seconds", "",
    ),
    ("no cloud is asked", "cloud-config azure-container-registry-config google-json-key", ""),
    ("CPUs are shared", "cpu-manager-reconcile-period topology-manager-scope", ""),
    ("images are asked of Docker", "image-service-endpoint", ""),
    ("manifests are read from files", "manifest-url-header", ""),
    ("it exists to test the kubelet", "chaos-chance", "really-crash-for-testing"),
    ("mount is found on PATH", "experimental-mounter-path", ""),
)  # fmt: skip
"""Why not, flags with a value, flags that stand alone."""


def _refused() -> Iterator[Option]:
    for name, accepted, why in _REFUSED_VALUES:
        yield Option(name, _only(accepted, why), "", "not supported", hidden=True, flag_only=True)
    for name, wanted, why in _REFUSED_SWITCHES:
        parse = _must_be(wanted, why)
        yield Option(name, parse, wanted, "not supported", hidden=True, flag_only=True)


def _unused() -> Iterator[tuple[Option, str]]:
    for why, valued, switches in _UNUSED:
        for names, parse, default in ((valued, text, ""), (switches, boolean, False)):
            for name in names.split():
                yield Option(name, parse, default, "not used", hidden=True, flag_only=True), why


REFUSED = tuple(_refused())
"""Flags that are taken with the values that ask for nothing."""

UNUSED = {option.name: why for option, why in _unused()}
"""Flags that are taken and not used, with the reason."""

ALL = REFUSED + tuple(option for option, _ in _unused())


def notes(settings: Settings) -> list[str]:
    """A sentence for each flag that was given and is not used."""
    return [
        f"--{name} is not used: {why}"
        for name, why in UNUSED.items()
        if settings.origins[name] != "default"
    ]
