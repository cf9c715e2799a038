"""What the endpoints said becomes one error that changes only with a cause."""

from hypothesis import given
from hypothesis import strategies as st

from hostkit.etcd.errors import (
    EndpointFault,
    EtcdAuthError,
    EtcdError,
    EtcdTlsError,
    EtcdUnavailable,
    EtcdVersionError,
)
from hostkit.etcd.faults import Faults

A, B, C = ENDPOINTS = ("http://a:1", "http://b:1", "http://c:1")


def refused(endpoint: str) -> EndpointFault:
    return EndpointFault(endpoint, "Connection refused", sent=False)


def late(endpoint: str, seconds: str, what: str = "no answer") -> EndpointFault:
    return EndpointFault(endpoint, f"{what} within {seconds} s", sent=True, overdue=what)


def noted(*errors: tuple[str, EtcdError]) -> Faults:
    faults = Faults(ENDPOINTS)
    for endpoint, error in errors:
        faults.note(endpoint, error)
    return faults


@given(st.permutations([(A, refused(A)), (B, EtcdVersionError(B)), (C, late(C, "3"))]))
def test_the_text_is_the_same_whichever_endpoint_failed_last(
    order: list[tuple[str, EtcdError]],
) -> None:
    faults = noted(*order)
    error = faults.summary()
    assert faults.complete
    assert isinstance(error, EtcdUnavailable)
    assert list(error.causes) == [A, B, C]
    assert error.causes[A] == "Connection refused"
    assert error.causes[B].startswith("has no /v3 API")


def test_a_time_out_cut_short_by_the_total_deadline_is_no_new_cause() -> None:
    faults = noted((A, late(A, "3")), (A, late(A, "0.41")))
    assert "within 3 s" in str(faults.summary())


def test_another_kind_of_time_out_and_any_other_fault_is_a_new_cause() -> None:
    faults = noted((A, late(A, "3")), (A, late(A, "3", "no connection")))
    assert "no connection" in str(faults.summary())
    faults.note(A, refused(A))
    assert "refused" in str(faults.summary())
    faults.note(A, late(A, "3"))
    assert "no answer" in str(faults.summary())


def test_a_refusal_by_an_etcd_that_answers_goes_before_endpoints_that_do_not() -> None:
    denied = EtcdAuthError(7, "permission denied", B)
    assert noted((A, refused(A)), (B, denied)).summary() is denied


def test_waiting_is_hopeless_only_when_all_fail_by_tls_or_version() -> None:
    two: list[tuple[str, EtcdError]] = [(B, EtcdVersionError(B)), (A, EtcdTlsError(A, "expired"))]
    assert not noted(*two).hopeless
    assert not noted(*two, (C, refused(C))).hopeless
    three = noted(*two, (C, EtcdTlsError(C, "expired")))
    assert three.hopeless
    assert str(three.summary()) == f"etcd {A}: expired"


def test_suspected_certificates_are_blamed_only_when_every_fault_suspects_them() -> None:
    suspect = EndpointFault(A, "connection closed", sent=True, suspect_tls=True)
    assert isinstance(noted((A, suspect)).summary(), EtcdTlsError)
    assert isinstance(noted((A, suspect), (B, refused(B))).summary(), EtcdUnavailable)


def test_nothing_is_left_after_an_answer() -> None:
    faults = noted((A, refused(A)))
    faults.clear()
    assert not faults.errors
