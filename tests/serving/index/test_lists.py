"""Lists around centres: into which a query looks, and how far that is measured."""

import dataclasses

import numpy as np
import pytest

from config.errors import UserError
from serving.index.card import read_card, write_card
from serving.index.engines.lists import InvertedFile, build_lists, load_lists
from serving.index.index import Index
from tests.vector_makers import unit_vectors


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> InvertedFile:
    """Return lists of 1,000 vectors around 64 centres."""
    folder = tmp_path_factory.mktemp("lists")
    return load_lists(folder, build_lists(folder, unit_vectors(1000)))


def centres_of(engine: InvertedFile) -> np.ndarray:
    return engine._index.quantizer.reconstruct_n(0, engine.lists)


def rows_of(engine: InvertedFile, number: int) -> list[int]:
    """Return the rows that one list holds: what a search finds that looks into it alone."""
    engine._index.nprobe = 1
    _, rows = engine._index.search_preassigned(unit_vectors(1), 1000, np.array([[number]]), np.zeros((1, 1)))
    return rows[rows >= 0].tolist()


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.4, 2.0])
@pytest.mark.parametrize("probes", [1, 5, 64])
def test_a_query_looks_into_the_lists_whose_centres_are_nearly_as_good_as_the_best(engine, margin, probes):
    queries = unit_vectors(7, seed=3)
    engine.margin, engine.probes = margin, probes
    _, found = engine.propose(queries, 1000, None)
    for query, rows, number in zip(queries, found, engine.looked_into(queries), strict=True):
        scores = [float(centre @ query) for centre in centres_of(engine)]
        best_first = sorted(range(64), key=lambda each: -scores[each])
        near = [each for each in best_first if scores[each] >= max(scores) - margin][:probes]
        assert number == len(near)
        assert sorted(rows[rows >= 0]) == sorted(row for each in near for row in rows_of(engine, each))


def test_queries_beyond_what_is_held_at_a_time_find_the_same(engine, monkeypatch):
    queries = unit_vectors(9, seed=4)
    engine.margin, engine.probes = 0.2, 64
    expected = engine.propose(queries, 30, None)
    monkeypatch.setattr("serving.index.engines.lists._MOST_NUMBERS", 2 * engine.lists)
    for found, right in zip(engine.propose(queries, 30, None), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5)


def test_where_few_rows_are_allowed_more_lists_are_looked_into(engine):
    allowed = np.arange(1000) % 10 == 3
    engine.margin, engine.probes = 0.1, 64
    most = engine.looked_into(unit_vectors(1, seed=5))[0]
    _, (rows,) = engine.propose(unit_vectors(1, seed=5), 1000, allowed)
    found = rows[rows >= 0]
    assert 10 * most < 64 and set(found % 10) == {3}
    assert len(found) > sum(len(rows_of(engine, number)) for number in range(64)) / 64 * most / 10


def test_the_card_says_how_near_centres_must_be_and_how_many_lists_that_makes(make_index):
    with Index(make_index(unit_vectors(2000, 16), "lists")) as index:
        parameters = index.card.parameters
    assert parameters["lists"] == 64 and 0 < parameters["margin"] <= 2
    assert 1 <= parameters["mean_probes"] <= parameters["probes"] <= 64


def test_an_index_that_was_built_with_a_number_of_lists_alone_looks_into_so_many(make_index):
    folder = make_index(unit_vectors(500), "lists")
    card = read_card(folder)
    write_card(folder, dataclasses.replace(card, parameters={"lists": 32, "probes": 3}))
    with Index(folder) as index:
        engine = index._view.parts[0].engine
        assert engine.looked_into(unit_vectors(20, seed=1)).tolist() == [3] * 20
        assert len(index.search(unit_vectors(1, seed=1), 5)[0]) == 5


@pytest.mark.parametrize("margin", [-0.1, "wide", None, True])
def test_a_margin_that_is_no_distance_is_a_damaged_card(make_index, margin):
    folder = make_index(unit_vectors(500), "lists")
    card = read_card(folder)
    write_card(folder, dataclasses.replace(card, parameters={**card.parameters, "margin": margin}))
    with pytest.raises(UserError, match="a field has a value that cannot be"):
        Index(folder)
