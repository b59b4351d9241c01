"""Rivals count for ranks and precisions at R only where they reach a relevant item that may still matter."""

import numpy as np
import pytest

from engine.ranking.pictures import counter as module
from engine.ranking.pictures.counter import ImageCounter


def counter_of(*scores: float) -> ImageCounter:
    return ImageCounter(np.array([scores], np.float32), np.array([len(scores)]))


def add(counter: ImageCounter, *rivals: float, spread: float = 0.0, asked: list | None = None) -> None:
    """Count rivals of known scores, of which the counter is told no more than bounds."""
    rivals = np.array(rivals, np.float32)
    places = np.zeros(len(rivals), int)
    count, _ = counter.open_items(np.array([0]))

    def settle(which: np.ndarray, bars: np.ndarray) -> np.ndarray:
        if asked is not None:
            asked.extend(zip(rivals[which].tolist(), bars.tolist(), strict=True))
        return rivals[which]

    counts = np.repeat(count, len(rivals))
    behind = counter.best_behind(places, counts, rivals - spread, rivals + spread, settle)
    counter.add(np.array([0]), count, places, *behind)


def result(counter: ImageCounter, tie_rule: str = "against") -> list[float]:
    """Return rank, average precision and R-precision of the only query."""
    return [float(each[0]) for each in counter.result(np.array([0]), tie_rule)[:3]]


@pytest.mark.parametrize("spread", [0.0, 0.3, 4.0], ids=["exact", "near", "far apart"])
def test_rivals_take_the_places_before_the_relevant_items_that_they_are_ahead_of(spread: float) -> None:
    counter = counter_of(5, 9, 2)
    add(counter, 5, 1, spread=spread)
    # 9, then 5 and its equal, then 2: against the model, places 1 and 3 of three are relevant.
    assert result(counter) == pytest.approx([0, (1 + 2 / 3) / 3, 2 / 3])
    assert result(counter, "favour") == pytest.approx([0, (1 + 1) / 3, 2 / 3])
    assert result(counter, "average") == pytest.approx([0, (1 + 5 / 6) / 3, 2 / 3])
    add(counter, 9.5, 7, spread=spread)
    assert result(counter) == pytest.approx([1, 1 / 2 / 3, 1 / 3])


def test_only_a_rival_between_whose_bounds_a_relevant_score_lies_is_multiplied() -> None:
    asked: list[tuple[float, float]] = []
    counter = counter_of(9, 5, 4.9)
    add(counter, 7, 5.05, 8.9, spread=0.12, asked=asked)
    assert [(round(score, 2), round(bar, 2)) for score, bar in asked] == [(5.05, 5.0), (8.9, 9.0)]
    asked.clear()
    add(counter_of(9, 5, 4.9), 4.95, spread=0.12, asked=asked)
    assert np.isnan(asked[0][1]), "of two relevant scores within bounds, which one is told by the score alone"


def test_the_bar_rises_with_the_rivals_and_what_is_below_it_changes_nothing(monkeypatch) -> None:
    monkeypatch.setattr(module, "DEEPEST", 4)
    counter, place = counter_of(9, 5, 2), np.array([0])
    bar = lambda: float(counter.open_items(place)[1][0])  # noqa: E731
    assert bar() == 2
    add(counter, 3)
    assert bar() == 5, "the last relevant item has place 4 of 3"
    add(counter, 5.5, 6)
    assert bar() == 9
    add(counter, 10, 11, 12)
    assert bar() == 9, "ranks are counted on, up to the deepest"
    assert result(counter) == [3, 0, 0]
    add(counter, 13, 14)
    assert bar() == np.inf
    assert result(counter) == [4, 0, 0]


def test_what_leads_raises_the_bar_before_it_is_counted() -> None:
    counter, place = counter_of(9, 5, 2), np.array([0])
    count, bar = counter.open_items(place, np.array([6], np.float32))
    assert (count.tolist(), bar.tolist()) == ([1], [9]), "three rivals above 6 leave no place for 5 and 2"
    nothing = np.empty(0, int)
    counter.add(place, count, nothing, nothing, nothing)
    assert result(counter) == pytest.approx([0, 1 / 3, 1 / 3])
    assert counter_of(9, 5, 2).open_items(place, np.array([20], np.float32))[1] == 9, "the rank is counted on"


def test_a_query_without_a_relevant_item_has_no_bar_that_a_score_reaches() -> None:
    counter = ImageCounter(np.array([[-np.inf, -np.inf], [3, -np.inf]], np.float32), np.array([0, 1]))
    assert counter.open_items(np.array([0, 1]))[1].tolist() == [np.inf, 3]
