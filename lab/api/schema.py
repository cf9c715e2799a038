"""The fields of the kinds: their types, and by which key a strategic merge joins lists.

``TYPES`` is Kubernetes 1.32's published API, one type a line: its name, then ``field:type``.
No type means string; ``[T]`` is a list, ``[T]@key`` one whose items are merged by that key,
``[str]@`` a set; ``any`` is passed on as it comes. ``conform`` checks an object against it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.api.kinds import KINDS, Kind
from lab.api.objects import Json, bad_request

TYPES = """
ObjectMeta name generateName namespace selfLink uid resourceVersion generation:int creationTimestamp deletionTimestamp deletionGracePeriodSeconds:int labels:map annotations:map ownerReferences:[OwnerReference]@uid finalizers:[str]@ managedFields:any
OwnerReference apiVersion kind name uid controller:bool blockOwnerDeletion:bool
ObjectReference kind namespace name uid apiVersion resourceVersion fieldPath
LocalReference name
Condition type status reason message lastTransitionTime lastProbeTime lastUpdateTime lastHeartbeatTime observedGeneration:int
LabelSelector matchLabels:map matchExpressions:[Expression]
Expression key operator values:[str]
Namespace spec:NamespaceSpec status:NamespaceStatus
NamespaceSpec finalizers:[str]
NamespaceStatus phase conditions:[Condition]@type
Node spec:NodeSpec status:NodeStatus
NodeSpec podCIDR podCIDRs:[str]@ providerID unschedulable:bool taints:[Taint] configSource:any externalID
Taint key value effect timeAdded
NodeStatus capacity:any allocatable:any phase conditions:[Condition]@type addresses:[NodeAddress]@type daemonEndpoints:any nodeInfo:any images:any volumesInUse:[str] volumesAttached:any config:any runtimeHandlers:any features:any
NodeAddress type address
Pod spec:PodSpec status:PodStatus
PodTemplate metadata:ObjectMeta spec:PodSpec
PodSpec volumes:[Volume]@name initContainers:[Container]@name containers:[Container]@name ephemeralContainers:[Container]@name restartPolicy terminationGracePeriodSeconds:int activeDeadlineSeconds:int dnsPolicy nodeSelector:map serviceAccountName serviceAccount automountServiceAccountToken:bool nodeName hostNetwork:bool hostPID:bool hostIPC:bool shareProcessNamespace:bool securityContext:any imagePullSecrets:[LocalReference]@name hostname subdomain affinity:any schedulerName tolerations:[Toleration] hostAliases:[HostAlias]@ip priorityClassName priority:int dnsConfig:DnsConfig readinessGates:any runtimeClassName enableServiceLinks:bool preemptionPolicy overhead:any topologySpreadConstraints:any setHostnameAsFQDN:bool os:any hostUsers:bool schedulingGates:any resourceClaims:any resources:any
Toleration key operator value effect tolerationSeconds:int
HostAlias ip hostnames:[str]
DnsConfig nameservers:[str] searches:[str] options:[any]
Volume name hostPath:any emptyDir:any secret:any configMap:any downwardAPI:any projected:any gcePersistentDisk:any awsElasticBlockStore:any gitRepo:any nfs:any iscsi:any glusterfs:any persistentVolumeClaim:any rbd:any flexVolume:any cinder:any cephfs:any flocker:any fc:any azureFile:any vsphereVolume:any quobyte:any azureDisk:any photonPersistentDisk:any portworxVolume:any scaleIO:any storageos:any csi:any ephemeral:any image:any
Container name image command:[str] args:[str] workingDir ports:[ContainerPort]@containerPort envFrom:any env:[EnvVar]@name resources:Resources resizePolicy:any restartPolicy volumeMounts:[VolumeMount]@mountPath volumeDevices:any livenessProbe:Probe readinessProbe:Probe startupProbe:Probe lifecycle:any terminationMessagePath terminationMessagePolicy imagePullPolicy securityContext:any stdin:bool stdinOnce:bool tty:bool targetContainerName
ContainerPort name hostPort:int containerPort:int protocol hostIP
EnvVar name value valueFrom:any
Resources limits:any requests:any claims:any
VolumeMount name readOnly:bool recursiveReadOnly mountPath subPath subPathExpr mountPropagation
Probe httpGet:HttpGet tcpSocket:TcpSocket exec:any grpc:any initialDelaySeconds:int timeoutSeconds:int periodSeconds:int successThreshold:int failureThreshold:int terminationGracePeriodSeconds:int
HttpGet path port:port host scheme httpHeaders:any
TcpSocket port:port host
PodStatus phase conditions:[Condition]@type message reason nominatedNodeName hostIP hostIPs:[Ip]@ip podIP podIPs:[Ip]@ip startTime initContainerStatuses:[any] containerStatuses:[any] qosClass ephemeralContainerStatuses:[any] resize resourceClaimStatuses:any
Ip ip
Service spec:ServiceSpec status:ServiceStatus
ServiceSpec ports:[ServicePort]@port selector:map clusterIP clusterIPs:[str] type externalIPs:[str] sessionAffinity loadBalancerIP loadBalancerSourceRanges:[str] externalName externalTrafficPolicy healthCheckNodePort:int publishNotReadyAddresses:bool sessionAffinityConfig:AffinityConfig ipFamilies:[str] ipFamilyPolicy allocateLoadBalancerNodePorts:bool loadBalancerClass internalTrafficPolicy trafficDistribution topologyKeys:[str]
ServicePort name protocol appProtocol port:int targetPort:port nodePort:int
AffinityConfig clientIP:ClientIp
ClientIp timeoutSeconds:int
ServiceStatus loadBalancer:LoadBalancer conditions:[Condition]@type
LoadBalancer ingress:[Ingress]
Ingress ip hostname ipMode ports:any
Endpoints subsets:[Subset]
Subset addresses:[Address] notReadyAddresses:[Address] ports:[EndpointPort]
Address ip hostname nodeName targetRef:ObjectReference
EndpointPort name port:int protocol appProtocol
EndpointSlice addressType endpoints:[Endpoint] ports:[EndpointPort]
Endpoint addresses:[str] conditions:EndpointConditions hostname targetRef:ObjectReference deprecatedTopology:map nodeName zone hints:any
EndpointConditions ready:bool serving:bool terminating:bool
ReplicationController spec:ReplicationControllerSpec status:ReplicaStatus
ReplicationControllerSpec replicas:int minReadySeconds:int selector:map template:PodTemplate
ReplicaSet spec:ReplicaSetSpec status:ReplicaStatus
ReplicaSetSpec replicas:int minReadySeconds:int selector:LabelSelector template:PodTemplate
ReplicaStatus replicas:int fullyLabeledReplicas:int readyReplicas:int availableReplicas:int observedGeneration:int terminatingReplicas:int conditions:[Condition]@type
Deployment spec:DeploymentSpec status:DeploymentStatus
DeploymentSpec replicas:int selector:LabelSelector template:PodTemplate strategy:Strategy minReadySeconds:int revisionHistoryLimit:int paused:bool progressDeadlineSeconds:int
Strategy type rollingUpdate:RollingUpdate
RollingUpdate maxUnavailable:port maxSurge:port
DeploymentStatus observedGeneration:int replicas:int updatedReplicas:int readyReplicas:int availableReplicas:int unavailableReplicas:int terminatingReplicas:int collisionCount:int conditions:[Condition]@type
Event involvedObject:ObjectReference reason message source:any firstTimestamp lastTimestamp count:int type eventTime series:any action related:ObjectReference reportingComponent reportingInstance
ConfigMap data:map binaryData:map immutable:bool
Secret data:map stringData:map type immutable:bool
ServiceAccount secrets:[ObjectReference]@name imagePullSecrets:[LocalReference]@name automountServiceAccountToken:bool
Lease spec:LeaseSpec
LeaseSpec holderIdentity leaseDurationSeconds:int acquireTime renewTime leaseTransitions:int strategy preferredHolder
PersistentVolume spec:VolumeSpec status:VolumeStatus
VolumeSpec capacity:any accessModes:[str] claimRef:ObjectReference persistentVolumeReclaimPolicy storageClassName mountOptions:[str] volumeMode nodeAffinity:any hostPath:any local:any nfs:any csi:any
VolumeStatus phase message reason lastPhaseTransitionTime
PersistentVolumeClaim spec:ClaimSpec status:ClaimStatus
ClaimSpec accessModes:[str] selector:LabelSelector resources:Resources volumeName storageClassName volumeMode dataSource:any dataSourceRef:any
ClaimStatus phase accessModes:[str] capacity:any conditions:[Condition]@type
TokenRequest spec:TokenRequestSpec status:TokenRequestStatus
TokenRequestSpec audiences:[str] expirationSeconds:int boundObjectRef:BoundReference
BoundReference kind apiVersion name uid
TokenRequestStatus token expirationTimestamp
TokenReview spec:TokenReviewSpec status:any
TokenReviewSpec token audiences:[str]
SubjectAccessReview spec:any status:any
Scale spec:ScaleSpec status:ScaleStatus
ScaleSpec replicas:int
ScaleStatus replicas:int selector
Binding target:ObjectReference
"""  # noqa: E501 - a line a type


@dataclass(frozen=True, slots=True)
class Field:
    """A field's type; of a list, that of its items, and ``key`` ("": a set) if it is merged."""

    type: str
    many: bool = False
    key: str | None = None


def _parse(text: str) -> dict[str, dict[str, Field]]:
    types: dict[str, dict[str, Field]] = {}
    for line in text.split("\n"):
        name, *fields = line.split(" ")
        types[name] = {}
        for entry in fields:
            field, _, kind = entry.partition(":")
            kind, merged, key = (kind or "str").partition("@")
            types[name][field] = Field(kind.strip("[]"), "[" in kind, key if merged else None)
    others = ("Scale", "Binding", "TokenRequest", "TokenReview", "SubjectAccessReview")
    for name in (*(kind.name for kind in KINDS), *others):
        types[name] |= {"apiVersion": Field("str"), "kind": Field("str")}
        types[name]["metadata"] = Field("ObjectMeta")
    return types


FIELDS = _parse(TYPES.strip())

_BASIC: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "string"),
    "int": (lambda value: type(value) is int, "integer"),
    "bool": (lambda value: isinstance(value, bool), "boolean"),
    "port": (lambda value: type(value) is int or isinstance(value, str), "integer or string"),
    "map": (
        lambda value: isinstance(value, dict) and all(isinstance(v, str) for v in value.values()),
        "map of strings",
    ),
    "any": (lambda _: True, "anything"),
}


def conform(kind: Kind, obj: Json) -> tuple[Json, list[str]]:
    """A copy of *obj* with the fields of *kind* alone and no nulls, and the paths that it dropped.

    Raises 400 for a value of the wrong type.
    """
    unknown: list[str] = []
    try:
        return _struct(kind.name, obj, "", unknown), unknown
    except _WrongTypeError as error:
        raise bad_request(
            f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: {error}'
        ) from error


class _WrongTypeError(Exception):
    def __init__(self, path: str, value: object, wanted: str) -> None:
        names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "integer"}
        found = names.get(type(value), "number")
        super().__init__(f"{path or 'the object'}: expected {wanted}, found {found}")


def _struct(type_name: str, obj: object, path: str, unknown: list[str]) -> Json:
    if not isinstance(obj, dict):
        raise _WrongTypeError(path, obj, "object")
    fields = FIELDS[type_name]
    clean: Json = {}
    for name, value in obj.items():
        where = f"{path}.{name}" if path else name
        field = fields.get(name)
        if field is None:
            unknown.append(where)
        elif value is not None:
            clean[name] = _value(field, value, where, unknown)
    return clean


def _value(field: Field, value: object, path: str, unknown: list[str]) -> Any:
    if not field.many:
        return _one(field.type, value, path, unknown)
    if not isinstance(value, list):
        raise _WrongTypeError(path, value, "list")
    return [_one(field.type, one, f"{path}[{at}]", unknown) for at, one in enumerate(value)]


def _one(type_name: str, value: object, path: str, unknown: list[str]) -> Any:
    if type_name not in _BASIC:
        return _struct(type_name, value, path, unknown)
    if type_name == "map" and isinstance(value, dict):
        value = {key: "" if one is None else one for key, one in value.items()}
    fits, wanted = _BASIC[type_name]
    if not fits(value):
        raise _WrongTypeError(path, value, wanted)
    return value
