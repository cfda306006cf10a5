"""The objectives of once-for-all's own search: the published accuracy predictor and the published operator table.

Letters: N architectures, F one-hot features, H hidden units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from predictors import from_operator_table, read_operator_table
from predictors.prediction import FloatArray
from searchspaces import SearchSpace, get_space
from searchspaces.gene_names import RESOLUTION
from searchspaces.genomes import Genomes

# The resolutions that the published predictor and the published table both know.
RESOLUTIONS = (160, 176, 192, 208, 224)
_LAYERS = (0, 2, 4, 6)
_NUM_INPUTS, _NUM_BLOCK_INPUTS, _FIRST_RESOLUTION, _STEP = 128, 60, 112, 16
_NUM_CLASSES = 1000

_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OfaObjectives:
    """What the search looks at.

    Attributes:
        space: OFA-MobileNetV3 of width 1.2 at `RESOLUTIONS`.
        accuracy: fractions (N,) of genomes.
        latency: ms (N,) of genomes.
    """

    space: SearchSpace
    accuracy: Callable[[Genomes], FloatArray]
    latency: Callable[[Genomes], FloatArray]

    def both(self, genomes_NG: Genomes) -> tuple[FloatArray, FloatArray]:
        """Accuracy and latency."""
        return self.accuracy(genomes_NG), self.latency(genomes_NG)


def read_ofa_objectives(*, table: Path, predictor: Path) -> OfaObjectives:
    """Read `note10_latency_tables_w1.2.json` and `accuracy_predictor_mbv3_w1.2.npz`.

    Raises:
        StorageError, PredictorError: the table is none of this space.
    """
    space = get_space("ofa-mobilenetv3-w1.2", resolutions=RESOLUTIONS)
    sums = from_operator_table(
        read_operator_table(table, device_id="note10"), space=space, num_classes=_NUM_CLASSES
    ).sums
    with np.load(predictor, allow_pickle=False) as archive:
        network = OfficialPredictor(space, {name: archive[name] for name in archive.files})
    return OfaObjectives(
        space=space, accuracy=network.predict, latency=lambda genomes_NG: sums.of_genomes(genomes_NG)[:, 0]
    )


class OfficialPredictor:
    """The published perceptron: 60 inputs for kernels, 60 for expand ratios, 8 for resolutions; three hidden layers.

    Args:
        space: whose genomes it is asked about.
        tensors: `0.weight` (400, 128), `0.bias`, `2.weight` ... `6.bias`, as published.
    """

    def __init__(self, space: SearchSpace, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self._space = space
        weights = [tensors[f"{layer}.weight"].T.astype(np.float32) for layer in _LAYERS]
        self._biases = [tensors[f"{layer}.bias"].astype(np.float32) for layer in _LAYERS]
        # The first layer takes our own features: a row for each of them, zeros for what it does not look at.
        own_FH = np.zeros((len(space.feature_names), weights[0].shape[1]), dtype=np.float32)
        for row, place in enumerate(_places(space)):
            if place is not None:
                own_FH[row] = weights[0][place]
        self._weights = [own_FH, *weights[1:]]

    def predict(self, genomes_NG: Genomes) -> FloatArray:
        """Top-1 accuracies on ImageNet, fractions (N,)."""
        values: _Float32 = self._space.encode_many(genomes_NG)
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            values = values @ weight
            values += bias
            np.maximum(values, 0.0, out=values)
        return np.asarray((values @ self._weights[-1] + self._biases[-1])[:, 0], dtype=np.float64)


def _places(space: SearchSpace) -> list[int | None]:
    """For each of our features the published input, None for the depths, which it sees by the blocks that are there."""
    places: list[int | None] = []
    counts = {"kernel": 0, "expand": 0}
    starts = {"kernel": 0, "expand": _NUM_BLOCK_INPUTS}
    for choice in space.choices:
        if choice.name == RESOLUTION:
            places.extend(2 * _NUM_BLOCK_INPUTS + (int(r) - _FIRST_RESOLUTION) // _STEP for r in choice.values)
        elif choice.kind in counts:
            first = starts[choice.kind] + counts[choice.kind]
            places.extend(range(first, first + len(choice.values)))
            counts[choice.kind] += len(choice.values)
        else:
            places.extend([None] * len(choice.values))
    return places
