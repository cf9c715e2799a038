"""Which static pods there are, from looks at their files: a state machine without effects.

Invariants:

* a file counts once it is whole: nobody writes it, and if it has errors, it has been as it is for
  a moment;
* a file, or a pod in it, that cannot be used leaves the pod as it was before;
* a file is gone once it has been away for a moment, and a pod that is in another file by then has
  only moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nodeagent.sources.folder import Entry, Look, Signature
from nodeagent.sources.manifests import Manifest, ManifestError, StaticPod, merge

SETTLE = 1.0
"""Seconds for which a file with errors must be as it is before they are told."""
MOST_BUSY = 30.0
"""Seconds of rest after which a file that is still open for writing counts."""
LOOK_AGAIN = 1.0
"""Seconds between looks at a file that is being written."""
GONE = 0.25
"""Seconds for which a file must be away: editors remove a file before they put the new one."""
LOOKS = 3
"""Looks in a row that must find a file away."""


@dataclass(slots=True)
class _File:
    """What is known of a file: *pods* are those that count, *kept* of them are from before.

    *taken* tells that it need not be read while its signature is as it was, *trouble* why it
    could not be read. *unsure* is the signature that does not count yet, *since* the monotonic
    time it was seen first; *away_since* likewise for a file that *away_looks* looks in a row
    did not find.
    """

    signature: Signature = ()
    pods: tuple[StaticPod, ...] = ()
    kept: frozenset[str] = frozenset()
    errors: tuple[ManifestError, ...] = ()
    trouble: str = ""
    taken: bool = False
    unsure: Signature | None = None
    since: float = 0.0
    away_since: float | None = None
    away_looks: int = 0


class Book:
    """The static pods as of the last look; *remembered* are those of an earlier run, by file."""

    def __init__(self, remembered: Mapping[str, tuple[StaticPod, ...]] | None = None) -> None:
        self._files = {
            name: _File(pods=pods, kept=frozenset(one.pod.key for one in pods))
            for name, pods in (remembered or {}).items()
        }
        self.pods: dict[str, StaticPod] = {}
        self.errors: tuple[ManifestError, ...] = ()
        self._merge()

    @property
    def known(self) -> dict[str, Signature]:
        """The files that need not be read again while they are as they were."""
        return {name: one.signature for name, one in self._files.items() if one.taken}

    @property
    def by_file(self) -> dict[str, tuple[StaticPod, ...]]:
        """The pods that count, by the file that they are from."""
        return {name: one.pods for name, one in self._files.items() if one.pods}

    @property
    def unsure(self) -> bool:
        """Whether a file is not known for sure: being written, or just gone."""
        files = self._files.values()
        return any(one.unsure is not None or one.away_since is not None for one in files)

    def take(self, look: Look, read: Mapping[str, Manifest], now: float) -> float | None:
        """Make use of *look*; seconds until the next one is needed, None while all is settled.

        *read* is what the files that were read hold. *now* is monotonic. When nothing could be
        looked at, everything stays as it is.
        """
        if look.missing:
            return None
        waits = [
            wait
            for name in sorted(look.entries)
            if (wait := self._take_file(name, look.entries[name], read.get(name), now)) is not None
        ]
        for name in [name for name in self._files if name not in look.entries]:
            one = self._files[name]
            if one.away_since is None:
                one.away_since, one.away_looks = now, 0
            one.away_looks += 1
            rest = GONE - (now - one.away_since)
            if (rest <= 0 and one.away_looks >= LOOKS) or not one.pods:
                del self._files[name]
            else:
                waits.append(min(max(rest, 0.0), GONE / (LOOKS - 1)))
        self._merge()
        return min(waits, default=None)

    def _take_file(
        self, name: str, entry: Entry, manifest: Manifest | None, now: float
    ) -> float | None:
        one = self._files.setdefault(name, _File())
        one.away_since = None
        if entry.trouble:
            manifest = Manifest(errors=(ManifestError(name, 0, entry.trouble),))
        if manifest is None or (entry.trouble and entry.trouble == one.trouble):
            one.unsure = None
            return None
        if one.unsure != entry.signature:
            one.unsure, one.since = entry.signature, now
        rest = now - one.since
        if entry.busy and rest < MOST_BUSY:
            return LOOK_AGAIN
        if (manifest.errors or entry.busy is None) and rest < SETTLE:
            return SETTLE - rest
        _use(one, manifest)
        one.unsure = None
        one.signature, one.trouble = entry.signature, entry.trouble
        one.taken = not entry.trouble
        return None

    def _merge(self) -> None:
        """Put the files together; pods from before count only where nothing else is."""
        sure: dict[str, list[StaticPod]] = {}
        rest: list[StaticPod] = []
        for name, one in sorted(self._files.items()):
            away = one.away_since is not None
            for pod in one.pods:
                if away or pod.pod.key in one.kept:
                    rest.append(pod)
                else:
                    sure.setdefault(name, []).append(pod)
        pods, clashes = merge(sure)
        keys = {pod.pod.key for pod in pods.values()}
        for pod in rest:
            if pod.pod.key not in keys:
                keys.add(pod.pod.key)
                pods[pod.pod.uid] = pod
        # Who has a pod keeps the same object while its content is the same.
        self.pods = {uid: self._same(uid, pod) for uid, pod in pods.items()}
        told = [error for _, one in sorted(self._files.items()) for error in one.errors]
        self.errors = (*told, *clashes)

    def _same(self, uid: str, pod: StaticPod) -> StaticPod:
        old = self.pods.get(uid)
        return replace(old, file=pod.file, line=pod.line) if old is not None else pod


def _use(one: _File, manifest: Manifest) -> None:
    """Let *manifest* count, with the pods from before in place of those with errors."""
    new = {pod.pod.key for pod in manifest.pods}
    wrong = {error.key for error in manifest.errors}
    kept = tuple(
        pod for pod in one.pods if pod.pod.key not in new and ("" in wrong or pod.pod.key in wrong)
    )
    keys = frozenset(pod.pod.key for pod in kept)
    one.pods, one.kept = (*manifest.pods, *kept), keys
    one.errors = tuple(
        replace(error, text=f"{error.text}; the pod goes on as it was before")
        if (keys if not error.key else error.key in keys)
        else error
        for error in manifest.errors
    )
