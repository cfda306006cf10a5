"""The role of a predictor of one cost on one device; every family of predictors plays it."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from predictors.prediction import Prediction
from predictors.scores import Scores
from searchspaces import Architecture

# Architectures one by one, or canonical genomes int8 (N, G) of the predictor's space.
Question = Sequence[Architecture] | npt.NDArray[np.int8]


@runtime_checkable
class CostPredictor(Protocol):
    """Predicts one cost of architectures of one space on one device. Immutable: predicting changes nothing."""

    @property
    def space_id(self) -> str:
        """The space whose architectures it knows; others are refused."""

    @property
    def device_id(self) -> str:
        """The device whose cost it predicts."""

    @property
    def unit(self) -> str:
        """Unit of the predictions, for example "ms"."""

    @property
    def scores(self) -> Scores | None:
        """How well it did on architectures that it was not fitted to; None until somebody looked."""

    def predict(self, question: Question) -> Prediction:
        """Predict N architectures; row n of the answer belongs to row n of the question. N may be 0.

        Raises:
            SpaceError: an architecture or genome is not of this space.
        """

    def propose(
        self, n: int, *, rng: np.random.Generator, exclude: AbstractSet[str] = frozenset()
    ) -> list[Architecture]:
        """Say which architectures it would like to see measured next; fewer than `n` when the space is exhausted.

        Args:
            n: how many.
            rng: source of randomness.
            exclude: arch ids that must not come back; what it was fitted to is never proposed.
        """

    def save(self, directory: Path) -> None:
        """Write it below `directory`, durably.

        Raises:
            StorageError: the directory cannot be written.
        """
