"""Student's t distribution for any real number of degrees of freedom, central and shifted, from numpy alone."""

from __future__ import annotations

import math

import numpy as np

_TINY = 1e-300
_STEPS = 4000


def two_sided_p(t: float, freedom: float) -> float:
    """P(|T| >= |t|): the regularized incomplete beta function I_x(f / 2, 1 / 2) at x = f / (f + t^2), DLMF 8.17."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def quantile(share: float, freedom: float) -> float:
    """The t below which T lies with probability `share`, by bisection.

    Raises:
        ValueError: If `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"a quantile is for a share between 0 and 1, not {share}")
    tail = 2 * min(share, 1 - share)
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > tail:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > tail else (low, middle)
    return math.copysign((low + high) / 2, share - 0.5)


def power(shift: float, freedom: float, level: float) -> float:
    """The chance that a two-sided t test at a level finds a difference of `shift` standard errors.

    T is (Z + shift) / W with W^2 = chi^2 / f, so the chance is the mean over W of both normal tails; the mean is a sum
    over a grid of W.
    """
    critical = quantile(1 - level / 2, freedom)
    w = (1 + 12 / math.sqrt(2 * freedom)) * (np.arange(_STEPS) + 0.5) / _STEPS
    log_density = (freedom - 1) * np.log(w) - freedom * w * w / 2
    weights = np.exp(log_density - log_density.max())
    erf = np.vectorize(math.erf)
    found = 1 - (erf((critical * w - shift) / math.sqrt(2)) - erf((-critical * w - shift) / math.sqrt(2))) / 2
    return float((found * weights).sum() / weights.sum())


def shift_found(freedom: float, level: float, wanted: float) -> float:
    """The smallest difference, in standard errors, that is found with the chance `wanted`, by bisection."""
    low, high = 0.0, 1.0
    while power(high, freedom, level) < wanted:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, freedom, level) < wanted else (low, middle)
    return high


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), by the continued fraction of DLMF 8.17.22 in Lentz's form (Numerical Recipes, 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    c, d = 1.0, 1 / _away_from_0(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 1000):
        change = 1.0
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d, c = 1 / _away_from_0(1 + step * d), _away_from_0(1 + step / c)
            change = c * d
            fraction *= change
        if abs(change - 1) < 1e-15:
            break
    return front * fraction / a


def _away_from_0(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
