"""Exact fronts, and how much of one a search has found.

Letters: N architectures, M objectives, P points of a front.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt

from nas.objectives import Objective
from predictors.prediction import FloatArray
from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

_REFERENCE = 1.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A space of which everything is known; a search is told what it has evaluated and nothing else.

    Attributes:
        space: the search space.
        genomes_NG: all its architectures, canonical.
        objectives: what is optimised.
        values_NM: theirs, as the objectives' directions and units say.
    """

    space: SearchSpace
    genomes_NG: Genomes
    objectives: tuple[Objective, ...]
    values_NM: FloatArray

    @property
    def cost_NM(self) -> FloatArray:
        """The values, all to be minimised."""
        sign_M = [-1.0 if objective.direction == "maximize" else 1.0 for objective in self.objectives]
        cost_NM: FloatArray = self.values_NM * np.array(sign_M)
        return cost_NM


def rows_by_genome(genomes_NG: Genomes) -> dict[bytes, int]:
    """By genome, as bytes, its row."""
    return {genome_G.tobytes(): n for n, genome_G in enumerate(genomes_NG)}


class ExactFront:
    """The front of all architectures that count, scaled by its ideal (0) and nadir (1); the reference point is 1.1.

    Args:
        cost_NM: of all architectures, to be minimised.
        counts_N: which of them count; all if None.
    """

    def __init__(self, cost_NM: FloatArray, *, counts_N: npt.NDArray[np.bool_] | None = None) -> None:
        counts_N = np.ones(len(cost_NM), dtype=np.bool_) if counts_N is None else counts_N
        counted_NM = cost_NM[counts_N]
        front_PM = np.unique(counted_NM[moocore.is_nondominated(counted_NM)], axis=0)
        ideal_M, nadir_M = front_PM.min(axis=0), front_PM.max(axis=0)
        width_M = np.where(nadir_M > ideal_M, nadir_M - ideal_M, 1.0)
        self.size = len(front_PM)
        self._scaled_NM = (cost_NM - ideal_M) / width_M
        # What does not count adds nothing.
        self._scaled_NM[~counts_N] = np.inf
        self._reference_M = np.full(cost_NM.shape[1], _REFERENCE)
        self._volume = self._hypervolume((front_PM - ideal_M) / width_M)

    def shares(self, rows: Sequence[int]) -> FloatArray:
        """Share of the exact hypervolume after each evaluation of `rows`, in their order."""
        shares_N = np.zeros(len(rows))
        front_PM, share = np.empty((0, len(self._reference_M))), 0.0
        for n, row in enumerate(rows):
            point_M = self._scaled_NM[row]
            if (point_M < self._reference_M).all() and not (front_PM <= point_M).all(axis=1).any():
                front_PM = np.concatenate([front_PM[~(point_M <= front_PM).all(axis=1)], point_M[None]])
                share = self._hypervolume(front_PM) / self._volume
            shares_N[n] = share
        return shares_N

    def _hypervolume(self, points_PM: FloatArray) -> float:
        return float(moocore.hypervolume(points_PM, ref=self._reference_M))


def evaluations_to(share: float, shares_N: FloatArray) -> float:
    """Evaluations until a share is reached; inf if it never is."""
    reached_N = shares_N >= share
    return float(np.argmax(reached_N)) + 1.0 if reached_N.any() else float("inf")
