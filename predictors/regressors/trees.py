"""Gradient-boosted trees on log(cost), by LightGBM (Ke et al., NeurIPS 2017): for costs that jump.

Trees know nothing of sums and slopes, so they need many rows to come near a Gaussian process. The model is stored as
LightGBM's own text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from predictors.errors import MissingPackageError
from predictors.features import FUNCTION, Blocks
from predictors.prediction import FloatArray
from predictors.regressors.held_out import LogTarget, fold_of_rows

if TYPE_CHECKING:
    import lightgbm

_TEXT = "text"
# On none of the published tables did they gain weight, with up to 1,600 rows: with few they would only cost time.
_FEWEST = 400
_ROUNDS = 150
_PARAMETERS = {
    "objective": "regression",
    "learning_rate": 0.06,
    "num_leaves": 8,
    "min_data_in_leaf": 5,
    "min_data_in_bin": 1,
    "lambda_l2": 1.0,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostedTrees:
    """A family of gradient-boosted trees; see `Regressor`."""

    name: str
    fewest: int = _FEWEST
    needs: str | None = None

    def fit(self, blocks: Blocks, cost_N: FloatArray, *, population: Blocks) -> "FittedBoostedTrees":
        """Fit; see `Regressor`. Held-out errors are those of five-fold cross-validation.

        Raises:
            MissingPackageError: LightGBM cannot be imported.
        """
        inputs_ND, target = _join(blocks), LogTarget.of(cost_N)
        target_N, fold_N = target.target(cost_N), fold_of_rows(len(cost_N))
        held_out_N = np.empty_like(target_N)
        for fold in np.unique(fold_N):
            left_N = fold_N == fold
            trees = _restored(_grown(inputs_ND[~left_N], target_N[~left_N]))
            held_out_N[left_N] = _of(trees, inputs_ND[left_N])
        error_N = target.scale * (held_out_N - target_N)
        target = replace(target, spread=float(np.sqrt(np.mean(error_N**2))) or target.scale)
        text = _grown(inputs_ND, target_N)
        return FittedBoostedTrees(
            name=self.name,
            target=target,
            text=text,
            trees=_restored(text),
            loo_log_errors_N=error_N,
            loo_spread_N=np.full(len(error_N), target.spread),
        )

    def restore(self, arrays: Mapping[str, FloatArray], *, settings: Mapping[str, float]) -> "FittedBoostedTrees":
        """Rebuild; see `Regressor`.

        Raises:
            MissingPackageError: LightGBM cannot be imported.
        """
        text = arrays[_TEXT].tobytes().decode("ascii")
        return FittedBoostedTrees(
            name=self.name,
            target=LogTarget.restore(settings),
            text=text,
            trees=_restored(text),
            loo_log_errors_N=np.empty(0),
            loo_spread_N=np.empty(0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedBoostedTrees:
    """What `BoostedTrees.fit` found; see `FittedRegressor`.

    Attributes:
        target: what the trees predict.
        text: the trees in LightGBM's format.
        trees: the same, ready.
    """

    name: str
    target: LogTarget
    text: str
    trees: "lightgbm.Booster"
    loo_log_errors_N: FloatArray
    loo_spread_N: FloatArray

    @property
    def settings(self) -> Mapping[str, float]:
        """The numbers of the target."""
        return self.target.settings()

    def predict(self, blocks: Blocks) -> tuple[FloatArray, FloatArray]:
        """Predict; see `FittedRegressor`. The spread is the same everywhere."""
        return self.target.answer(_of(self.trees, _join(blocks)))

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The text as bytes."""
        return {_TEXT: np.frombuffer(self.text.encode("ascii"), dtype=np.uint8)}


def _join(blocks: Blocks) -> FloatArray:
    return np.concatenate([blocks[name] for name in sorted(blocks) if not name.startswith(FUNCTION)], axis=1)


def _grown(inputs_ND: FloatArray, target_N: FloatArray) -> str:
    lightgbm = _lightgbm()
    booster = lightgbm.train(_PARAMETERS, lightgbm.Dataset(inputs_ND, target_N), num_boost_round=_ROUNDS)
    return str(booster.model_to_string())


def _restored(text: str) -> "lightgbm.Booster":
    booster: lightgbm.Booster = _lightgbm().Booster(model_str=text)
    return booster


def _of(trees: "lightgbm.Booster", inputs_ND: FloatArray) -> FloatArray:
    # LightGBM refuses empty arrays.
    if not len(inputs_ND):
        return np.empty(0)
    return np.asarray(trees.predict(inputs_ND, num_threads=1), dtype=np.float64)


def _lightgbm() -> Any:  # noqa: ANN401  (a module)
    try:
        import lightgbm
    except (ImportError, OSError) as e:
        # OSError: its library needs OpenMP's runtime, libgomp, which small systems lack.
        raise MissingPackageError(
            f"gradient-boosted trees need the package lightgbm, which cannot be imported: {e}",
            hint="pip install lightgbm (and libgomp1 of the system, where that is what is missing)",
        ) from e
    return lightgbm


REGRESSORS = (BoostedTrees(name="trees"),)
