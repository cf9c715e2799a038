"""What of a pod is refused, and what is not."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods.check import MOST_TOLD, problems_of
from nodeagent.pods.model import decode
from tests.nodeagent.pods.making import container, spec_of

VOLUME = {"name": "v", "emptyDir": {}}


def told(spec: dict[str, Any], **meta: Any) -> tuple[str, ...]:
    metadata = {"name": "p", "namespace": "shop", "uid": "0a-b"} | meta
    return problems_of(decode({"metadata": metadata, "spec": spec}), spec)


def of_container(**fields: Any) -> dict[str, Any]:
    return spec_of(container(**fields), volumes=[VOLUME])


def of_volume(**source: Any) -> dict[str, Any]:
    return spec_of(volumes=[{"name": "v", **source}])


def probed(**fields: Any) -> dict[str, Any]:
    probe = {"tcpSocket": {"port": 80}} | fields
    return of_container(livenessProbe={k: v for k, v in probe.items() if v is not None})


def mounted(**fields: Any) -> dict[str, Any]:
    return of_container(volumeMounts=[{"name": "v", "mountPath": "/v"} | fields])


def variable(**fields: Any) -> dict[str, Any]:
    return of_container(env=[{"name": "A"} | fields])


def secured(**fields: Any) -> dict[str, Any]:
    return of_container(securityContext=fields)


FROM_THE_API: dict[str, Any] = {
    "containers": [
        {
            "name": "web", "image": "nginx:1.25", "imagePullPolicy": "IfNotPresent",
            "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
            "readinessProbe": {
                "httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
            },
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1",
                                                          "fieldPath": "status.podIP"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu",
                                                                   "divisor": "0"}}},
                {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k.x"}}},
            ],
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "volumeMounts": [
                {"name": "token", "readOnly": True,
                 "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                {"name": "claim", "mountPath": "/data", "subPath": "a/b"},
            ],
            "securityContext": {"allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]}},
        }
    ],
    "initContainers": [{"name": "init", "image": "busybox", "resources": {}}],
    "ephemeralContainers": [],
    "volumes": [
        {"name": "token", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt",
                           "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {
                "apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
    ],
    "affinity": {"podAntiAffinity": {}}, "topologySpreadConstraints": [],
    "schedulerName": "default-scheduler", "priorityClassName": "high",
    "preemptionPolicy": "PreemptLowerPriority", "serviceAccount": "default",
    "serviceAccountName": "default", "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": True,
    "nodeName": "n1", "priority": 0, "os": {"name": "linux"}, "hostUsers": True,
    "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                     "effect": "NoExecute", "tolerationSeconds": 300}],
}  # fmt: skip


def test_a_pod_as_the_api_server_writes_it_is_fine() -> None:
    assert told(FROM_THE_API) == ()


def test_the_smallest_pod_is_fine() -> None:
    assert told(spec_of()) == ()


REFUSED: list[tuple[dict[str, Any], str]] = [
    # fields that nodeagent does not carry out
    (spec_of(ephemeralContainers=[{"name": "d"}]), "spec.ephemeralContainers: debug containers"),
    (spec_of(overhead={"cpu": "1"}), "spec.overhead: it goes with runtimeClassName"),
    (spec_of(hostUsers=False), "spec.hostUsers: user namespaces"),
    (spec_of(os={"name": "windows"}), "spec.os: this node runs Linux"),
    (spec_of(resourceClaims=[{"name": "x"}]), "spec.resourceClaims: devices"),
    (spec_of(serviceAccount="x"), "use spec.serviceAccountName"),
    (spec_of(securityContext={"windowsOptions": {"a": 1}}), "this node runs Linux"),
    (spec_of(restartpolicy="Never"), "spec.restartpolicy: nodeagent does not know this field"),
    (spec_of(**{"a.b[0]": 1}), "spec.a.b[0]: nodeagent does not know this field"),
    (of_container(volumeDevices=[{"name": "x"}]), "raw block devices are not supported"),
    (of_container(restartPolicy="Always"), "spec.containers[0].restartPolicy: containers have"),
    (spec_of(initContainers=[container("i", restartPolicy="Always")]), "no sidecar containers"),
    (of_container(resources={"claims": [{"name": "x"}]}), "devices by resource claims"),
    (of_container(lifecycle={"stopSignal": "SIGINT"}), "use STOPSIGNAL of the image"),
    (of_container(livenessProbe={"grpc": {"port": 1}}), "probes by gRPC are not supported"),
    (of_volume(csi={"driver": "x"}), "spec.volumes[0].csi: volumes of kind csi are not supported"),
    (of_volume(gitRepo={"repository": "x"}), "volumes of kind gitRepo are not supported"),
    # who it is
    (spec_of() | {"containers": []}, "spec.containers is empty"),
    (spec_of(container(), container()), "the name 'c' is there twice"),
    (spec_of(initContainers=[container()]), "the name 'c' is there twice"),
    (spec_of(container("C")), "spec.containers[0].name is 'C'"),
    (spec_of(container("POD")), "spec.containers[0].name is 'POD'"),
    (of_container(image=""), "spec.containers[0].image is ''"),
    (of_container(image=" x"), "spec.containers[0].image is ' x'"),
    (of_container(imagePullPolicy="Often"), "use Always or IfNotPresent or Never"),
    (of_container(terminationMessagePolicy="x"), "terminationMessagePolicy is 'x'"),
    (of_container(terminationMessagePath="x"), "terminationMessagePath is 'x'"),
    (of_container(workingDir="x"), "workingDir is 'x'"),
    # ports
    (of_container(ports=[{"containerPort": 0}]), "containerPort is 0: use 1 to 65535"),
    (of_container(ports=[{"containerPort": 1, "hostPort": 70000}]), "hostPort is 70000"),
    (of_container(ports=[{"containerPort": 1, "protocol": "tcp"}]), "protocol is 'tcp'"),
    (of_container(ports=[{"containerPort": 1, "name": "1"}]), "ports[0].name is '1'"),
    (of_container(ports=[{"containerPort": 1, "hostIP": "x"}]), "hostIP is 'x'"),
    (
        of_container(ports=[{"containerPort": n, "name": "a"} for n in (1, 2)]),
        "spec.containers[0].ports: the name 'a' is there twice",
    ),
    (
        spec_of(*(container(n, ports=[{"containerPort": 1, "hostPort": 5}]) for n in "ab")),
        "the host port '5/TCP on all addresses' is there twice",
    ),
    (
        spec_of(container(ports=[{"containerPort": 1, "hostPort": 2}]), hostNetwork=True),
        "with hostNetwork they are the same",
    ),
    # variables
    (variable(name=""), "env[0].name is ''"),
    (variable(name="A=B"), "env[0].name is 'A=B'"),
    (variable(value="a\0"), "env[0].value has a zero byte"),
    (variable(valueFrom={}), "valueFrom has none of fieldRef"),
    (
        variable(value="x", valueFrom={"fieldRef": {"fieldPath": "metadata.name"}}),
        "has value and valueFrom",
    ),
    (variable(valueFrom={"fieldRef": {"fieldPath": "spec.x"}}), "fieldPath is 'spec.x'"),
    (variable(valueFrom={"fieldRef": {"fieldPath": "metadata.labels"}}), "fieldPath is"),
    (
        variable(
            valueFrom={
                "fieldRef": {"fieldPath": "metadata.name"},
                "secretKeyRef": {"name": "s", "key": "k"},
            }
        ),
        "has fieldRef and secretKeyRef",
    ),
    (variable(valueFrom={"resourceFieldRef": {"resource": "cpu"}}), "resource is 'cpu'"),
    (
        variable(valueFrom={"resourceFieldRef": {"resource": "limits.cpu", "containerName": "z"}}),
        "containerName 'z' is no container",
    ),
    (
        variable(valueFrom={"resourceFieldRef": {"resource": "limits.cpu", "divisor": "x"}}),
        "divisor: 'x' is no quantity",
    ),
    (variable(valueFrom={"secretKeyRef": {"name": "../s", "key": "k"}}), "name is '../s'"),
    (variable(valueFrom={"configMapKeyRef": {"name": "s", "key": "../k"}}), "key is '../k'"),
    (of_container(envFrom=[{}]), "envFrom[0] has none of configMapRef, secretRef"),
    (of_container(envFrom=[{"prefix": "=", "secretRef": {"name": "s"}}]), "prefix is '='"),
    # resources
    (of_container(resources={"limits": {"cpu": "x"}}), "resources.limits.cpu: 'x' is no quantity"),
    (of_container(resources={"requests": {"cpu": "-1"}}), "resources.requests.cpu is -1"),
    (
        of_container(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "1001m"}}),
        "requests.cpu 1001m is more than its limit 1",
    ),
    (of_container(resources={"limits": {"nvidia.com/gpu": 1}}), "cannot give out nvidia.com/gpu"),
    (of_container(resources={"limits": {"hugepages-2Mi": "2Mi"}}), "cannot give out hugepages"),
    # security
    (secured(runAsUser=-1), "runAsUser is -1"),
    (secured(runAsGroup=2**31), "runAsGroup is 2147483648"),
    (secured(procMount="x"), "procMount is 'x'"),
    (secured(privileged=True, allowPrivilegeEscalation=False), "cannot be false with privileged"),
    (
        secured(capabilities={"add": ["SYS_ADMIN"]}, allowPrivilegeEscalation=False),
        "cannot be false with the capability SYS_ADMIN",
    ),
    (secured(capabilities={"drop": ["a b"]}), "capabilities has 'a b'"),
    (secured(seccompProfile={"type": "x"}), "seccompProfile.type is 'x'"),
    (secured(seccompProfile={"type": "Localhost"}), "localhostProfile is missing"),
    (
        secured(seccompProfile={"type": "Localhost", "localhostProfile": "../x"}),
        "write the path without '..'",
    ),
    (secured(appArmorProfile={"type": "Localhost"}), "name a profile that the kernel has loaded"),
    (spec_of(securityContext={"fsGroup": -5}), "spec.securityContext.fsGroup is -5"),
    (spec_of(securityContext={"supplementalGroups": [-5]}), "supplementalGroups[0] is -5"),
    (spec_of(securityContext={"supplementalGroupsPolicy": "Strict"}), "use Merge"),
    (spec_of(securityContext={"fsGroupChangePolicy": "x"}), "fsGroupChangePolicy is 'x'"),
    (spec_of(securityContext={"seccompProfile": {"type": "x"}}), "seccompProfile.type is 'x'"),
    (spec_of(securityContext={"sysctls": [{"name": "A b", "value": "1"}]}), "name is 'A b'"),
    (
        spec_of(securityContext={"sysctls": [{"name": "a.b", "value": "1"}] * 2}),
        "the name 'a.b' is there twice",
    ),
    # mounts
    (mounted(name="w"), "volumeMounts[0].name 'w' is no volume"),
    (mounted(mountPath="v"), "mountPath is 'v': use a path that begins with /"),
    (mounted(mountPath="/"), "mountPath is the container's root"),
    (mounted(mountPath="/a/../b"), "write the path without '..'"),
    (mounted(subPath="/a"), "subPath is '/a'"),
    (mounted(subPath="a/../.."), "write the path without '..'"),
    (mounted(subPath="a", subPathExpr="b"), "has subPath and subPathExpr"),
    (mounted(mountPropagation="x"), "mountPropagation is 'x'"),
    (mounted(mountPropagation="Bidirectional"), "needs securityContext.privileged"),
    (mounted(recursiveReadOnly="Enabled"), "use IfPossible"),
    (
        of_container(volumeMounts=[{"name": "v", "mountPath": p} for p in ("/v", "/v/")]),
        "the mountPath '/v' is there twice",
    ),
    # probes and hooks
    (probed(tcpSocket=None), "livenessProbe has none of exec, httpGet, tcpSocket"),
    (probed(exec={"command": ["a"]}), "livenessProbe has exec and tcpSocket"),
    (probed(tcpSocket=None, exec={}), "exec.command is empty"),
    (probed(periodSeconds=0), "periodSeconds is 0: use 1 or more"),
    (probed(timeoutSeconds=-1), "timeoutSeconds is -1"),
    (probed(failureThreshold=0), "failureThreshold is 0"),
    (probed(initialDelaySeconds=-1), "initialDelaySeconds is -1"),
    (probed(successThreshold=2), "successThreshold is 2: only 1 makes sense"),
    (probed(terminationGracePeriodSeconds=0), "terminationGracePeriodSeconds is 0"),
    (probed(tcpSocket={"port": 0}), "port is 0"),
    (probed(tcpSocket={"port": "web"}), "'web' is no named port"),
    (probed(tcpSocket={"port": "9" * 99}), "port is 65536"),
    (probed(tcpSocket={"port": 1, "host": "a b"}), "host is 'a b'"),
    (probed(tcpSocket=None, httpGet={"port": 1, "scheme": "FTP"}), "scheme is 'FTP'"),
    (probed(tcpSocket=None, httpGet={"port": 1, "path": "/\n"}), "path has a control character"),
    (
        probed(tcpSocket=None, httpGet={"port": 1, "httpHeaders": [{"name": "a b"}]}),
        "httpHeaders[0].name is 'a b'",
    ),
    (
        probed(tcpSocket=None, httpGet={"port": 1, "httpHeaders": [{"name": "a", "value": "\n"}]}),
        "httpHeaders[0].value has a line's end",
    ),
    (of_container(lifecycle={"preStop": {}}), "lifecycle.preStop has none of"),
    (of_container(lifecycle={"postStart": {"tcpSocket": {"port": 1}}}), "use exec, httpGet"),
    (of_container(lifecycle={"preStop": {"sleep": {"seconds": -1}}}), "seconds is -1"),
    (
        of_container(
            readinessProbe={"exec": {"command": ["a"]}, "terminationGracePeriodSeconds": 5}
        ),
        "this probe ends nothing",
    ),
    (
        spec_of(initContainers=[container("i", startupProbe={"exec": {"command": ["a"]}})]),
        "spec.initContainers[0].startupProbe is not for init containers",
    ),
    # volumes
    (of_volume(), "spec.volumes[0] has none of emptyDir"),
    (of_volume(emptyDir={}, hostPath={"path": "/"}), "has emptyDir and hostPath"),
    (of_volume(name="V", emptyDir={}), "spec.volumes[0].name is 'V'"),
    (spec_of(volumes=[VOLUME, VOLUME]), "spec.volumes: the name 'v' is there twice"),
    (of_volume(emptyDir={"medium": "HugePages"}), "use Memory"),
    (of_volume(emptyDir={"medium": "x"}), "medium is 'x'"),
    (of_volume(emptyDir={"sizeLimit": "x"}), "sizeLimit: 'x' is no quantity"),
    (of_volume(hostPath={"path": "x"}), "hostPath.path is 'x'"),
    (of_volume(hostPath={"path": "/a/../b"}), "write the path without '..'"),
    (of_volume(hostPath={"path": "/", "type": "x"}), "hostPath.type is 'x'"),
    (of_volume(configMap={}), "configMap.name is ''"),
    (of_volume(configMap={"name": "c", "defaultMode": 0o1777}), "defaultMode is 1023"),
    (of_volume(secret={"secretName": "../s"}), "secretName is '../s'"),
    (of_volume(secret={"secretName": "s", "items": [{"key": "/", "path": "a"}]}), "key is '/'"),
    (
        of_volume(secret={"secretName": "s", "items": [{"key": "k", "path": "/a"}]}),
        "items[0].path is '/a'",
    ),
    (
        of_volume(secret={"secretName": "s", "items": [{"key": "k", "path": "..data"}]}),
        "kept for the agent",
    ),
    (
        of_volume(secret={"secretName": "s", "items": [{"key": k, "path": "a"} for k in "kl"]}),
        "the path 'a' is there twice",
    ),
    (of_volume(persistentVolumeClaim={"claimName": ""}), "claimName is ''"),
    (of_volume(nfs={"server": "-o x", "path": "/"}), "server is '-o x'"),
    (of_volume(nfs={"server": "h", "path": "x"}), "nfs.path is 'x'"),
    (of_volume(downwardAPI={"items": [{"path": "a"}]}), "has none of fieldRef, resourceFieldRef"),
    (
        of_volume(
            downwardAPI={"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}
        ),
        "fieldPath is 'status.podIP'",
    ),
    (
        of_volume(
            downwardAPI={"items": [{"path": "a", "resourceFieldRef": {"resource": "limits.cpu"}}]}
        ),
        "containerName is missing",
    ),
    (of_volume(projected={"sources": [{}]}), "projected.sources[0] has none of"),
    (
        of_volume(projected={"sources": [{"serviceAccountToken": {"path": ""}}]}),
        "serviceAccountToken.path is empty",
    ),
    (
        of_volume(
            projected={"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}
        ),
        "expirationSeconds is 5",
    ),
    (
        of_volume(projected={"sources": [{"clusterTrustBundle": {"path": "t"}}]}),
        "mount a configMap",
    ),
    # the pod as a whole
    (spec_of(restartPolicy="x"), "spec.restartPolicy is 'x'"),
    (spec_of(dnsPolicy="x"), "spec.dnsPolicy is 'x'"),
    (spec_of(dnsPolicy="None"), "needs spec.dnsConfig.nameservers"),
    (spec_of(dnsConfig={"nameservers": ["x"]}), "nameservers[0] is 'x'"),
    (spec_of(dnsConfig={"searches": ["a b"]}), "searches[0] is 'a b'"),
    (spec_of(dnsConfig={"options": [{"name": "a\nb"}]}), "options[0] is"),
    (spec_of(hostAliases=[{"ip": "x"}]), "hostAliases[0].ip is 'x'"),
    (spec_of(hostAliases=[{"ip": "::1", "hostnames": ["a b"]}]), "hostnames[0] is 'a b'"),
    (spec_of(activeDeadlineSeconds=0), "activeDeadlineSeconds is 0"),
    (spec_of(terminationGracePeriodSeconds=-1), "terminationGracePeriodSeconds is -1"),
    (spec_of(hostname="a.b"), "spec.hostname is 'a.b'"),
    (spec_of(subdomain="-a"), "spec.subdomain is '-a'"),
    (spec_of(serviceAccountName="../x"), "serviceAccountName is '../x'"),
    (spec_of(imagePullSecrets=[{"name": "../x"}]), "imagePullSecrets[0].name is '../x'"),
    (spec_of(shareProcessNamespace=True, hostPID=True), "exclude each other"),
]


@pytest.mark.parametrize(("spec", "sentence"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_be_honoured_is_said(spec: dict[str, Any], sentence: str) -> None:
    assert any(sentence in one for one in told(spec)), told(spec)


ALLOWED: list[dict[str, Any]] = [
    probed(tcpSocket={"port": "8080"}),
    of_container(
        ports=[{"containerPort": 80, "name": "web"}], livenessProbe={"tcpSocket": {"port": "web"}}
    ),
    of_container(lifecycle={"preStop": {"sleep": {"seconds": 0}}}),
    spec_of(dnsPolicy="None", dnsConfig={"nameservers": ["10.0.0.1"], "searches": ["_a.b.", "."]}),
    spec_of(dnsConfig={"options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}),
    mounted(mountPropagation="HostToContainer", recursiveReadOnly="IfPossible"),
    mounted(subPathExpr="$(POD)/x..y"),
    of_container(resources={"limits": {"nvidia.com/gpu": 0}}),
    variable(valueFrom={"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}),
    variable(name="a.b-c"),
    of_volume(projected={}),
    of_volume(downwardAPI={"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.labels"}}]}),
    spec_of(container(ports=[{"containerPort": 80, "hostPort": 80}]), hostNetwork=True),
    spec_of(runtimeClassName="kata"),
]


@pytest.mark.parametrize("spec", ALLOWED, ids=str)
def test_what_makes_sense_is_not_refused(spec: dict[str, Any]) -> None:
    assert told(spec) == ()


@pytest.mark.parametrize("uid", ["", "../x", "a/b", "a..b", ".", "a b", "x" * 129, "a\n"])
def test_a_uid_that_is_no_name_of_a_folder_is_refused(uid: str) -> None:
    assert any("metadata.uid" in one for one in told(spec_of(), uid=uid))


def test_names_of_pod_and_namespace() -> None:
    found = told(spec_of(), name="A_b", namespace="a.b")
    assert [one.partition(" ")[0] for one in found] == ["metadata.name", "metadata.namespace"]


def test_very_many_problems_are_counted() -> None:
    found = told(spec_of(*(container(f"C{number}") for number in range(50))))
    assert len(found) == MOST_TOLD + 1
    assert found[-1] == "and 30 problems more"


def test_values_in_sentences_are_short_and_on_one_line() -> None:
    found = told(spec_of(hostname="a\n" * 10_000))
    assert len(found[0]) < 300
    assert "\n" not in found[0]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["containers", "volumes", "overhead", "a.b", "affinity", "os", "hostname", "dnsConfig", "x"]
)


@settings(max_examples=200)
@given(st.dictionaries(_FIELDS, _JSON))
def test_whatever_can_be_decoded_can_be_checked(extra: dict[str, Any]) -> None:
    spec = spec_of() | extra
    try:
        pod = decode({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})
    except ValueError:
        return
    assert all(isinstance(one, str) and one for one in problems_of(pod, spec))
