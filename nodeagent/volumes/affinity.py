"""Which nodes a persistent volume can be used on (NodeSelector of ``k8s.io/api/core/v1``)."""

from collections.abc import Mapping

from nodeagent.pods.known import Known


class Requirement(Known, frozen=True):
    """A condition on one label or field."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Term(Known, frozen=True):
    """Conditions that must all hold; a term without any selects nothing."""

    match_expressions: tuple[Requirement, ...] = ()
    match_fields: tuple[Requirement, ...] = ()


class Selector(Known, frozen=True):
    """Terms of which one must hold."""

    node_selector_terms: tuple[Term, ...] = ()


def selects(selector: Selector, labels: Mapping[str, str], name: str) -> bool:
    """Whether the node *name* with these *labels* is one of those meant."""
    fields = {"metadata.name": name}
    return any(
        bool(term.match_expressions or term.match_fields)
        and all(_holds(one, labels) for one in term.match_expressions)
        and all(_holds(one, fields) for one in term.match_fields)
        for term in selector.node_selector_terms
    )


def _holds(wanted: Requirement, values: Mapping[str, str]) -> bool:
    there = wanted.key in values
    value = values.get(wanted.key, "")
    match wanted.operator:
        case "In":
            return there and value in wanted.values
        case "NotIn":
            return value not in wanted.values if there else True
        case "Exists":
            return there
        case "DoesNotExist":
            return not there
        case "Gt" | "Lt":
            return there and _compared(value, wanted)
    return False


def _compared(value: str, wanted: Requirement) -> bool:
    try:
        (limit,) = (int(one) for one in wanted.values)
        number = int(value)
    except ValueError:
        return False
    return number > limit if wanted.operator == "Gt" else number < limit
