"""The files that settings name and that are read once, at the start."""

from collections.abc import Mapping

from hostkit.config import Settings
from hostkit.etcd.tls import make_context
from netd.config import etcd_config, halves_to_run
from netd.proxyflags import listeners


def named_files(settings: Settings) -> Mapping[str, object]:
    """What those files say, by setting; certificates and tokens are read anew by who uses them.

    Raises HostkitError for settings or files with which netd would not start.
    """
    halves = halves_to_run(settings)
    listeners(settings)
    if halves.overlay and (etcd := etcd_config(settings)).tls:
        make_context(etcd)
    if not halves.services:
        return {}
    # A YAML reader comes with these.
    from hostkit.kube.credentials import Credentials  # noqa: PLC0415
    from netd.apiaccess import kube_config  # noqa: PLC0415

    access = kube_config(settings)
    Credentials(access)
    return {"kubeconfig": access}
