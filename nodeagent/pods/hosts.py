"""The text of a pod's /etc/hosts, and the names that a pod has."""

from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod

LONGEST_HOSTNAME = 63
"""Characters, the length of a DNS label (RFC 1035); the kernel's limit is 64."""

_LOOPBACK = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "ff00::0\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def hostname_of(pod: Pod, host: Host) -> str:
    """The pod's name for itself, without domain."""
    if pod.spec.host_network:
        return host.hostname
    return (pod.spec.hostname or pod.metadata.name)[:LONGEST_HOSTNAME].rstrip("-.")


def domain_of(pod: Pod, host: Host) -> str:
    """The domain of a pod with a subdomain, "" for others."""
    if not pod.spec.subdomain or pod.spec.host_network:
        return ""
    domain = host.cluster_domain.strip(".")
    return f"{pod.spec.subdomain}.{pod.metadata.namespace}.svc{'.' if domain else ''}{domain}"


def hosts_text(pod: Pod, host: Host, pod_ip: str, host_file: str = "") -> str:
    """The file for *pod*; *host_file* is the host's own, for pods in the host's network."""
    if pod.spec.host_network:
        own = host_file or _LOOPBACK
        text = own if own.endswith("\n") else f"{own}\n"
    else:
        text = f"# written by nodeagent for pod {pod.key}\n{_LOOPBACK}"
        if pod_ip:
            name, domain = hostname_of(pod, host), domain_of(pod, host)
            text += f"{pod_ip}\t{name}.{domain}\t{name}\n" if domain else f"{pod_ip}\t{name}\n"
    if pod.spec.host_aliases:
        text += "\n# hostAliases of the pod\n"
        text += "".join(
            f"{alias.ip}\t{' '.join(alias.hostnames)}\n" for alias in pod.spec.host_aliases
        )
    return text
