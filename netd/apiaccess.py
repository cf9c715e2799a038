"""How netd gets to the Kubernetes API: the flags for it, checked and put together.

Apart from the other settings because a kubeconfig needs a YAML reader, which takes longer to
import than ``netd status`` takes to answer.
"""

from hostkit.config import ConfigError, Settings
from hostkit.kube.config import KubeConfig, load
from hostkit.kube.errors import KubeConfigError
from netd.proxyflags import api_servers

_FLAGS = {
    "ca_file": "kube-cafile",
    "cert_file": "kube-certfile",
    "key_file": "kube-keyfile",
    "token_file": "kube-token-file",
}


def kube_config(settings: Settings) -> KubeConfig:
    """API servers and credentials; raises ConfigError naming the flag and where it was set."""
    try:
        return load(
            api_servers(settings),
            settings["kubeconfig"],
            token_file=settings["kube-token-file"],
            ca_file=settings["kube-cafile"],
            cert_file=settings["kube-certfile"],
            key_file=settings["kube-keyfile"],
        )
    except KubeConfigError as error:
        flag = _flag(settings, error.field)
        origin = settings.origins[flag]
        where = "" if origin == "default" else f"{origin}: "
        text = str(error).removeprefix(f"{error.field}: ")
        raise ConfigError(f"{where}{flag}: {text}") from error


def _flag(settings: Settings, field: str) -> str:
    """The setting to blame; a kubeconfig may name files and servers, too."""
    if field == "servers":
        return next((n for n in ("master", "api-servers") if settings[n]), "kubeconfig")
    flag = _FLAGS.get(field, "kubeconfig")
    partner = {"kube-certfile": "kube-keyfile", "kube-keyfile": "kube-certfile"}.get(flag, flag)
    return flag if settings[flag] or settings[partner] else "kubeconfig"
