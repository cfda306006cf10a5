"""Which architectures to measure first, before anything is known of a device: those whose costs tell most.

The prior of the predictor says how alike the costs of two architectures are. One after the other, the architecture is
taken whose cost is least known given those taken before (greedy D-optimal design: Sacks, Welch, Mitchell, Wynn 1989,
"Design and analysis of computer experiments").
"""

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError
from predictors.features import LatencyFeatures
from predictors.regressors.gaussian import prior_inputs

# Noise of a measurement, as a share of the variance of costs over a space.
_NOISE = 0.3


def most_telling(features: LatencyFeatures, pool_NG: npt.NDArray[np.int8], *, n: int) -> npt.NDArray[np.intp]:
    """Positions of `n` rows of `pool_NG`, the most telling first.

    Args:
        features: of the space; with sources, what their predictors already say is not asked again.
        pool_NG: genomes to choose from, some hundreds; cost and memory grow with their square.
        n: how many, at most as many as there are.

    Raises:
        PredictorError: `n` is negative or larger than the pool.
    """
    if not 0 <= n <= len(pool_NG):
        raise PredictorError(
            f"cannot choose {n} of {len(pool_NG)} architectures", hint="ask for no more than the pool holds"
        )
    inputs_MD = prior_inputs(features.encode(pool_NG), population=features.population())
    covariance_MM = inputs_MD @ inputs_MD.T
    chosen: list[int] = []
    for _ in range(n):
        open_M = np.diag(covariance_MM).copy()
        open_M[chosen] = -1.0
        best = int(open_M.argmax())
        chosen.append(best)
        column_M = covariance_MM[:, best].copy()
        covariance_MM -= np.outer(column_M, column_M) / (column_M[best] + _NOISE)
    return np.array(chosen, dtype=np.intp)
