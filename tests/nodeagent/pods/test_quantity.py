"""Kubernetes' quantities."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods import quantity
from nodeagent.pods.known import Quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", 1), ("100m", Fraction(1, 10)), ("1.5", Fraction(3, 2)), ("64Mi", 64 * 2**20),
        ("1e3", 1000), ("2Gi", 2 * 2**30), ("0.5Ki", 512), (".5", Fraction(1, 2)), ("2.", 2),
        ("1E", 10**18), ("1E3", 1000), ("12e-3", Fraction(12, 1000)), ("+4k", 4000), ("-1", -1),
        ("5u", Fraction(5, 10**6)), ("3n", Fraction(3, 10**9)), (2, 2), (0.25, Fraction(1, 4)),
        ("1e999999999", quantity.MOST), ("100Ei", quantity.MOST), ("1e-30", Fraction(1, 10**9)),
        (1e-07, Fraction(1, 10**7)), ("0", 0), (" 7 ", 7),
    ],
)  # fmt: skip
def test_amounts_are_exact(text: Quantity, amount: Fraction | int) -> None:
    assert quantity.parse(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", "x", "1 Gi", "1gi", "1KI", "1K", "e3", "1e", "1.2.3", "--1", "1eM", "Mi", "٣", "1_000",
     float("nan"), float("inf"), "9" * 1000, "1e9999999999", "0x10"],
)  # fmt: skip
def test_what_is_no_quantity_is_named(text: Quantity) -> None:
    with pytest.raises(ValueError, match="no quantity: use one such as") as caught:
        quantity.parse(text)
    assert str(text)[:20] in str(caught.value)


@settings(max_examples=200)
@given(st.text(max_size=20) | st.floats() | st.integers())
def test_a_parser_says_a_number_or_value_error(text: Quantity) -> None:
    try:
        found = quantity.parse(text)
    except ValueError:
        return
    assert abs(found) <= quantity.MOST


@settings(max_examples=200)
@given(st.integers(0, 2**62))
def test_bytes_survive_being_written_and_read(count: int) -> None:
    assert quantity.parse(quantity.format_bytes(count)) == count


@settings(max_examples=200)
@given(st.fractions(0, 10**6, max_denominator=10**7))
def test_cores_are_written_rounded_up_to_a_thousandth(value: Fraction) -> None:
    read = quantity.parse(quantity.format_cores(value))
    assert 0 <= read - value < Fraction(1, 1000)


@settings(max_examples=200)
@given(st.fractions(0, 10**9, max_denominator=1000), st.fractions(0, 10**6, max_denominator=1000))
def test_division_rounds_up_and_zero_counts_as_one(value: Fraction, divisor: Fraction) -> None:
    found = quantity.divide(value, divisor)
    assert 0 <= found * (divisor or 1) - value < (divisor or 1)


def test_canonical_forms() -> None:
    assert [quantity.format_cores(Fraction(n, 1000)) for n in (250, 2000, 1500, 0)] == [
        "250m", "2", "1500m", "0",
    ]  # fmt: skip
    assert [quantity.format_bytes(n) for n in (2**30, 3 * 2**19, 1000, 1500, 0)] == [
        "1Gi", "1536Ki", "1000", "1500", "0",
    ]  # fmt: skip
    assert quantity.format_kib(1_048_575) == "1023Ki"
