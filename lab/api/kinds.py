"""The kinds that the lab's API server keeps, and their places below ``/api`` and ``/apis``."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object.

    ``fields`` are the paths, besides name and namespace, that a field selector may name;
    ``generation`` tells that ``metadata.generation`` counts the changes of what is wished.
    """

    group: str
    version: str
    name: str
    plural: str
    short: tuple[str, ...] = ()
    namespaced: bool = True
    status: bool = False
    scale: bool = False
    generation: bool = False
    in_all: bool = False
    fields: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The plural with its group, as error messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified(self) -> str:
        """The kind with its group, as messages about invalid objects name it."""
        return f"{self.name}.{self.group}" if self.group else self.name

    @property
    def root(self) -> str:
        """The URL path of its group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


NAMESPACE = Kind(
    "", "v1", "Namespace", "namespaces", ("ns",), namespaced=False, status=True,
    fields=("status.phase",),
)  # fmt: skip
NODE = Kind(
    "", "v1", "Node", "nodes", ("no",), namespaced=False, status=True,
    fields=("spec.unschedulable",),
)  # fmt: skip
POD = Kind(
    "", "v1", "Pod", "pods", ("po",), status=True, in_all=True,
    fields=("spec.nodeName", "spec.restartPolicy", "status.phase", "status.podIP"),
)  # fmt: skip
SERVICE = Kind("", "v1", "Service", "services", ("svc",), status=True, in_all=True)
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints", ("ep",))
REPLICATION_CONTROLLER = Kind(
    "", "v1", "ReplicationController", "replicationcontrollers", ("rc",), status=True, scale=True,
    generation=True, in_all=True, fields=("status.replicas",),
)  # fmt: skip
EVENT = Kind(
    "", "v1", "Event", "events", ("ev",),
    fields=(
        *(f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid", "apiVersion",
                                                "resourceVersion", "fieldPath")),
        "reason", "source", "type",
    ),
)  # fmt: skip
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps", ("cm",))
SECRET = Kind("", "v1", "Secret", "secrets", fields=("type",))
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts", ("sa",))
VOLUME = Kind(
    "", "v1", "PersistentVolume", "persistentvolumes", ("pv",), namespaced=False, status=True
)  # fmt: skip
CLAIM = Kind(
    "", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", ("pvc",), status=True
)  # fmt: skip
DEPLOYMENT = Kind(
    "apps", "v1", "Deployment", "deployments", ("deploy",), status=True, scale=True,
    generation=True, in_all=True,
)  # fmt: skip
REPLICA_SET = Kind(
    "apps", "v1", "ReplicaSet", "replicasets", ("rs",), status=True, scale=True,
    generation=True, in_all=True,
)  # fmt: skip
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", generation=True)
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")

KINDS = (
    CONFIG_MAP, ENDPOINTS, EVENT, NAMESPACE, NODE, POD, REPLICATION_CONTROLLER, SECRET,
    SERVICE_ACCOUNT, SERVICE, DEPLOYMENT, REPLICA_SET, LEASE, ENDPOINT_SLICE, VOLUME, CLAIM,
)  # fmt: skip

BY_PLURAL = {(kind.root, kind.plural): kind for kind in KINDS}
BY_RESOURCE = {kind.plural: kind for kind in KINDS}
