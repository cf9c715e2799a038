"""API objects as a server sends them, to be bent by tests."""

import json
from typing import Any


def service(**spec: Any) -> dict[str, Any]:
    """The Service default/web at 10.0.0.7:80, but for *spec*; a field that is None is absent."""
    fields = {
        "type": "ClusterIP",
        "clusterIP": "10.0.0.7",
        "clusterIPs": ["10.0.0.7"],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        "selector": {"app": "web"},
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        **spec,
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": "6a2f41a3-c54c-fce8-32d2-0324e1c32e22",
            "resourceVersion": "42",
            "creationTimestamp": "2024-01-31T12:00:00Z",
            "labels": {"app": "web"},
            "annotations": {"note": "any text"},
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ports": {}}}}],
        },
        "spec": {name: value for name, value in fields.items() if value is not None},
        "status": {"loadBalancer": {}},
    }


def balanced(*addresses: Any, **spec: Any) -> dict[str, Any]:
    """default/web as a LoadBalancer that got *addresses*."""
    made = service(type="LoadBalancer", **spec)
    made["status"]["loadBalancer"]["ingress"] = [{"ip": one} for one in addresses]
    return made


def endpoint(address: Any, **more: Any) -> dict[str, Any]:
    """One ready endpoint of a slice, on node1, but for *more*."""
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "node1",
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-x7k2p"},
        **more,
    }


def endpoint_slice(*endpoints: Any, **more: Any) -> dict[str, Any]:
    """The slice default/web-abcde of the service web with *endpoints*, but for *more*."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-abcde",
            "generateName": "web-",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web", "app": "web"},
            "ownerReferences": [{"kind": "Service", "name": "web"}],
        },
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        **more,
    }


def endpoints_object(*subsets: Any) -> dict[str, Any]:
    """The Endpoints object default/web with *subsets*."""
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "subsets": list(subsets),
    }


def raw(document: Any) -> bytes:
    """*document* as JSON."""
    return json.dumps(document).encode()
