"""The page of cost laws: exponents are those of the points, and what grows too fast stands out."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "scale"))

import law_page
import laws
import paper
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


def stored_everywhere() -> dict:
    """Return points of every part, of which every number is in proportion to the size."""
    names = {
        name for law in laws.LAWS for name in (law.number, f"{law.number}_wall", f"{law.number}_processor")
    }
    names |= {"wall", "processor", "read_memory"}
    return {
        "machine": "Machine: none.",
        "points": {
            part: {
                str(size): dict.fromkeys(names, size / 1e6) | {"busy": False, "date": "2026-01-01"}
                for size in sizes
            }
            for part, sizes in laws.SIZES.items()
        },
    }


def test_ranking_on_paper_grows_with_all_pairs_and_is_shared_by_cores() -> None:
    stored = stored_everywhere()
    once = paper.ranking_seconds(stored, 1000, 1)
    assert paper.ranking_seconds(stored, 10_000, 1) == pytest.approx(100 * once)
    assert paper.ranking_seconds(stored, 1000, 4) == pytest.approx(once / 4)


def test_a_loss_of_the_whole_batch_grows_with_the_square_of_the_cards() -> None:
    of_one, of_eight = (
        paper.training_needs(stored_everywhere(), 1, cards)["scores of a batch on a card"].need
        for cards in (1, 8)
    )
    assert of_eight == pytest.approx(64 * of_one)


def test_the_page_marks_what_breaks_first() -> None:
    stored = stored_everywhere()
    text = law_page.page(stored, list(laws.LAWS))
    needs = paper.training_needs(stored, 100, 64)
    first = max(needs, key=lambda name: needs[name].share)
    line = next(line for line in text.splitlines() if line.startswith(f"| 100 x | {first} |"))
    assert line.split(" | ")[-1].startswith("**")
    assert sum(line.count("**") // 2 for line in text.splitlines() if " x | " in line) == 9, (
        "one of each column"
    )
