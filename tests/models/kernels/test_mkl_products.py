import numpy as np
import pytest

from models.kernels import mkl, mkl_products
from tests.closeness import assert_close

pytestmark = pytest.mark.skipif(mkl.library() is None, reason="this build of Paddle brings no MKL")


@pytest.mark.parametrize("wide_vectors", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 64, 65, 130])
def test_rows_are_multiplied_at_once_or_in_parts(monkeypatch, rows, wide_vectors):
    monkeypatch.setattr(mkl_products, "has_wide_vectors", lambda: wide_vectors)
    random = np.random.default_rng(rows)
    shapes = (rows, 37), (37, 9), (rows, 9)
    x, matrix, there = (random.standard_normal(shape, np.float32) for shape in shapes)
    out, added = np.full_like(there, np.nan), there.copy()
    packed = mkl_products.PackedMatrix(matrix, scale=2)
    packed.multiply(x, out)
    packed.multiply(x, added, add=True)
    expected, scale = 2 * (x.astype(np.float64) @ matrix), 2 * np.abs(x) @ np.abs(matrix)
    assert_close(out, expected, 37, scale)
    assert_close(added, expected + there, 38, scale + np.abs(there))
