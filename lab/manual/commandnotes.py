"""Prose of the pages of ``barenode`` and of its commands.

A command that has none here still gets a page, of what its parser tells.
"""

from lab.join.model import RECORD_FILE
from lab.manual.notes import Example, Notes

SUMMARY = "make this host a Kubernetes node, or a whole cluster on one machine"

_STATUS = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage"),
    ("3", "no such lab or node"),
    ("4", "busy, or already there"),
    ("5", "this machine lacks something; the message names it"),
    ("130", "interrupted"),
)
_HOST_FILES = (
    ("/etc/kubernetes/pki", "certificates and keys, in kubeadm's layout"),
    ("/etc/netd/conf.d/50-cluster.toml", "netd's settings for this cluster"),
    ("/etc/nodeagent/conf.d/50-cluster.toml", "nodeagent's settings for this cluster"),
    (RECORD_FILE, "what this host has become"),
)
_MASTERS_DATA = (
    ("/var/lib/etcd", "the cluster's objects"),
    ("/var/lib/etcd-network", "leases of the overlay network"),
)
_LAB_ENVIRONMENT = (
    ("BARENODE_DATA", "folder of labs' disks (default: `/var/lib/barenode`)"),
    ("BARENODE_CACHE", "folder of images and packages (default: `/var/cache/barenode`)"),
)
_HOST_PAGES = ("barenode-init(8)", "barenode-join(8)", "barenode-token(8)", "barenode-reset(8)")

BARENODE = Notes(
    description=(
        "`barenode` is the operator's command beside the daemons `netd`(8) and `nodeagent`(8)."
        " `init` makes a host the first master of a cluster, `join` makes further hosts its"
        " nodes, `reset` takes either back. `lab` makes whole clusters of namespaces on one"
        " machine, to try things out and to develop.",
        "Progress and errors go to standard error, results to standard output. Commands with"
        " `--json` print one document for programs.",
    ),
    status=_STATUS,
    environment=_LAB_ENVIRONMENT,
    examples=(
        Example(("barenode init",), "Make this host the first master of a new cluster:"),
        Example(
            ("barenode token create --print-join-command",),
            "On that master, print the line that makes another host a node:",
        ),
        Example(("source <(barenode completion bash)",), "Completion in a running bash:"),
    ),
    see=("netd(8)", "nodeagent(8)", "netd.toml(5)", "nodeagent.toml(5)"),
)

COMMANDS = {
    "init": Notes(
        description=(
            "Makes this host the first master of a new cluster: certificates, two small etcds,"
            " the API server, the controller manager and the scheduler as static pods, and the"
            " settings of netd and nodeagent. It enables and starts both services, waits until the"
            " node is Ready and prints the line with which other hosts join.",
            "It can be repeated: what is there and right stays, what is missing is made, and a"
            " new join line is printed. On a host that is a worker it refuses, and so it does"
            " where the ranges are other than those of the cluster.",
            "Such a cluster has one master. For several, `barenode-host`(8) makes each master's"
            " files.",
        ),
        files=(
            *_HOST_FILES,
            ("/etc/kubernetes/admin.conf", "the administrator's kubeconfig"),
            ("/etc/kubernetes/manifests", "static pods of the control plane"),
            *_MASTERS_DATA,
        ),
        environment=_LAB_ENVIRONMENT[1:],
        examples=(
            Example(("barenode init --address 192.168.33.10",), "On a host with several networks:"),
            Example(
                ("kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes",),
                "Afterwards, on that host:",
            ),
        ),
        see=_HOST_PAGES[1:],
    ),
    "join": Notes(
        description=(
            "Makes this host a node of the cluster whose API server is at `ADDRESS`. The server's"
            " CA is checked against `--ca-hash`, without which there is no join; the token then"
            " opens the cluster's configuration and lets the host ask for certificates of its own."
            " It enables and starts netd and nodeagent and waits until the node is Ready.",
            "`barenode token create --print-join-command` on a master prints the whole line. A"
            " wrong or expired token, a clock that differs, an address or a name that another"
            " node has and a port that cannot be reached are each told in a sentence that says"
            " what to do.",
            "It can be repeated: a join that was cut short goes on where it stopped, and on a host"
            " that is a node of this cluster already it says so and exits with 0.",
            "The node's own certificate is renewed with `--renew`, which the package does once a"
            " day and which does nothing while much of its life is left.",
        ),
        files=(
            *_HOST_FILES,
            ("/etc/kubernetes/nodeagent.conf", "the node's kubeconfig; it names files of keys"),
        ),
        examples=(
            Example(
                (
                    "barenode join 192.168.33.10:6443 --token abcdef.0123456789abcdef \\",
                    "    --ca-hash sha256:HASH",
                ),
                "As the master printed it, with another token and hash:",
            ),
        ),
        see=("barenode-init(8)", "barenode-token(8)", "barenode-reset(8)"),
    ),
    "reset": Notes(
        description=(
            "Takes back what `init` or `join` made of this host: the Node object, the pods, the"
            " overlay network with its rules, certificates, settings and, on a master, the"
            " cluster's data. Both services are stopped and disabled. A Docker that followed netd"
            " is restarted, so that it makes its own bridge again.",
            "On a terminal it asks before it begins, elsewhere it wants `--yes`. Each step stands"
            " by itself: one that fails is named, and the others are done. What somebody else put"
            " beside it stays and is named.",
            "The data of a master is the whole cluster's: reset, or a purge of the package, which"
            " does the same, ends it for all nodes.",
        ),
        files=(*_HOST_FILES, *_MASTERS_DATA),
        examples=(Example(("barenode reset --yes",), "Without a question:"),),
        see=("barenode-init(8)", "barenode-join(8)", "netd(8)", "nodeagent(8)"),
    ),
    "token": Notes(
        description=(
            "Makes, lists and deletes the tokens with which hosts join. A token ends by itself"
            " after a time. Its secret part is shown once, when it is made; what a node needs"
            " later is its own certificate and not the token.",
            "To be run on a master, where it uses `/etc/kubernetes/admin.conf`, or elsewhere with a"
            " copy of that file by `--kubeconfig`.",
        ),
        files=(("/etc/kubernetes/admin.conf", "the administrator's kubeconfig"),),
        examples=(
            Example(
                ("barenode token create --ttl 1h --print-join-command",),
                "A line for one more host, good for an hour:",
            ),
            Example(("barenode token list",), "Which tokens there are, and when they end:"),
        ),
        see=("barenode-init(8)", "barenode-join(8)"),
    ),
    "lab": Notes(
        description=(
            "Makes clusters on one machine. Each host is a set of namespaces with a disk of its"
            " own, in which real etcd, dockerd, netd and nodeagent run. The machine's own network"
            " and an installed Docker are not touched. It needs root.",
            "With `--control-plane kubernetes` masters run a real Kubernetes in static pods. Its"
            " commands are built from Debian's source package the first time, which takes 4 to"
            " 20 minutes, unless they are given.",
            "`exec` and `kubectl` exit as their command did.",
        ),
        status=_STATUS,
        environment=_LAB_ENVIRONMENT,
        files=(
            ("/run/barenode/labs", "labs that are up"),
            ("/var/lib/barenode/labs", "their disks and keys"),
            ("/var/cache/barenode", "images and packages"),
        ),
        examples=(
            Example(
                ("barenode lab up --nodes 3", "barenode lab exec node1 -- bash"),
                "Three nodes, and a shell in one of them:",
            ),
            Example(
                (
                    "barenode lab up --name k8s --control-plane kubernetes",
                    "barenode lab kubectl --name k8s -- get pods -A",
                    "barenode lab down --name k8s",
                ),
                "A real Kubernetes, a look at its pods, and its end:",
            ),
        ),
        see=("barenode(8)", "barenode-image(8)", "namespaces(7)"),
    ),
    "pki": Notes(
        description=(
            "Makes, shows and renews the certificates of a control plane on hosts of one's own."
            " Files have kubeadm's names. Everything can be repeated: what fits and lasts stays."
            " Damaged or foreign files are named, and nothing is overwritten.",
            "Keep the keys of the CAs safe: whoever has them is the cluster's administrator.",
        ),
        files=(("/etc/kubernetes/pki", "certificates and keys"),),
        examples=(
            Example(("barenode pki show",), "When which certificate ends:"),
            Example(("barenode pki renew",), "Those that end soon, anew:"),
        ),
        see=("barenode-host(8)", "barenode-init(8)"),
    ),
    "host": Notes(
        description=(
            "Writes all files that make a host a master or a worker of a cluster: certificates,"
            " kubeconfigs, settings of netd and nodeagent and, for a master, the manifests of its"
            " static pods. This is the way to three or five masters, and to hosts that are"
            " prepared elsewhere; for one master `barenode-init`(8) does it all.",
            "Every host of a cluster is prepared with the same `--pki-dir`.",
        ),
        see=("barenode-pki(8)", "barenode-init(8)", "netd.toml(5)", "nodeagent.toml(5)"),
    ),
    "image": Notes(
        description=(
            "Builds archives for `docker load` without a registry: from Debian's packages, or,"
            " for `hyperkube`, from Kubernetes' commands.",
        ),
        environment=_LAB_ENVIRONMENT[1:],
        examples=(
            Example(
                ("barenode image build nginx -o nginx.tar", "docker load -i nginx.tar"),
                "An image of nginx:",
            ),
        ),
        see=("barenode-lab(8)", "docker(1)"),
    ),
    "completion": Notes(
        description=(
            "Prints a script that lets a shell complete the words of `barenode`, `netd` and"
            " `nodeagent`: commands, flags, values and the names of files, labs and interfaces."
            " The package has it installed.",
        ),
        examples=(Example(("source <(barenode completion bash)",), "For the running shell:"),),
        see=("bash(1)",),
    ),
}


def notes_of(name: str) -> Notes:
    """The prose of the page of ``barenode NAME``, with what all of them share."""
    own = COMMANDS.get(name, Notes())
    status = own.status or tuple(one for one in _STATUS if one[0] != "3")
    see = own.see if "barenode(8)" in own.see else ("barenode(8)", *own.see)
    return Notes(
        own.description, status, own.signals, own.environment, own.files, own.examples, see
    )
