"""What of a pod nodeagent cannot honour, or what makes no sense: a sentence for each.

An API server checks most of this. Manifests, and objects that were written to etcd by hand, have
passed none; names among them become names of folders and paths of requests.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from nodeagent.pods import checknames as check
from nodeagent.pods.checkcontainer import (
    app_armor_problems,
    container_problems,
    seccomp_problems,
)
from nodeagent.pods.checkunknown import unknown_kinds, unknown_problems
from nodeagent.pods.checkvolume import volume_problems
from nodeagent.pods.model import Pod, PodSpec

MOST_TOLD = 20
"""Sentences about one pod; the rest is counted."""

_SEARCH = re.compile(
    r"(?=.{1,254}\Z)(\.|[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?)*\.?)"
)
_SYSCTL = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-_a-z0-9]*[a-z0-9])?([./][a-zA-Z0-9]([-_a-zA-Z0-9]*[a-zA-Z0-9])?)*"
)
_OPTION = re.compile(r"[!-~]+")


def problems_of(pod: Pod, raw_spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences, each naming a field and what to do; *raw_spec* is the spec before decoding."""
    found = [
        *dict.fromkeys(
            chain(
                _identity(pod),
                unknown_problems(raw_spec),
                container_problems(pod),
                volume_problems(pod, unknown_kinds(raw_spec)),
                _whole(pod.spec),
                _dns(pod.spec),
                _security(pod.spec),
            )
        )
    ]
    if len(found) > MOST_TOLD:
        found[MOST_TOLD:] = [f"and {len(found) - MOST_TOLD} problems more"]
    return tuple(found)


def _identity(pod: Pod) -> Iterator[str]:
    meta = pod.metadata
    yield from check.subdomain("metadata.name", meta.name)
    yield from check.label("metadata.namespace", meta.namespace)
    if not check.UID.fullmatch(meta.uid):
        yield f"metadata.uid is {check.shown(meta.uid)}: it cannot be the name of a folder"


def _whole(spec: PodSpec) -> Iterator[str]:
    yield from check.one_of(
        "spec.restartPolicy", spec.restart_policy, ("Always", "OnFailure", "Never")
    )
    yield from check.at_least("spec.activeDeadlineSeconds", spec.active_deadline_seconds, 1)
    yield from check.at_least(
        "spec.terminationGracePeriodSeconds", spec.termination_grace_period_seconds, 0
    )
    if spec.hostname:
        yield from check.label("spec.hostname", spec.hostname)
    if spec.subdomain:
        yield from check.label("spec.subdomain", spec.subdomain)
    if spec.service_account_name:
        yield from check.subdomain("spec.serviceAccountName", spec.service_account_name)
    for number, secret in enumerate(spec.image_pull_secrets):
        yield from check.subdomain(f"spec.imagePullSecrets[{number}].name", secret.name)
    if spec.share_process_namespace and spec.host_pid:
        yield "spec.shareProcessNamespace and spec.hostPID exclude each other: keep one of them"


def _dns(spec: PodSpec) -> Iterator[str]:
    yield from check.one_of(
        "spec.dnsPolicy", spec.dns_policy,
        ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    )  # fmt: skip
    config = spec.dns_config
    if spec.dns_policy == "None" and not (config and config.nameservers):
        yield "spec.dnsPolicy None needs spec.dnsConfig.nameservers: name at least one"
    if config is not None:
        path = "spec.dnsConfig"
        for number, server in enumerate(config.nameservers):
            yield from check.address(f"{path}.nameservers[{number}]", server)
        for number, search in enumerate(config.searches):
            if not _SEARCH.fullmatch(search):
                yield f"{path}.searches[{number}] is {check.shown(search)}: use a DNS domain"
        for number, option in enumerate(config.options):
            text = f"{option.name}{option.value or ''}"
            if not option.name or not _OPTION.fullmatch(text):
                yield f"{path}.options[{number}] is {check.shown(text)}: use one such as ndots"
    for number, alias in enumerate(spec.host_aliases):
        yield from check.address(f"spec.hostAliases[{number}].ip", alias.ip)
        for place, name in enumerate(alias.hostnames):
            yield from check.subdomain(f"spec.hostAliases[{number}].hostnames[{place}]", name)


def _security(spec: PodSpec) -> Iterator[str]:
    path, context = "spec.securityContext", spec.security_context
    yield from check.user_or_group(f"{path}.runAsUser", context.run_as_user)
    yield from check.user_or_group(f"{path}.runAsGroup", context.run_as_group)
    yield from check.user_or_group(f"{path}.fsGroup", context.fs_group)
    for number, group in enumerate(context.supplemental_groups):
        yield from check.user_or_group(f"{path}.supplementalGroups[{number}]", group)
    yield from check.one_of(
        f"{path}.fsGroupChangePolicy", context.fs_group_change_policy,
        ("", "Always", "OnRootMismatch"),
    )  # fmt: skip
    if context.supplemental_groups_policy not in {"", "Merge"}:
        yield (
            f"{path}.supplementalGroupsPolicy {check.shown(context.supplemental_groups_policy)}: "
            "Docker always adds the image's groups, use Merge"
        )
    yield from seccomp_problems(f"{path}.seccompProfile", context.seccomp_profile)
    yield from app_armor_problems(f"{path}.appArmorProfile", context.app_armor_profile)
    for number, sysctl in enumerate(context.sysctls):
        if not _SYSCTL.fullmatch(sysctl.name):
            yield (
                f"{path}.sysctls[{number}].name is {check.shown(sysctl.name)}: use a name such as "
                "net.ipv4.tcp_syncookies"
            )
    yield from check.unique(f"{path}.sysctls", (one.name for one in context.sysctls), "the name")
