"""One sample of all figures, and its three forms. Pure.

* the Summary of ``/stats/summary`` (``k8s.io/kubelet/pkg/apis/stats/v1alpha1``), which
  metrics-server reads up to 0.5;
* the text of ``/metrics/resource``, which it reads from 0.6 on;
* the text of ``/metrics/cadvisor``, under cAdvisor's names.

Times of day are for the readers: nothing here is reckoned with them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nodeagent.node.facts import Disk
from nodeagent.pods.observed import SANDBOX
from nodeagent.server.readings import Interface, NodeReading, Usage

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ContainerSample:
    """A running container; *rate* is CPU time in nanoseconds for each second."""

    name: str
    id: str
    image: str
    started_at: str
    usage: Usage
    rate: int


@dataclass(frozen=True, slots=True)
class PodSample:
    """A pod with its running containers, the sandbox (named POD) too."""

    namespace: str
    name: str
    uid: str
    started_at: str
    containers: tuple[ContainerSample, ...]
    interfaces: tuple[Interface, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything at *time* (Unix seconds); *failed* pods could not be read."""

    time: float
    node: NodeReading
    rate: int
    pods: tuple[PodSample, ...]
    failed: bool = False


def summary(sample: Sample, node_name: str) -> Json:
    """The Summary."""
    time = _stamp(sample.time)
    reading = sample.node
    node: Json = {
        "nodeName": node_name,
        "startTime": _stamp(sample.time - reading.uptime),
        "cpu": _cpu(time, reading.usage.cpu, sample.rate),
        "memory": _memory(time, [reading.usage], reading.memory_available),
        "network": _network(time, reading.interfaces),
        "rlimit": {"time": time, "maxpid": reading.max_pids, "curproc": reading.pids},
    }
    if reading.disk is not None:
        node["fs"] = _fs(time, reading.disk)
    if reading.image_disk is not None:
        node["runtime"] = {"imageFs": _fs(time, reading.image_disk)}
    return {"node": node, "pods": [_pod(time, pod) for pod in sample.pods]}


def _pod(time: str, pod: PodSample) -> Json:
    usages = [one.usage for one in pod.containers]
    found: Json = {
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started_at or None,
        "containers": [
            {
                "name": one.name,
                "startTime": one.started_at or None,
                "cpu": _cpu(time, one.usage.cpu, one.rate),
                "memory": _memory(time, [one.usage], _left(one.usage)),
            }
            for one in pod.containers
            if one.name != SANDBOX
        ],
        "cpu": _cpu(time, sum(u.cpu for u in usages), sum(one.rate for one in pod.containers)),
        "memory": _memory(time, usages, None),
    }
    if pod.interfaces:
        found["network"] = _network(time, pod.interfaces)
    return found


def _cpu(time: str, total: int, rate: int) -> Json:
    return {"time": time, "usageNanoCores": rate, "usageCoreNanoSeconds": total}


def _left(usage: Usage) -> int | None:
    return None if usage.limit is None else max(0, usage.limit - usage.working_set)


def _memory(time: str, usages: list[Usage], available: int | None) -> Json:
    found: Json = {
        "time": time,
        "usageBytes": sum(one.memory for one in usages),
        "workingSetBytes": sum(one.working_set for one in usages),
        "rssBytes": sum(one.rss for one in usages),
        "pageFaults": sum(one.page_faults for one in usages),
        "majorPageFaults": sum(one.major_faults for one in usages),
    }
    if available is not None:
        found["availableBytes"] = available
    return found


def _network(time: str, interfaces: tuple[Interface, ...]) -> Json:
    each = [
        {
            "name": one.name,
            "rxBytes": one.rx_bytes,
            "rxErrors": one.rx_errors,
            "txBytes": one.tx_bytes,
            "txErrors": one.tx_errors,
        }
        for one in interfaces
    ]
    # The outer figures are those of the interface that leads out of the host or pod.
    first = next((one for one in each if str(one["name"]).startswith(("eth", "en"))), None)
    return {"time": time, **(first or {"name": ""}), "interfaces": each}


def _fs(time: str, disk: Disk) -> Json:
    return {
        "time": time,
        "availableBytes": disk.free,
        "capacityBytes": disk.size,
        "usedBytes": max(0, disk.size - disk.free),
        "inodesFree": disk.inodes_free,
        "inodes": disk.inodes,
        "inodesUsed": max(0, disk.inodes - disk.inodes_free),
    }


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Line = tuple[Mapping[str, str], float | int]


def resource_metrics(sample: Sample) -> bytes:
    """The text of /metrics/resource."""
    pods, now = sample.pods, sample.time
    apps = [(p, c, _of(p, c)) for p in pods for c in p.containers if c.name != SANDBOX]
    whole = [(p, {"namespace": p.namespace, "pod": p.name}) for p in pods]
    families: list[tuple[str, str, str, Iterable[Line]]] = [
        ("container_cpu_usage_seconds_total", "counter", "CPU time of the container in seconds",
         [(labels, c.usage.cpu / 1e9) for _, c, labels in apps]),
        ("container_memory_working_set_bytes", "gauge", "Memory of the container that is in use",
         [(labels, c.usage.working_set) for _, c, labels in apps]),
        ("container_start_time_seconds", "gauge", "When the container began, in Unix time",
         [(labels, _seconds(c.started_at)) for _, c, labels in apps if c.started_at]),
        ("node_cpu_usage_seconds_total", "counter", "CPU time of the node in seconds",
         [({}, sample.node.usage.cpu / 1e9)]),
        ("node_memory_working_set_bytes", "gauge", "Memory of the node that is in use",
         [({}, sample.node.usage.working_set)]),
        ("pod_cpu_usage_seconds_total", "counter", "CPU time of the pod in seconds",
         [(labels, sum(c.usage.cpu for c in p.containers) / 1e9) for p, labels in whole]),
        ("pod_memory_working_set_bytes", "gauge", "Memory of the pod that is in use",
         [(labels, sum(c.usage.working_set for c in p.containers)) for p, labels in whole]),
    ]  # fmt: skip
    failed = int(sample.failed)
    text = "Whether a part of these figures could not be read: 1, else 0"
    parts = [_family(*one, at=now) for one in families]
    # Its name changed in Kubernetes 1.29; readers of either kind get theirs.
    for name in ("scrape_error", "resource_scrape_error"):
        parts += [_family(name, "gauge", text, [({}, failed)])]
    return "".join(parts).encode()


def cadvisor_metrics(sample: Sample) -> bytes:
    """The text of /metrics/cadvisor."""
    every = [(c, _of(p, c) | {"id": f"/docker/{c.id}", "image": c.image, "name": c.id})
             for p in sample.pods for c in p.containers]  # fmt: skip
    links = [
        (i, {"interface": i.name, "namespace": p.namespace, "pod": p.name})
        for p in sample.pods
        for i in p.interfaces
    ]
    node = sample.node
    families: list[tuple[str, str, str, Iterable[Line]]] = [
        ("container_cpu_usage_seconds_total", "counter", "CPU time in seconds",
         [(labels, c.usage.cpu / 1e9) for c, labels in every]),
        ("container_memory_usage_bytes", "gauge", "Memory, with the page cache",
         [(labels, c.usage.memory) for c, labels in every]),
        ("container_memory_working_set_bytes", "gauge", "Memory that is in use",
         [(labels, c.usage.working_set) for c, labels in every]),
        ("container_memory_rss", "gauge", "Memory of processes, without files",
         [(labels, c.usage.rss) for c, labels in every]),
        ("container_spec_memory_limit_bytes", "gauge", "Memory limit, 0 for none",
         [(labels, c.usage.limit or 0) for c, labels in every]),
        ("container_start_time_seconds", "gauge", "When it began, in Unix time",
         [(labels, _seconds(c.started_at)) for c, labels in every if c.started_at]),
        ("container_network_receive_bytes_total", "counter", "Bytes received",
         [(labels, i.rx_bytes) for i, labels in links]),
        ("container_network_receive_errors_total", "counter", "Errors in receiving",
         [(labels, i.rx_errors) for i, labels in links]),
        ("container_network_transmit_bytes_total", "counter", "Bytes sent",
         [(labels, i.tx_bytes) for i, labels in links]),
        ("container_network_transmit_errors_total", "counter", "Errors in sending",
         [(labels, i.tx_errors) for i, labels in links]),
        ("machine_cpu_cores", "gauge", "CPUs of the machine", [({}, node.cpus)]),
        ("machine_memory_bytes", "gauge", "Memory of the machine", [({}, node.memory_total)]),
    ]  # fmt: skip
    return "".join(_family(*one, at=sample.time) for one in families).encode()


def _of(pod: PodSample, container: ContainerSample) -> dict[str, str]:
    return {"container": container.name, "namespace": pod.namespace, "pod": pod.name}


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _family(
    name: str, kind: str, text: str, lines: Iterable[Line], *, at: float | None = None
) -> str:
    rows = "".join(_rows(name, lines, "" if at is None else f" {int(at * 1000)}"))
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{rows}" if rows else ""


def _rows(name: str, lines: Iterable[Line], end: str) -> Iterator[str]:
    for labels, value in lines:
        inner = ",".join(f'{key}="{_escaped(labels[key])}"' for key in sorted(labels))
        # repr() of a float is exact, and a form that Prometheus reads.
        yield f"{name}{f'{{{inner}}}' if inner else ''} {value!r}{end}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
