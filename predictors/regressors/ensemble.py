"""An ensemble of small networks on log(cost): for effects of choices that depend on each other in many ways.

Each network learns from four fifths of the rows, another four fifths each, so that every row has networks that never
saw it (a cross-validated committee: Krogh and Vedelsby, "Neural network ensembles, cross validation, and active
learning", NeurIPS 1994). They are trained side by side by torch and predict by numpy alone.

Letters: N rows, D inputs, M networks, H hidden units.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy

from predictors.features import Blocks
from predictors.prediction import FloatArray
from predictors.regressors.held_out import LogTarget, fold_of_rows

if TYPE_CHECKING:
    import torch

# With 150 trained networks of NAS-Bench-Macro it gains nothing, with 200 a sixth of the error.
_FEWEST = 200
_REPEATS = 2
_HIDDEN = 64
_STEPS = 200
_ROWS_A_STEP = 256
_LEARNING_RATE = 5e-3
_WEIGHT_DECAY = 1e-2

_ARRAYS = ("center_D", "gain_D", "first_MDH", "first_bias_MH", "second_MHH", "second_bias_MH", "last_MH", "last_bias_M")
_AS_THEY_ARE = ("choices", "sources", "sources-mean")
_LOGARITHMIC = ("kinds", "stages", "totals")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEnsemble:
    """A family of ensembles of multilayer perceptrons with two hidden layers; see `Regressor`."""

    name: str
    fewest: int = _FEWEST
    needs: str | None = None

    def fit(self, blocks: Blocks, cost_N: FloatArray, *, population: Blocks) -> "FittedNetworkEnsemble":
        """Fit; see `Regressor`. A row's held-out error is that of the networks that did not see it."""
        population_ND, target = _join(population), LogTarget.of(cost_N)
        center_D, deviation_D = population_ND.mean(axis=0), population_ND.std(axis=0)
        varies_D = deviation_D > 1e-9 * np.abs(population_ND).max(axis=0)
        gain_D = np.where(varies_D, 1.0 / np.where(varies_D, deviation_D, 1.0), 0.0)
        inputs_ND, target_N = (_join(blocks) - center_D) * gain_D, target.target(cost_N)
        folds = [fold_of_rows(len(cost_N), repeat=repeat) for repeat in range(_REPEATS)]
        left_MN = np.stack([fold_N == fold for fold_N in folds for fold in np.unique(fold_N)])
        fitted = FittedNetworkEnsemble(
            name=self.name,
            target=target,
            center_D=center_D,
            gain_D=gain_D,
            **_trained(inputs_ND, target_N, used_MN=~left_MN),
            loo_log_errors_N=np.empty(0),
            loo_spread_N=np.empty(0),
        )
        held_out_N = (fitted.answers(inputs_ND) * left_MN).sum(axis=0) / left_MN.sum(axis=0)
        error_N = target.scale * (held_out_N - target_N)
        spread = float(np.sqrt(np.mean(error_N**2))) or target.scale
        return replace(
            fitted,
            target=replace(target, spread=spread),
            loo_log_errors_N=error_N,
            loo_spread_N=np.full(len(error_N), spread),
        )

    def restore(self, arrays: Mapping[str, FloatArray], *, settings: Mapping[str, float]) -> "FittedNetworkEnsemble":
        """Rebuild; see `Regressor`."""
        return FittedNetworkEnsemble(
            name=self.name,
            target=LogTarget.restore(settings),
            **{name: arrays[name] for name in _ARRAYS},
            loo_log_errors_N=np.empty(0),
            loo_spread_N=np.empty(0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedNetworkEnsemble:
    """What `NetworkEnsemble.fit` found; see `FittedRegressor`.

    Attributes:
        target: what the networks predict.
        center_D, gain_D: inputs become (x - center) * gain.
        first_MDH, first_bias_MH, second_MHH, second_bias_MH, last_MH, last_bias_M: weights of the M networks.
    """

    name: str
    target: LogTarget
    center_D: FloatArray
    gain_D: FloatArray
    first_MDH: FloatArray
    first_bias_MH: FloatArray
    second_MHH: FloatArray
    second_bias_MH: FloatArray
    last_MH: FloatArray
    last_bias_M: FloatArray
    loo_log_errors_N: FloatArray
    loo_spread_N: FloatArray

    @property
    def settings(self) -> Mapping[str, float]:
        """The numbers of the target."""
        return self.target.settings()

    def predict(self, blocks: Blocks) -> tuple[FloatArray, FloatArray]:
        """Predict the mean of the networks; see `FittedRegressor`. The spread is the same everywhere."""
        return self.target.answer(self.answers((_join(blocks) - self.center_D) * self.gain_D).mean(axis=0))

    def answers(self, inputs_ND: FloatArray) -> FloatArray:
        """What each network says of each row, (M, N), as targets."""
        answers = []
        for m in range(len(self.last_MH)):
            hidden_NH = _silu(inputs_ND @ self.first_MDH[m] + self.first_bias_MH[m])
            hidden_NH = _silu(hidden_NH @ self.second_MHH[m] + self.second_bias_MH[m])
            answers.append(hidden_NH @ self.last_MH[m] + self.last_bias_M[m])
        return np.stack(answers)

    def arrays(self) -> Mapping[str, FloatArray]:
        """The arrays to store."""
        return {name: getattr(self, name) for name in _ARRAYS}


def _silu(inputs_NH: FloatArray) -> FloatArray:
    return np.asarray(inputs_NH * scipy.special.expit(inputs_NH))


def _join(blocks: Blocks) -> FloatArray:
    parts = [blocks[name] for name in _AS_THEY_ARE if name in blocks]
    parts += [np.log1p(blocks[name]) for name in _LOGARITHMIC if name in blocks]
    return np.concatenate(parts, axis=1)


def _trained(inputs_ND: FloatArray, target_N: FloatArray, *, used_MN: npt.NDArray[np.bool_]) -> dict[str, FloatArray]:
    """Weights of M networks, each fitted to the rows that it may use."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs, target, used = (torch.from_numpy(array).float() for array in (inputs_ND, target_N, used_MN))
    share = used / used.sum(dim=1, keepdim=True)
    num, width = len(used_MN), inputs_ND.shape[1]
    with _one_thread(), torch.enable_grad():
        weights = [
            torch.randn(num, width, _HIDDEN, generator=generator) / width**0.5,
            torch.zeros(num, 1, _HIDDEN),
            torch.randn(num, _HIDDEN, _HIDDEN, generator=generator) / _HIDDEN**0.5,
            torch.zeros(num, 1, _HIDDEN),
            torch.zeros(num, _HIDDEN, 1),
            torch.zeros(num, 1, 1),
        ]
        for weight in weights:
            weight.requires_grad_()
        optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=_STEPS)
        for _ in range(_STEPS):
            rows = torch.randperm(len(target), generator=generator)[:_ROWS_A_STEP]
            optimizer.zero_grad()
            missed = _forward(weights, inputs[rows]) - target[rows]
            (missed.square() * share[:, rows]).sum().backward()
            optimizer.step()
            schedule.step()
    first, first_bias, second, second_bias, last, last_bias = (
        weight.detach().double().squeeze(dim).numpy()
        for weight, dim in zip(weights, ((), (1,), (), (1,), (2,), (1, 2)), strict=True)
    )
    found = (first, first_bias, second, second_bias, last, last_bias)
    return dict(zip(_ARRAYS[2:], found, strict=True))


def _forward(weights: "Sequence[torch.Tensor]", inputs: "torch.Tensor") -> "torch.Tensor":
    """(M, rows)."""
    from torch.nn import functional

    first, first_bias, second, second_bias, last, last_bias = weights
    hidden = functional.silu(inputs @ first + first_bias)
    hidden = functional.silu(hidden @ second + second_bias)
    return (hidden @ last + last_bias).squeeze(2)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from more threads, and sums in another order would be other numbers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


REGRESSORS = (NetworkEnsemble(name="ensemble"),)
