"""Changes the rates of a mixture's tasks by factors, for a phase of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase


def check_factors(factors: Mapping[str, float]) -> None:
    """Raises ValueError if a factor is negative or not finite."""
    for pattern, factor in factors.items():
        if not (factor >= 0 and math.isfinite(factor)):
            raise ValueError(
                f"the rate factor of {pattern!r} is {factor}; give a number from 0, which leaves "
                "these tasks out, or leave the pattern out."
            )


def with_factors(rates: Mapping[str, float], factors: Mapping[str, float]) -> dict[str, float]:
    """Multiplies tasks' rates by the factors of all patterns that match their names.

    Args:
      rates: of all tasks, by name.
      factors: by pattern, as in a shell: `*` is anything, `?` one letter, `[ab]` one of these.

    Returns:
      The new rates, in the order of the old ones; 0 for tasks left out.

    Raises:
      ValueError: if a pattern matches no task, a factor is negative, or no task is left.
    """
    check_factors(factors)
    for pattern in factors:
        if not any(fnmatchcase(name, pattern) for name in rates):
            near = get_close_matches(pattern, rates, n=3, cutoff=0) or list(rates)[:3]
            raise ValueError(
                f"rate_factors has {pattern!r}, which matches none of the mixture's {len(rates)} "
                f"tasks; the nearest are {', '.join(near)}; correct the pattern."
            )
    result = {
        name: rate * math.prod(f for pattern, f in factors.items() if fnmatchcase(name, pattern))
        for name, rate in rates.items()
    }
    if not any(rate > 0 for rate in result.values()):
        raise ValueError(
            f"the rate factors {dict(factors)} leave out all {len(rates)} tasks of the mixture; "
            "keep one."
        )
    return result
