"""The static pods of a master: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

Pure: a ``Plane`` and one of its masters give the text of each manifest. Layout, names and labels
are kubeadm's. What a version of Kubernetes needs otherwise than others is decided here, with the
release in which it changed beside it.
"""

from collections.abc import Mapping

from lab.master.etcdpods import etcd_pod, etcds
from lab.master.plane import API_PORT, ETCD_PORT, INSECURE_PORT, Master, Plane, Version
from lab.master.staticpod import KUBERNETES, PKI, Raw, flags, static_pod, text

__all__ = ["KUBERNETES", "PKI", "manifests"]

CONTROLLER_PORT = 10257
SCHEDULER_PORT = 10259

NODE_GRACE = 30
"""Seconds without a sign of life after which a node is not ready; nodeagent gives one each 10 s."""
EVICTION = 30
"""Seconds that a pod which does not say otherwise stays bound to a node that is not ready.

Kubernetes' own 300 suits a cloud that replaces machines; here nobody replaces the host.
"""

_HTTP_PORT_GONE = Version(1, 20)
"""kube-apiserver answers no plain HTTP from here on."""
_LIVEZ = Version(1, 16)
"""kube-apiserver has /livez and /readyz from here on, before it /healthz alone."""
_HTTP_FIGURES_GONE = Version(1, 23)
"""--port of controller manager and scheduler does nothing from here on; 1.24 does not know it."""


CERTIFIED = "barenode/certificates"
"""The annotation that tells which certificates a pod was made for."""


def manifests(
    plane: Plane, master: Master, certified: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The text of each file for the manifest folder of *master*, by file name.

    *certified* is a digest of the certificates that a pod uses, by the pod's name. Kubernetes'
    commands read them at their start: a pod is made anew when its digest changes.
    """
    pods = [
        *(etcd_pod(etcd, plane, master) for etcd in etcds(plane)),
        _apiserver(plane, master),
        _controller_manager(plane),
        _scheduler(plane),
    ]
    if plane.insecure and plane.version >= _HTTP_PORT_GONE:
        pods.append(_plain_http(plane))
    for pod in pods:
        if digest := (certified or {}).get(pod["metadata"]["name"]):
            pod["metadata"]["annotations"] = {CERTIFIED: digest}
    return {f"{pod['metadata']['name']}.yaml": text(pod) for pod in pods}


def _apiserver(plane: Plane, master: Master) -> Raw:
    settings: dict[str, object] = {
        "advertise-address": master.address,
        "secure-port": API_PORT,
        "tls-cert-file": f"{PKI}/apiserver.crt",
        "tls-private-key-file": f"{PKI}/apiserver.key",
        "client-ca-file": f"{PKI}/ca.crt",
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "enable-bootstrap-token-auth": "true",
        "default-not-ready-toleration-seconds": EVICTION,
        "default-unreachable-toleration-seconds": EVICTION,
        "etcd-servers": _local_etcd(plane),
        **_etcd_access(plane),
        "kubelet-certificate-authority": f"{PKI}/ca.crt",
        "kubelet-client-certificate": f"{PKI}/apiserver-kubelet-client.crt",
        "kubelet-client-key": f"{PKI}/apiserver-kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP,Hostname",
        "proxy-client-cert-file": f"{PKI}/front-proxy-client.crt",
        "proxy-client-key-file": f"{PKI}/front-proxy-client.key",
        "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "service-account-issuer": f"https://kubernetes.default.svc.{plane.domain}",
        "service-account-key-file": f"{PKI}/sa.pub",
        "service-account-signing-key-file": f"{PKI}/sa.key",
        "service-cluster-ip-range": plane.services,
    }
    if plane.version < _HTTP_PORT_GONE:
        # Unless told it listens on 127.0.0.1: every process of the master is administrator there.
        settings["insecure-port"] = INSECURE_PORT if plane.insecure else 0
        if plane.insecure:
            settings["insecure-bind-address"] = "0.0.0.0"  # noqa: S104  asked for by --insecure
    path = "/livez" if plane.version >= _LIVEZ else "/healthz"
    if len(plane.masters) == 1:
        # Restarted without etcd it ends at once, and its back-off outlasts the return of etcd.
        # Of several it is better gone: while it answers errors, clients do not go elsewhere.
        path += "?exclude=etcd"
    return static_pod(
        "kube-apiserver",
        plane.hyperkube_image,
        ("/hyperkube", "kube-apiserver", *flags(settings)),
        mounts={PKI: True},
        liveness=_https(API_PORT, path),
        readiness=_https(API_PORT, "/readyz" if plane.version >= _LIVEZ else "/healthz"),
        cpu="250m",
    )


def _local_etcd(plane: Plane) -> str:
    # etcd's client takes all members in turn, and those of a silent host until its keep-alive
    # ends after 40 s: every third request would hang at each API server. As kubeadm has it, a
    # server uses its own member alone, and its clients go elsewhere when that one is gone.
    return f"{'http' if plane.insecure else 'https'}://127.0.0.1:{ETCD_PORT}"


def _etcd_access(plane: Plane) -> dict[str, str]:
    if plane.insecure:
        return {}
    return {
        "etcd-cafile": f"{PKI}/etcd/ca.crt",
        "etcd-certfile": f"{PKI}/apiserver-etcd-client.crt",
        "etcd-keyfile": f"{PKI}/apiserver-etcd-client.key",
    }


def _controller_manager(plane: Plane) -> Raw:
    conf = f"{KUBERNETES}/controller-manager.conf"
    settings: dict[str, object] = {
        **_component(plane, conf),
        "allocate-node-cidrs": "false",
        "cluster-cidr": plane.pods,
        "client-ca-file": f"{PKI}/ca.crt",
        "requestheader-client-ca-file": f"{PKI}/front-proxy-ca.crt",
        "cluster-signing-cert-file": f"{PKI}/ca.crt",
        "cluster-signing-key-file": f"{PKI}/ca.key",
        "controllers": "*,bootstrapsigner,tokencleaner",
        "node-monitor-grace-period": f"{NODE_GRACE}s",
        "node-monitor-period": "2s",
        "root-ca-file": f"{PKI}/ca.crt",
        "service-account-private-key-file": f"{PKI}/sa.key",
        "service-cluster-ip-range": plane.services,
        "use-service-account-credentials": "true",
    }
    return static_pod(
        "kube-controller-manager",
        plane.hyperkube_image,
        ("/hyperkube", "kube-controller-manager", *flags(settings)),
        mounts={PKI: True, conf: True},
        liveness=_https(CONTROLLER_PORT, "/healthz"),
        cpu="200m",
    )


def _scheduler(plane: Plane) -> Raw:
    conf = f"{KUBERNETES}/scheduler.conf"
    return static_pod(
        "kube-scheduler",
        plane.hyperkube_image,
        ("/hyperkube", "kube-scheduler", *flags(_component(plane, conf))),
        mounts={conf: True},
        liveness=_https(SCHEDULER_PORT, "/healthz"),
        cpu="100m",
    )


def _component(plane: Plane, conf: str) -> dict[str, object]:
    settings: dict[str, object] = {
        "kubeconfig": conf,
        "authentication-kubeconfig": conf,
        "authorization-kubeconfig": conf,
        "bind-address": "127.0.0.1",
        "leader-elect": "true",
    }
    if plane.version < _HTTP_FIGURES_GONE:
        settings["port"] = 0
    return settings


def _plain_http(plane: Plane) -> Raw:
    """Plain HTTP without credentials, for servers that have no such port any more."""
    conf = f"{KUBERNETES}/admin.conf"
    settings = {
        "kubeconfig": conf,
        "address": "0.0.0.0",  # noqa: S104  asked for by --insecure
        "port": INSECURE_PORT,
        "accept-hosts": ".*",
        # By default it refuses exec and attach.
        "reject-paths": "^$",
    }
    # No request: that it cannot reach its API server is no reason to restart it.
    probe = {"tcpSocket": {"host": "127.0.0.1", "port": INSECURE_PORT}}
    return static_pod(
        "kube-apiserver-http",
        plane.hyperkube_image,
        ("/hyperkube", "kubectl", "proxy", *flags(settings)),
        mounts={conf: True},
        liveness=probe,
        cpu="10m",
    )


def _https(port: int, path: str) -> Raw:
    return {"httpGet": {"host": "127.0.0.1", "port": port, "path": path, "scheme": "HTTPS"}}
