"""Kubernetes' quantities: exact numbers with a suffix, such as ``250m``, ``1.5`` or ``64Mi``.

The grammar is that of ``k8s.io/apimachinery/pkg/api/resource``: a decimal number, then a binary
suffix (Ki to Ei), a decimal one (n to E) or a decimal exponent. As there, amounts beyond
2**63 - 1 become that, and what is finer than a billionth is rounded up, away from zero.
"""

import math
import re
from fractions import Fraction
from functools import lru_cache

from nodeagent.pods.known import Quantity

MOST = 2**63 - 1
"""The largest amount."""

_NUMBER = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([A-Za-z]{0,2}|[eE][+-]?[0-9]{1,9})")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_LONGEST = 64  # characters: nobody writes more, and longer ones only cost time
_NANO = 10**9


@lru_cache(maxsize=512)
def parse(value: Quantity) -> Fraction:
    """The amount that *value* is; raises ValueError naming the text."""
    text = str(value).strip()
    found = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(_advice(text))
    sign, digits, suffix = found.groups()
    amount = Fraction(digits)
    if suffix in _BINARY:
        amount *= 2 ** _BINARY[suffix]
    elif suffix in _DECIMAL:
        amount *= Fraction(10) ** _DECIMAL[suffix]
    elif suffix[0] in "eE" and len(suffix) > 1 and not suffix[1:].isalpha():
        # 10**99 is beyond MOST and 10**-99 below a billionth, whatever the digits.
        amount *= Fraction(10) ** max(-99, min(99, int(suffix[1:])))
    else:
        raise ValueError(_advice(text))
    amount = min(Fraction(math.ceil(amount * _NANO), _NANO), Fraction(MOST))
    return -amount if sign == "-" else amount


def divide(value: Fraction, divisor: Fraction) -> int:
    """*value* in units of *divisor*, rounded up; a divisor of 0 counts as 1."""
    return math.ceil(value / divisor) if divisor else math.ceil(value)


def milli(value: Fraction) -> int:
    """Thousandths, rounded up."""
    return math.ceil(value * 1000)


def whole(value: Fraction) -> int:
    """Whole units, rounded up."""
    return math.ceil(value)


def format_cores(value: Fraction | int) -> str:
    """The canonical form of cpu: ``250m``, ``2``; rounded up to a thousandth."""
    count = math.ceil(Fraction(value) * 1000)
    return f"{count}m" if count % 1000 else str(count // 1000)


def format_kib(count: int) -> str:
    """Bytes as a node's capacity has them: ``16303428Ki``, rounded down."""
    return f"{count // 1024}Ki"


def format_bytes(value: Fraction | int) -> str:
    """The canonical form of bytes: ``64Mi``, ``1Gi``, ``1000``; rounded up to a whole byte."""
    count = math.ceil(value)
    if abs(count) >= 1024:
        for suffix, power in sorted(_BINARY.items(), key=lambda item: -item[1]):
            if count % 2**power == 0:
                return f"{count >> power}{suffix}"
    return str(count)


def _advice(text: str) -> str:
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"{shown!r} is no quantity: use one such as 250m, 1.5, 64Mi or 2Gi"
