"""Which architectures to measure next: those the predictor is least sure of, unlike each other and what is known."""

from collections.abc import Set as AbstractSet

import numpy as np
import numpy.typing as npt

from predictors.errors import PredictorError
from predictors.predictor import CostPredictor
from searchspaces import Architecture, SearchSpace
from searchspaces.enumeration import ENUMERABLE, enumerate_genomes

_POOL_PER_PROPOSAL = 32
_SMALLEST_POOL = 512
_MOST_DRAWS = 8


def propose(
    predictor: CostPredictor,
    n: int,
    *,
    space: SearchSpace,
    known_NG: npt.NDArray[np.int8],
    rng: np.random.Generator,
    exclude: AbstractSet[str],
) -> list[Architecture]:
    """Choose up to `n` architectures, one after the other, by interval width times distance to the nearest known one.

    Args:
        predictor: whose intervals count.
        n: how many, at least 0.
        space: where to look.
        known_NG: genomes that were measured already; never proposed.
        rng: draws the candidates.
        exclude: further arch ids that are never proposed.

    Raises:
        PredictorError: `n` is negative.
    """
    if n < 0:
        raise PredictorError(f"cannot propose {n} architectures", hint="ask for 0 or more")
    pool, pool_MG = _pool(n, space=space, known_NG=known_NG, rng=rng, exclude=exclude)
    if not pool:
        return []
    prediction = predictor.predict(pool_MG)
    width_M = np.log(prediction.upper / prediction.lower)
    # A hamming distance of genomes would count the genes of an absent block; one-hot columns count each choice once.
    code_MF, known_KF = space.encode_many(pool_MG), space.encode_many(known_NG)
    # No two are further apart than that.
    distance_M = np.full(len(pool), 2.0 * len(space.choices))
    for row_F in known_KF:
        distance_M = np.minimum(distance_M, _distance(code_MF, row_F))
    chosen: list[int] = []
    while len(chosen) < min(n, len(pool)):
        value_M = (width_M + 1e-12) * distance_M
        value_M[chosen] = -1.0
        best = int(np.argmax(value_M))
        chosen.append(best)
        distance_M = np.minimum(distance_M, _distance(code_MF, code_MF[best]))
    return [pool[m] for m in chosen]


def _pool(
    n: int,
    *,
    space: SearchSpace,
    known_NG: npt.NDArray[np.int8],
    rng: np.random.Generator,
    exclude: AbstractSet[str],
) -> tuple[list[Architecture], npt.NDArray[np.int8]]:
    """Distinct candidates that nobody excluded: the two ends of the space, and random ones."""
    known = {row.tobytes() for row in known_NG}
    size = max(_SMALLEST_POOL, _POOL_PER_PROPOSAL * n)
    pool: dict[bytes, Architecture] = {}

    def add(drawn_MG: npt.NDArray[np.int8]) -> None:
        for row, arch in zip(drawn_MG, space.architectures(drawn_MG), strict=True):
            if row.tobytes() not in known and arch.arch_id not in exclude:
                pool[row.tobytes()] = arch

    add(space.genomes([space.smallest, space.largest]))
    for _ in range(_MOST_DRAWS):
        add(space.sample_many(size, rng))
        if len(pool) >= min(size // 2, _SMALLEST_POOL):
            break
    else:
        # What is left is drawn rarely.
        if space.size <= ENUMERABLE:
            add(enumerate_genomes(space))
    archs = list(pool.values())
    return archs, space.genomes(archs)


def _distance(code_MF: npt.NDArray[np.float32], row_F: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(np.abs(code_MF - row_F).sum(axis=1), dtype=np.float64)
