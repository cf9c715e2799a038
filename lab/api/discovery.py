"""What a client asks first: version, groups, kinds, and which parameters the server checks."""

from typing import Any

from lab.api.kinds import KINDS, POD, SERVICE_ACCOUNT, Kind
from lab.api.objects import Json

VERSION: Json = {
    "major": "1", "minor": "32", "gitVersion": "v1.32.0-barenode.lab", "gitCommit": "",
    "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
    "compiler": "none", "platform": "linux/amd64",
}  # fmt: skip

SUCCESS: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]

_SUB_VERBS = ["get", "patch", "update"]
_ROOTS = {kind.root: kind for kind in KINDS}


def documents() -> dict[str, Json]:
    """The answers by URL path."""
    groups = [_group(kind) for kind in _ROOTS.values() if kind.group]
    found: dict[str, Json] = {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        "/openapi/v3": {
            "paths": {
                root.lstrip("/"): {"serverRelativeURL": f"/openapi/v3{root}"} for root in _ROOTS
            }
        },
    }
    for group in groups:
        found[f"/apis/{group['name']}"] = {"kind": "APIGroup", "apiVersion": "v1", **group}
    for root, kind in _ROOTS.items():
        found[root] = _resources(kind)
        found[f"/openapi/v3{root}"] = _openapi(root)
    return found


def _group(kind: Kind) -> Json:
    version = {"groupVersion": kind.api_version, "version": kind.version}
    return {"name": kind.group, "versions": [version], "preferredVersion": version}


def _resources(sample: Kind) -> Json:
    found: list[Json] = []
    for kind in KINDS:
        if kind.root == sample.root:
            found += _resource(kind)
    return {
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": sample.api_version,
        "resources": found,
    }  # fmt: skip


def _resource(kind: Kind) -> list[Json]:
    entry: Json = {
        "name": kind.plural, "singularName": kind.name.lower(), "namespaced": kind.namespaced,
        "kind": kind.name, "verbs": _VERBS,
    }  # fmt: skip
    if kind.short:
        entry["shortNames"] = list(kind.short)
    if kind.in_all:
        entry["categories"] = ["all"]
    found = [entry]
    under: Json = {"singularName": "", "namespaced": kind.namespaced}
    if kind.status:
        part = {"name": f"{kind.plural}/status", "kind": kind.name, "verbs": _SUB_VERBS}
        found.append({**under, **part})
    if kind.scale:
        scale: dict[str, Any] = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        found.append({**under, **scale, "name": f"{kind.plural}/scale", "verbs": _SUB_VERBS})
    if kind is POD:
        found.append({**under, "name": "pods/binding", "kind": "Binding", "verbs": ["create"]})
        found.append({**under, "name": "pods/log", "kind": "Pod", "verbs": ["get"]})
    if kind is SERVICE_ACCOUNT:
        token = {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}
        found.append({**under, **token, "name": "serviceaccounts/token", "verbs": ["create"]})
    return found


def _openapi(root: str) -> Json:
    """No schemas, only what tells kubectl that ``fieldValidation`` is done by the server."""
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    paths = {
        f"{root}/{kind.plural}/{{name}}": {
            "patch": {
                "parameters": [parameter],
                "responses": {},
                "x-kubernetes-group-version-kind": {
                    "group": kind.group, "version": kind.version, "kind": kind.name,
                },
            }
        }
        for kind in KINDS
        if kind.root == root
    }  # fmt: skip
    info = {"title": "barenode lab", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}
