"""What each endpoint said last while none gives what is wanted, and one error for all of it.

The error has the same text for as long as every endpoint fails in the same way, whichever of
them was asked last, so that a caller who compares texts hears of each change of cause once.
"""

from collections.abc import Mapping, Sequence

from hostkit.etcd.errors import (
    EndpointFault,
    EtcdApiError,
    EtcdError,
    EtcdTlsError,
    EtcdUnavailable,
    EtcdVersionError,
)

# What another endpoint may not suffer from.
ENDPOINT_TROUBLE = (EndpointFault, EtcdTlsError, EtcdVersionError)


class Faults:
    """The last error of each of *endpoints* that failed."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._endpoints = endpoints
        self._errors: dict[str, EtcdError] = {}

    def note(self, endpoint: str, error: EtcdError) -> None:
        """*endpoint* failed with *error*."""
        before = self._errors.get(endpoint)
        # Time-outs differ only by the time that the total deadline left for them.
        if not (_overdue(error) and _overdue(error) == _overdue(before)):
            self._errors[endpoint] = error

    def clear(self) -> None:
        """An endpoint answered."""
        self._errors.clear()

    @property
    def errors(self) -> Mapping[str, EtcdError]:
        """The last error of each endpoint that failed, in the order of the endpoints."""
        return {name: self._errors[name] for name in self._endpoints if name in self._errors}

    @property
    def complete(self) -> bool:
        """Whether every endpoint failed."""
        return len(self._errors) == len(self._endpoints)

    @property
    def hopeless(self) -> bool:
        """Whether waiting cannot help: every endpoint fails by TLS or version."""
        lasting = (EtcdTlsError, EtcdVersionError)
        return self.complete and all(isinstance(it, lasting) for it in self._errors.values())

    def summary(self) -> EtcdError:
        """One error for what was noted, of which there must be something.

        A refusal comes first, because there etcd did answer; then TLS or version, if that is
        all there is; else EtcdUnavailable with each endpoint's cause.
        """
        errors = list(self.errors.values())
        refusals = [error for error in errors if isinstance(error, EtcdApiError)]
        if refusals:
            return refusals[0]
        faults = [error for error in errors if isinstance(error, EndpointFault)]
        if not faults:
            return errors[0]
        if len(faults) == len(errors) and all(fault.suspect_tls for fault in faults):
            return EtcdTlsError(faults[0].endpoint, faults[0].cause)
        return EtcdUnavailable({name: cause(name, it) for name, it in self.errors.items()})


def cause(endpoint: str, error: EtcdError) -> str:
    """The text of *error* without the name of *endpoint*."""
    return str(error).removeprefix(f"etcd {endpoint}: ")


def _overdue(error: EtcdError | None) -> str:
    return error.overdue if isinstance(error, EndpointFault) else ""
