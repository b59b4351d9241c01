"""How close two computed results have to be: a bound from what was added up, whatever processor did it.

An operation on floating-point numbers rounds its result s by at most u |s|, where u is the unit roundoff
(2^-24 in 32 bits). Processors and libraries add the same terms in different orders, and so differ by what was
rounded away. After n operations with the intermediate results s_k that is, to first order,

    sum_k d_k s_k  with  |d_k| <= u:  at most n u max|s_k|  (Higham 2002, section 3.1).

The d_k have either sign. By Hoeffding's inequality their sum exceeds c sqrt(n) u max|s_k| with a probability
of at most 2 exp(-c^2 / 2), which is 3e-8 for c = 6 (Higham and Mary 2019, SIAM J. Sci. Comput. 41(5)). The
smaller of both is the bound. It is not relative: where large terms cancel, the sum is near 0, and its error
is not.
"""

from collections.abc import Iterable, Sequence

import numpy as np

SINGLE = 2.0**-24  # u of float32
_DEVIATIONS = 6  # c


def assert_close(
    found: object,
    expected: object,
    terms: int,
    scale: object = None,
    unit: float | None = None,
    err_msg: object = "",
) -> None:
    """Assert that `found` and `expected`, of one shape, differ by rounding alone.

    `terms` is n: the operations that one number of the result passed through, one after another; n for a dot
    product of n numbers, and those of successive layers add up. `scale` is max|s_k|, for all numbers together
    or for each; None: the largest of `expected`, which is right unless terms were larger than all results.
    `unit` is u, that of both sides added up; None: what their types say, so that float64 and Python's numbers
    count as exact beside float32.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape} {err_msg}"
    if scale is None:
        scale = largest([expected])
    if unit is None:
        unit = _unit(found) + _unit(expected)
    bound = rounding(terms, unit) * np.asarray(scale, np.float64)
    error = np.abs(found.astype(np.float64) - expected)
    if not (error <= bound).all():  # nor is it where one is not a number
        share = np.where(error > 0, error, 0) / np.maximum(bound, np.finfo(np.float64).tiny)
        worst = np.unravel_index(np.nanargmax(share), share.shape)
        raise AssertionError(
            f"{err_msg} differs most at {tuple(map(int, worst))}: found {found[worst]}, expected "
            f"{expected[worst]}, {share[worst]:.3g} times the bound of {terms} roundings; "
            f"{np.isnan(error).sum()} are not a number"
        )


def rounding(terms: int, unit: float = 2 * SINGLE) -> float:
    """Return by what share of the scale results may differ; `terms` and `unit` as in `assert_close`."""
    return min(terms, _DEVIATIONS * terms**0.5) * unit


def largest(arrays: Iterable[object]) -> float:
    """Return the largest absolute value of all `arrays`.

    Gradients of one loss are sums of terms of like sizes, those too of which nothing is left.
    """
    return max(float(np.abs(np.asarray(array, np.float64)).max(initial=0)) for array in arrays)


def adam_may_part(gradient: np.ndarray, noise: np.ndarray | float, rates: Sequence[float]) -> np.ndarray:
    """Return how far apart two weights may be that Adam moved by the same gradients but for `noise`.

    `gradient` is the first step's, `rates` are the steps' learning rates. A step divides by the root of the
    mean square, in which the first gradient stays, so that noise moves a weight at step t by up to
    sqrt(t) noise / |gradient| of a rate. Where the gradient is noise itself, both may take full steps: each
    of a rate at most, or of 0.4% more at the third step (Cauchy-Schwarz).
    """
    share = np.minimum(1, noise / np.maximum(np.abs(gradient), np.finfo(np.float32).tiny))
    return 2 * 1.004 * sum(rates) * share


def _unit(array: np.ndarray) -> float:
    return np.finfo(array.dtype).eps / 2 if np.issubdtype(array.dtype, np.floating) else 0.0
