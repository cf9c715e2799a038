"""Prose of the pages of netd and nodeagent, and of their files of settings."""

from lab.manual.model import Operand, Value
from lab.manual.notes import Example, Notes, SettingsNotes

NETD_SUMMARY = "network daemon of a Kubernetes node: overlay and services"
NODEAGENT_SUMMARY = "pod agent of a Kubernetes node, through the Docker Engine"

NETD_OPERANDS = {
    "explain": Operand(
        Value("TARGET"),
        "`NAMESPACE/NAME` or `NAME`, either with `:PORT`; an address such as `10.0.0.7`,"
        " `10.0.0.7:80` or `10.0.0.7:53/udp`; or a node port such as `30061`",
    )
}

_FLAGS = (
    "A flag is written `-name` or `--name`, its value as a word of its own or after `=`. A switch"
    " stands alone, or takes `=true` or `=false`. An underscore in a name counts as a dash. Each"
    " flag but those that ask for an answer is also a setting of"
)
_DISABLED = (
    "The package installs the service disabled. `barenode`(8) `init` and `join` write its settings"
    " and enable it; who writes them by hand runs"
)
_DROP_IN_FOLDER = "further settings, sorted by name; what `barenode init` and `join` write is here"
_VARIABLES = "environment of both services: NAME=VALUE lines, read by systemd when it starts them"

NETD = Notes(
    description=(
        "`netd` keeps a host in flannel's overlay network and balances the services of Kubernetes"
        " on it. It does what flanneld does, in flannel's formats in etcd and on the host, and what"
        " kube-proxy does, and it takes the flags of both. Hosts with flanneld may be in the same"
        " overlay.",
        "The overlay half leases a subnet in etcd, makes the VXLAN device with its routes,"
        " neighbours and forwarding entries, gives Docker's bridge its address and tells dockerd"
        " about it. The services half follows an API server and writes rules for iptables. It is"
        " on when an API server is named.",
        "Whatever others change or remove of it, netd puts right. Without etcd it comes up from"
        " its saved state after three seconds. Losing etcd or the API server stops no traffic, nor"
        " does stopping netd: what it made stays until `netd cleanup`.",
        f"{_DISABLED} `systemctl enable --now netd`.",
        f"{_FLAGS} `netd.toml`(5).",
    ),
    status=(
        ("0", "done; `run` ended by SIGTERM or SIGINT; `explain`: somebody would answer"),
        ("1", "failed; `explain`: nothing is known of the target, or nobody would answer"),
        ("2", "wrong usage, or a setting that cannot be used"),
        ("3", "`status`, `explain`: netd is not running"),
        ("4", "`status`: netd runs but is not ready"),
        ("130", "interrupted from the keyboard"),
    ),
    signals=(
        ("SIGTERM, SIGINT", "end `run`; devices, rules, files and the lease stay"),
        (
            "SIGHUP",
            "read the settings again. Changed ones come into force without a moment in which the"
            " network is down; bad ones are named in the log and by `netd status`, and the old"
            " ones stay",
        ),
    ),
    environment=(
        ("FLANNELD_NAME", "the setting `name`, in upper case with `_` for `-`"),
        ("NETD_NAME", "the same, stronger"),
    ),
    files=(
        ("/etc/netd/netd.toml", "settings, see `netd.toml`(5)"),
        ("/etc/netd/conf.d/*.toml", _DROP_IN_FOLDER),
        ("/etc/default/barenode", _VARIABLES),
        ("/run/flannel/subnet.env", "subnet and MTU, in flannel's format"),
        ("/run/docker_opts.env", "options for dockerd, read by Docker's unit"),
        ("/run/netd/netd.sock", "control socket, which `netd status` asks"),
        ("/var/lib/netd/state.json", "what a boot without etcd needs: subnet, MAC, peers"),
    ),
    examples=(
        Example(("netd status",), "Lease, etcd, peers, services, repairs and problems:"),
        Example(("netd explain default/nginx",), "The path of a packet to a service:"),
        Example(("netd explain 10.0.0.7:53/udp --json",), "The same for an address, for programs:"),
        Example(("netd --print-config",), "Every setting, and where it came from:"),
        Example(
            ("systemctl stop netd", "netd cleanup --services=off"),
            "Take the overlay away and leave the services:",
        ),
    ),
    see=("netd.toml(5)", "nodeagent(8)", "barenode(8)", "systemctl(1)", "iptables(8)"),
)

NODEAGENT = Notes(
    description=(
        "`nodeagent` makes a host a Kubernetes node: it registers it, runs the pods that the"
        " scheduler binds to it and those of manifests in a folder through the Docker Engine,"
        " heals them and reports their state. It takes the kubelet's place with the kubelet's"
        " flags, ports and names of metrics. The network is Docker's bridge, which `netd`(8) sets"
        " up.",
        "Stopping nodeagent stops no pod; the next start adopts what runs. A Docker that hangs"
        " makes the node NotReady and not nodeagent fail. What it does not do for a pod it says:"
        " such a pod gets the phase Failed and a sentence for each field.",
        "At least one of `--api-servers`, `--kubeconfig` and `--config` has to be given. Note that"
        " `--config` is the kubelet's older flag of that name and names manifests of pods; the"
        " file with settings is `--settings`. Flags of the kubelet that are not listed are taken"
        " where they ask for nothing that is not done.",
        f"{_DISABLED} `systemctl enable --now nodeagent`.",
        f"{_FLAGS} `nodeagent.toml`(5).",
    ),
    status=(
        ("0", "done; `run` ended by SIGTERM or SIGINT"),
        ("1", "failed"),
        ("2", "wrong usage, or a setting that cannot be used"),
        ("3", "`status`: nodeagent is not running"),
        ("4", "`status`: nodeagent runs but is not ready"),
        ("130", "interrupted from the keyboard"),
    ),
    signals=(
        ("SIGTERM, SIGINT", "end `run`; containers, volumes and cgroups stay"),
        (
            "SIGHUP",
            "read the settings again. Changed ones come into force and no container is restarted;"
            " bad ones are named in the log and by `nodeagent status`, and the old ones stay",
        ),
    ),
    environment=(
        ("KUBELET_NAME", "the setting `name`, in upper case with `_` for `-`"),
        ("NODEAGENT_NAME", "the same, stronger"),
    ),
    files=(
        ("/etc/nodeagent/nodeagent.toml", "settings, see `nodeagent.toml`(5)"),
        ("/etc/nodeagent/conf.d/*.toml", _DROP_IN_FOLDER),
        ("/etc/default/barenode", _VARIABLES),
        ("/run/nodeagent/nodeagent.sock", "control socket, which `nodeagent status` asks"),
        ("/var/lib/kubelet", "volumes and files of pods, as the kubelet has them"),
    ),
    examples=(
        Example(("nodeagent status",), "Node, pods, back-offs, manifests and problems:"),
        Example(
            ("nodeagent run --config=/etc/kubernetes/manifests",),
            "Run the pods of a folder of manifests, without an API server:",
        ),
        Example(("nodeagent --print-config",), "Every setting, and where it came from:"),
    ),
    see=("nodeagent.toml(5)", "netd(8)", "barenode(8)", "systemctl(1)"),
)


def _settings(name: str, page: str, option: str, example: tuple[str, ...]) -> Notes:
    return Notes(
        description=(
            f"The settings of `{name}`(8), in TOML: `name = value`. Dashes in names may be written"
            " as underscores. Every line may be left out. A list of strings may also be one"
            " string with commas.",
            f"Weak to strong: defaults; the files `conf.d/*.toml` beside this one, sorted by name;"
            f" this file; the environment; flags of `{name}`(8). `{name} --print-config` shows"
            " every value and the place it came from. Names in `conf.d` that begin with a dot or"
            " end otherwise are not read.",
            "An unknown name or a value that cannot be used is refused with a sentence that names"
            f" file, setting and fix. After a change, `systemctl reload {name}`.",
            'A time is written in Go\'s notation (`"1h30m"`, `"250ms"`) or as a number of seconds.',
        ),
        files=(
            (f"/etc/{name}/{page}", f"this file, unless `--{option}` names another"),
            (f"/etc/{name}/conf.d/*.toml", _DROP_IN_FOLDER),
            ("/etc/default/barenode", _VARIABLES),
        ),
        examples=(Example(example, "A host's file:"),),
        see=(f"{name}(8)", "barenode(8)"),
    )


NETD_TOML = SettingsNotes(
    summary="settings of netd, the network daemon of a Kubernetes node",
    prefixes=("FLANNELD_", "NETD_"),
    file_option="config",
    notes=_settings(
        "netd",
        "netd.toml",
        "config",
        (
            'etcd-endpoints = ["http://10.0.0.10:2379", "http://10.0.0.11:2379"]',
            'iface = "eth1"',
            "ip-masq = true",
            'master = ["https://10.0.0.10:6443", "https://10.0.0.11:6443"]',
            'kube-cafile = "/etc/netd/ca.pem"',
            'kube-token-file = "/etc/netd/token"',
        ),
    ),
)

NODEAGENT_TOML = SettingsNotes(
    summary="settings of nodeagent, the pod agent of a Kubernetes node",
    prefixes=("KUBELET_", "NODEAGENT_"),
    file_option="settings",
    notes=_settings(
        "nodeagent",
        "nodeagent.toml",
        "settings",
        (
            'kubeconfig = "/etc/nodeagent/kubeconfig"',
            'config = "/etc/kubernetes/manifests"',
            'cluster-dns = ["10.0.0.10"]',
            'client-ca-file = "/etc/nodeagent/ca.pem"',
            "max-pods = 60",
        ),
    ),
)
