"""Static pods from the text of a manifest: what is in it, who each pod is, what is wrong. Pure.

Identity: the UID of a static pod is made of the node, the namespace, the name and the content. A
file that is renamed, reordered or commented changes nothing; any other change makes another pod.
It is made from the manifest as written, before defaults, so that a later release finds it again.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodeagent.pods.known import without_nulls
from nodeagent.pods.model import MIRROR, SEEN, SOURCE, Pod, decode
from nodeagent.sources.documents import Document, DocumentError, path_of, read

MAX_BYTES = 1024 * 1024
"""Largest manifest."""
HASH = "kubernetes.io/config.hash"
"""Annotation of static and mirror pods: stands for the manifest's content."""

Raw = Mapping[str, Any]
Check = Callable[[Pod, Mapping[str, Any]], Sequence[str]]
"""Says what cannot be honoured of a pod and its spec as written: sentences that name fields."""

_LISTS = ("List", "PodList")
_TOP = {"apiVersion", "kind", "metadata", "spec", "status"}
# k8s.io/apimachinery, ObjectMeta: what an API server wrote into a pod that was dumped from it.
_SERVERS = {
    "uid", "resourceVersion", "creationTimestamp", "generation", "selfLink", "managedFields",
    "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "generateName",
    "finalizers", "clusterName",
}  # fmt: skip
_META = {"name", "namespace", "labels", "annotations"}
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NEEDS = (
    "needs the API server, which a static pod may not depend on: use a hostPath volume or plain "
    "values"
)


@dataclass(frozen=True, slots=True)
class ManifestError:
    """What is wrong in *file*; *line* counts from 1, 0 for the file as a whole.

    *key* is the ``namespace/name`` of the pod that it is about, "" when that is not known.
    """

    file: str
    line: int
    text: str
    key: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


@dataclass(frozen=True, slots=True)
class StaticPod:
    """A pod of a manifest: decoded, and as plain JSON with what was filled in."""

    pod: Pod
    raw: Mapping[str, Any]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The pods of one file that can run, and the errors of the others."""

    pods: tuple[StaticPod, ...] = ()
    errors: tuple[ManifestError, ...] = ()


def parse(data: bytes, file: str, node: str, check: Check, *, seen: str = "") -> Manifest:
    """The pods in *data*, the content of *file*, for the node called *node*.

    JSON and YAML, several documents, ``v1`` Pod, PodList and List. *seen* is the time at which
    the manifest was found, for an annotation.
    """
    if len(data) > MAX_BYTES:
        text = f"{len(data)} bytes are more than the {MAX_BYTES} that a manifest may have"
        return Manifest(errors=(ManifestError(file, 0, text),))
    try:
        documents = read(_decoded(data))
    except DocumentError as error:
        return Manifest(errors=(ManifestError(file, error.line, error.text),))
    pods: list[StaticPod] = []
    errors: list[ManifestError] = []
    for document in documents:
        for found in _pods(document, file):
            if isinstance(found, ManifestError):
                errors.append(found)
            else:
                made = _Maker(found, file, node, seen).make(check)
                pods += made.pods
                errors += made.errors
    if not pods and not errors:
        errors.append(ManifestError(file, 0, "holds no pod: remove the file to stop its pods"))
    return Manifest(tuple(pods), tuple(errors))


def merge(
    manifests: Mapping[str, Sequence[StaticPod]],
) -> tuple[dict[str, StaticPod], tuple[ManifestError, ...]]:
    """All pods by UID; of several with one name the first by file name wins, and the line in it.

    The others are errors.
    """
    first: dict[str, StaticPod] = {}
    errors = []
    for _, pods in sorted(manifests.items()):
        for one in pods:
            other = first.setdefault(one.pod.key, one)
            if other is not one:
                text = (
                    f"pod {one.pod.key} is in {other.file} (line {other.line}) too, which is the "
                    "one that counts: remove one of them or give it another name"
                )
                errors.append(ManifestError(one.file, one.line, text, one.pod.key))
    return {one.pod.uid: one for one in first.values()}, tuple(errors)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(line, "not UTF-8: save the file as UTF-8") from error


@dataclass(frozen=True, slots=True)
class _Found:
    """A pod in a document: *at* is its path there."""

    document: Document
    at: tuple[str | int, ...]
    raw: Mapping[str, Any]

    def line(self, path: Sequence[str | int] = ()) -> int:
        return self.document.line_of((*self.at, *path))


def _pods(document: Document, file: str) -> Iterator[_Found | ManifestError]:
    value = document.value
    wrong = _kind(value, (*_LISTS, "Pod"))
    if wrong:
        yield ManifestError(file, document.line_of((wrong[0],)), wrong[1])
        return
    if value["kind"] == "Pod":
        yield _Found(document, (), value)
        return
    items = value.get("items")
    if not isinstance(items, list) or not items:
        yield ManifestError(file, document.line_of(("items",)), "items: must be a list of pods")
        return
    for number, item in enumerate(items):
        at = ("items", number)
        if isinstance(item, dict) and value["kind"] == "PodList":
            item = {"apiVersion": "v1", "kind": "Pod", **item}  # noqa: PLW2901 - as the API does
        if wrong := _kind(item, ("Pod",)):
            line = document.line_of((*at, wrong[0]))
            yield ManifestError(file, line, f"items[{number}]: {wrong[1]}")
        else:
            yield _Found(document, at, item)


def _kind(value: Any, kinds: Sequence[str]) -> tuple[str, str] | None:
    """The field and what is wrong when *value* is none of *kinds* in v1."""
    if not isinstance(value, dict):
        return "", "this is no Kubernetes object: it needs apiVersion: v1 and kind: Pod"
    kind, version = value.get("kind"), value.get("apiVersion")
    if kind not in kinds:
        said = "is missing" if kind is None else f"{kind!r} cannot be run from a manifest"
        return "kind", f"kind: {said}: write Pod, or PodList or List for several"
    if version != "v1":
        said = "is missing" if version is None else f"{version!r} is not known"
        return "apiVersion", f"apiVersion: {said}: write v1"
    return None


class _Maker:
    """Makes the static pod of one found in a file."""

    def __init__(self, found: _Found, file: str, node: str, seen: str) -> None:
        self._found = found
        self._file = file
        self._node = node
        self._seen = seen
        self._key = ""

    def make(self, check: Check) -> Manifest:
        """The pod, or what is wrong with it."""
        raw = without_nulls(dict(self._found.raw))
        wrong = list(self._shape(raw))
        if wrong:
            return self._refused(wrong)
        meta = {key: raw["metadata"][key] for key in _META if key in raw["metadata"]}
        meta.setdefault("namespace", "default")
        name = meta.get("name")
        if name and isinstance(name, str):
            self._key = f"{meta['namespace']}/{_full_name(name, self._node)}"
        try:
            written = decode({"metadata": meta, "spec": raw["spec"]})
        except ValueError as error:
            return self._refused([str(error)])
        filled = self._fill(meta, raw["spec"])
        pod = decode(filled)
        wrong = [
            *self._names(written), *_references(raw["spec"]), *check(pod, raw["spec"]),
        ]  # fmt: skip
        if wrong:
            return self._refused(wrong)
        return Manifest((StaticPod(pod, filled, self._file, self._found.line()),))

    def _refused(self, sentences: Sequence[str]) -> Manifest:
        errors = [
            ManifestError(self._file, self._found.line(path_of(one)), one, self._key)
            for one in dict.fromkeys(sentences)
        ]
        return Manifest(errors=tuple(errors))

    def _shape(self, raw: Mapping[str, Any]) -> Iterator[str]:
        for part in ("metadata", "spec"):
            if not isinstance(raw.get(part), dict):
                yield f"{part}: must be a mapping" if part in raw else f"{part}: is missing"
        for name in sorted(set(raw) - _TOP):
            yield f"{name}: a pod has no such field"
        meta = raw.get("metadata")
        for name in sorted(set(meta if isinstance(meta, dict) else ()) - _META - _SERVERS):
            yield f"metadata.{name}: a pod has no such field"
        annotations = meta.get("annotations") if isinstance(meta, dict) else None
        if isinstance(annotations, dict) and MIRROR in annotations:
            yield f"metadata.annotations: {MIRROR} is that of a mirror pod: remove it"

    def _names(self, pod: Pod) -> Iterator[str]:
        name, namespace = pod.metadata.name, pod.metadata.namespace
        full = _full_name(name, self._node)
        if not name:
            yield "metadata.name: is missing"
        elif not _SUBDOMAIN.fullmatch(name):
            yield f"metadata.name: {name!r} is no name: use a-z, 0-9, '-' and '.'"
        elif len(full) > 253:
            yield f"metadata.name: {full!r} is longer than 253 characters"
        if not _LABEL.fullmatch(namespace):
            yield f"metadata.namespace: {namespace!r} is no name: use a-z, 0-9 and '-'"
        if pod.spec.node_name not in {"", self._node}:
            yield (
                f"spec.nodeName: {pod.spec.node_name!r} is another node than this one, "
                f"{self._node!r}: leave it out"
            )

    def _fill(self, meta: Raw, spec: Raw) -> dict[str, Any]:
        """The pod as it is run and shown: named after its node, bound to it."""
        annotations = {
            key: value
            for key, value in meta.get("annotations", {}).items()
            if key not in {SOURCE, SEEN, HASH}
        }
        written = {**meta, "annotations": annotations}
        uid = _uid(self._node, written, spec)
        annotations |= {SOURCE: "file", HASH: uid}
        if self._seen:
            annotations[SEEN] = self._seen
        # A static pod is not evicted by taints: nobody would start it elsewhere.
        everything = {"operator": "Exists", "effect": "NoExecute"}
        tolerations = [one for one in spec.get("tolerations", ()) if one != everything]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **meta,
                "name": _full_name(meta.get("name", ""), self._node),
                "uid": uid,
                "annotations": annotations,
            },
            "spec": {**spec, "nodeName": self._node, "tolerations": [*tolerations, everything]},
        }


def _full_name(name: str, node: str) -> str:
    return f"{name}-{node.lower()}"


def _uid(node: str, meta: Raw, spec: Raw) -> str:
    """32 hexadecimal digits, as the kubelet's for static pods."""
    identity = {key: value for key, value in meta.items() if value}
    text = json.dumps([node, identity, spec], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _references(spec: Raw) -> Iterator[str]:
    """What only an API server can give: admission refuses such mirror pods, too."""
    for field in ("serviceAccountName", "serviceAccount"):
        if spec.get(field):
            yield f"spec.{field}: a service account {_NEEDS}"
    if spec.get("imagePullSecrets"):
        yield (
            f"spec.imagePullSecrets: a secret {_NEEDS}; put the credentials of the registry into "
            "/root/.docker/config.json"
        )
    if spec.get("ephemeralContainers"):
        yield "spec.ephemeralContainers: only kubectl debug makes them: leave it out"
    for number, volume in enumerate(spec.get("volumes", ())):
        yield from _volume(volume, f"spec.volumes[{number}]")
    for group in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(group, ())):
            yield from _variables(container, f"spec.{group}[{number}]")


def _volume(volume: Raw, at: str) -> Iterator[str]:
    for kind in ("configMap", "secret", "persistentVolumeClaim", "ephemeral"):
        if kind in volume:
            yield f"{at}.{kind}: {_NEEDS}"
    for index, source in enumerate(volume.get("projected", {}).get("sources", ())):
        for kind in ("configMap", "secret", "serviceAccountToken", "clusterTrustBundle"):
            if kind in source:
                yield f"{at}.projected.sources[{index}].{kind}: {_NEEDS}"


def _variables(container: Raw, at: str) -> Iterator[str]:
    for index, variable in enumerate(container.get("env", ())):
        source = variable.get("valueFrom") or {}
        for kind in ("configMapKeyRef", "secretKeyRef"):
            if kind in source:
                yield f"{at}.env[{index}].valueFrom.{kind}: {_NEEDS}"
    for index, source in enumerate(container.get("envFrom", ())):
        for kind in ("configMapRef", "secretRef"):
            if kind in source:
                yield f"{at}.envFrom[{index}].{kind}: {_NEEDS}"
