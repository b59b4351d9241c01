"""The highest values of rows are those of sorting, whatever ties and bounds there are."""

import numpy as np
import pytest

from engine.ranking.precisions import leading


@pytest.mark.parametrize("levels", [0, 3, 1])
@pytest.mark.parametrize(("columns", "count"), [(1000, 7), (40, 7), (7, 7), (1003, 1)])
def test_the_highest_values(levels, columns, count):
    random = np.random.default_rng(columns)
    rows = random.normal(size=(9, columns)).astype(np.float32)
    if levels:
        rows = random.integers(0, levels, rows.shape).astype(np.float32)
    rows[0, columns // 2 :] = -np.inf
    found = np.sort(leading(rows, count), axis=1)
    np.testing.assert_array_equal(found, np.sort(rows, axis=1)[:, -count:])
