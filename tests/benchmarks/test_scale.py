"""The page of cost laws: exponents are those of the points, and what grows too fast stands out."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "scale"))

import law_page
import laws
from laws import Law, exponent, grows_too_fast

SIZES = np.array([10.0, 100, 1000, 10_000])


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_the_exponent_of_a_power_law_is_its_power(power: float) -> None:
    assert exponent(SIZES, 3 * SIZES**power) == pytest.approx(power, abs=1e-9)


def test_what_is_paid_once_does_not_hide_how_the_largest_points_grow() -> None:
    law = Law("a cost", "start", "", "s", 1, "size")
    assert not grows_too_fast(law, SIZES, 100 + SIZES)
    assert grows_too_fast(law, SIZES, 100 + SIZES**1.5)


def points(busy: bool) -> dict:
    return {
        str(size): {"wall": size / 1000, "processor": size**2 / 1e6, "busy": busy, "date": "2026-01-01"}
        for size in laws.SIZES["start"]
    }


@pytest.mark.parametrize(("busy", "power"), [(False, "1.00 | 1.00"), (True, "2.00 | **2.00**")])
def test_a_row_takes_processor_time_if_other_programs_ran(busy: bool, power: str) -> None:
    law = next(law for law in laws.LAWS if law.part == "start")
    line = law_page.row({"points": {"start": points(busy)}}, law)
    assert f"| {power} | 1 |" in line
    assert ("*" in line) == busy
