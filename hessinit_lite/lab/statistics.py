"""What several seeds say together: spreads, Student's intervals, correlations."""

from typing import NamedTuple

import torch

from ..tables import formatted


class Interval(NamedTuple):
    """A mean with Student's interval around it.

    Example:
        >>> print(hl.Interval(mean=1.0, low=0.5, high=1.5))
        1 [0.5, 1.5]
    """

    mean: float
    low: float
    high: float

    def __str__(self):
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def spread(values, digits=2):
    """Mean ± standard deviation of some runs, as text; runs that are not finite are counted.

    Args:
        values: numbers, one a run.
        digits: decimals.

    Example:
        >>> hl.spread([1.0, 2.0, 3.0])
        '2.00 ± 1.00'
        >>> hl.spread([1.0, float("inf")])
        '1 of 2 diverge'
    """
    values = _numbers(values)
    lost = int((~values.isfinite()).sum())
    if lost:
        return f"{lost} of {len(values)} diverge"
    mean_and_std = values.mean(), values.std()
    return " ± ".join(formatted(float(x), f".{digits}f") for x in mean_and_std)


def interval(values, level=0.95):
    """Student's interval for the mean of independent runs, an Interval.

    For paired runs give the differences. It assumes that the mean of so many runs is normal.

    Args:
        values: finite numbers, one a run, at least two.
        level: how often such an interval holds the mean.

    Raises:
        ValueError: for fewer than two runs, runs that are not finite, or a level outside (0, 1).

    Example:
        >>> print(hl.interval([1.0, 2.0, 3.0]))
        2 [-0.484, 4.48]
    """
    from scipy import stats  # loading it takes longer than what follows

    values = _numbers(values)
    if len(values) < 2 or not values.isfinite().all():
        raise ValueError(f"an interval needs two finite runs at least, got {values.tolist()}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}")
    mean = float(values.mean())
    half = float(values.std()) / len(values) ** 0.5 * stats.t.ppf((1 + level) / 2, len(values) - 1)
    return Interval(mean, mean - half, mean + half)


def correlations(a, b):
    """Pearson's r of every column of a [N, i] with every column of b [N, j], as [i, j].

    Example:
        >>> x = torch.arange(4.0)[:, None]
        >>> hl.correlations(x, torch.cat([x, -x], 1)).tolist()
        [[1.0, -1.0]]
    """
    a, b = a - a.mean(0), b - b.mean(0)
    return a.T @ b / (a.norm(dim=0)[:, None] * b.norm(dim=0))


def _numbers(values):
    return torch.as_tensor(values, dtype=torch.float64).flatten()
