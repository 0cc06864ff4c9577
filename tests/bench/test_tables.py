"""Printed tables."""

from vae_jax.bench import tables


def test_numbers_have_about_four_digits_and_no_exponent():
    numbers = (14196.2, 13.351, 1.0094, 0.98512, 0.0, None, -2.5)
    assert [tables.format_number(x) for x in numbers] == ["14,196", "13.35", "1.009", "0.985", "0.000", "", "-2.500"]
    assert tables.format_interval({"median": 0.5, "low": 0.25, "high": 1}, 1e3) == "500.0 (250.0 to 1,000)"
    assert tables.format_interval({"median": 0.5, "low": None, "high": None}, 1e3) == "500.0"
