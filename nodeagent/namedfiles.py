"""The files that settings name and that are read once, at the start."""

from collections.abc import Mapping

from hostkit.config import Settings
from hostkit.kube.credentials import Credentials
from nodeagent import config


def named_files(settings: Settings) -> Mapping[str, object]:
    """What those files say, by setting; certificates, tokens and manifests are read anew by who
    uses them.

    Raises HostkitError for settings or files with which nodeagent would not start.
    """
    config.sources(settings)
    for check in (config.node_labels, config.node_taints, config.reserved, config.eviction):
        check(settings)
    access = config.api_config(settings)
    if access is None:
        return {}
    Credentials(access)
    return {"kubeconfig": access}
