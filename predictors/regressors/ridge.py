"""Ridge regression on blocks of features that are trusted to different degrees.

Coarse sums (all operators of a kind) explain most of the time with few coefficients; finer ones (a stage, a slot, a
choice) correct them when the data ask for it. So every block has a weight: the prior variance of what it may add.
One penalty for the whole is chosen by the leave-one-out errors, which ridge regression has in closed form
(Allen 1974, "The relationship between variable selection and data augmentation and a method for prediction").

Letters: N rows, D columns of all blocks together, R rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from predictors.features import Blocks
from predictors.prediction import FloatArray

_ALPHAS = np.logspace(-4, 2, 25)

# A sum of times cannot be trusted to stay positive far outside the data; nor can an exponential to stay small.
_BEYOND_FITTED = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """A family of ridge regressions.

    Attributes:
        name: see `Regressor`.
        weights: weight by name of the block.
        logarithmic: True models log(cost) by log(1 + feature): effects multiply. False models the cost itself by the
            features: effects add, as times do; errors are weighted so that relative errors count.
    """

    name: str
    weights: Mapping[str, float]
    logarithmic: bool

    def fit(self, blocks: Blocks, cost_N: FloatArray) -> "FittedRidge":
        """Fit; see `Regressor`."""
        num = len(cost_N)
        inputs_ND = _join(self, blocks)
        target_N = np.log(cost_N) if self.logarithmic else cost_N
        importance_N = np.ones(num) if self.logarithmic else cost_N**-2.0 / np.mean(cost_N**-2.0)
        center_D = importance_N @ inputs_ND / num
        gain_D = _gains(self, blocks, deviation_D=np.sqrt(importance_N @ (inputs_ND - center_D) ** 2 / num))
        offset = float(importance_N @ target_N / num)

        # Rows scaled by the root of their importance make this ordinary ridge regression through the origin.
        root_N = np.sqrt(importance_N)
        left_NR, singular_R, right_RD = np.linalg.svd(
            root_N[:, None] * (inputs_ND - center_D) * gain_D, full_matrices=False
        )
        residual_N = root_N * (target_N - offset)
        projected_R = left_NR.T @ residual_N

        def loo_log_errors(alpha: float) -> FloatArray:
            shrink_R = singular_R**2 / (singular_R**2 + alpha)
            leverage_N = np.square(left_NR) @ shrink_R + importance_N / num
            missed_N: FloatArray = (
                (residual_N - left_NR @ (shrink_R * projected_R)) / np.maximum(1.0 - leverage_N, 1e-9) / root_N
            )
            if self.logarithmic:
                return -missed_N
            kept_N: FloatArray = np.maximum(1.0 - missed_N / cost_N, 1.0 / _BEYOND_FITTED)
            return np.log(kept_N)

        alpha = min((float(a) for a in _ALPHAS), key=lambda a: float(np.mean(loo_log_errors(a) ** 2)))
        return FittedRidge(
            family=self,
            alpha=alpha,
            offset=offset,
            num=num,
            inverse_square=float(np.mean(cost_N**-2.0)),
            lowest=float(cost_N.min()) / _BEYOND_FITTED,
            highest=float(cost_N.max()) * _BEYOND_FITTED,
            center_D=center_D,
            gain_D=gain_D,
            coefficients_D=right_RD.T @ (singular_R / (singular_R**2 + alpha) * projected_R),
            singular_R=singular_R,
            directions_RD=right_RD,
            loo_log_errors_N=loo_log_errors(alpha),
        )

    def restore(self, arrays: Mapping[str, FloatArray], *, settings: Mapping[str, float]) -> "FittedRidge":
        """Rebuild; see `Regressor`."""
        return FittedRidge(
            family=self,
            alpha=settings["alpha"],
            offset=settings["offset"],
            num=int(settings["num"]),
            inverse_square=settings["inverse_square"],
            lowest=settings["lowest"],
            highest=settings["highest"],
            center_D=arrays["center_D"],
            gain_D=arrays["gain_D"],
            coefficients_D=arrays["coefficients_D"],
            singular_R=arrays["singular_R"],
            directions_RD=arrays["directions_RD"],
            loo_log_errors_N=np.empty(0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedRidge:
    """What `Ridge.fit` found; see `FittedRegressor`.

    Attributes:
        offset: target where all inputs have their centre.
        inverse_square: mean of 1 / cost^2 of the fitted rows, the scale of their importance.
        lowest, highest: predictions are clipped to these.
        center_D, gain_D: inputs become (x - center) * gain; a gain of 0 drops a column that was constant.
        singular_R, directions_RD: singular values and right singular vectors of the fitted inputs.
    """

    family: Ridge
    alpha: float
    offset: float
    num: int
    inverse_square: float
    lowest: float
    highest: float
    center_D: FloatArray
    gain_D: FloatArray
    coefficients_D: FloatArray
    singular_R: FloatArray
    directions_RD: FloatArray
    loo_log_errors_N: FloatArray

    @property
    def name(self) -> str:
        """Name of the family."""
        return self.family.name

    @property
    def settings(self) -> Mapping[str, float]:
        """The numbers beside the arrays."""
        return {
            "alpha": self.alpha,
            "offset": self.offset,
            "num": self.num,
            "inverse_square": self.inverse_square,
            "lowest": self.lowest,
            "highest": self.highest,
        }

    def predict(self, blocks: Blocks) -> tuple[FloatArray, FloatArray]:
        """Predict; see `FittedRegressor`. The spread is the posterior's: noise plus what the data leave open."""
        inputs_ND = (_join(self.family, blocks) - self.center_D) * self.gain_D
        target_N = self.offset + inputs_ND @ self.coefficients_D
        seen_NR = np.square(inputs_ND @ self.directions_RD.T)
        unseen_N = np.maximum(np.square(inputs_ND).sum(axis=1) - seen_NR.sum(axis=1), 0.0)
        open_N = 1.0 / self.num + seen_NR @ (1.0 / (self.singular_R**2 + self.alpha)) + unseen_N / self.alpha
        mean_N = np.clip(
            np.exp(np.clip(target_N, np.log(self.lowest), np.log(self.highest)))
            if self.family.logarithmic
            else target_N,
            self.lowest,
            self.highest,
        )
        if not self.family.logarithmic:
            open_N = open_N / (self.inverse_square * mean_N**2)
        return mean_N, np.sqrt(1.0 + open_N)

    def arrays(self) -> Mapping[str, FloatArray]:
        """The arrays to store."""
        return {
            "center_D": self.center_D,
            "gain_D": self.gain_D,
            "coefficients_D": self.coefficients_D,
            "singular_R": self.singular_R,
            "directions_RD": self.directions_RD,
        }


def _join(family: Ridge, blocks: Blocks) -> FloatArray:
    joined_ND = np.concatenate([blocks[name] for name in family.weights], axis=1)
    return np.log1p(joined_ND) if family.logarithmic else joined_ND


def _gains(family: Ridge, blocks: Blocks, *, deviation_D: FloatArray) -> FloatArray:
    """Factor of every column: standard deviation 1, then the root of its share of the weight of its block."""
    scale_D = np.concatenate([np.abs(blocks[name]).max(axis=0) for name in family.weights])
    varies_D = deviation_D > 1e-9 * (np.log1p(scale_D) if family.logarithmic else scale_D)
    widths = [blocks[name].shape[1] for name in family.weights]
    block_D = np.repeat(np.arange(len(widths)), widths)
    num_varying = np.bincount(block_D, weights=varies_D, minlength=len(widths))
    share_D = np.repeat(list(family.weights.values()), widths) / np.maximum(num_varying, 1.0)[block_D]
    return np.where(varies_D, np.sqrt(share_D) / np.where(varies_D, deviation_D, 1.0), 0.0)


# The weights are grades of trust, not results of tuning: factors of about 3 around them change errors by a tenth.
REGRESSORS = (
    Ridge(name="ridge-choices", weights={"choices": 1.0}, logarithmic=True),
    Ridge(name="ridge-kinds", weights={"kinds": 1.0}, logarithmic=False),
    Ridge(
        name="ridge-operators",
        weights={"kinds": 1.0, "shapes": 0.1, "stages": 0.03, "slots": 0.01, "choices": 0.01},
        logarithmic=False,
    ),
    Ridge(name="ridge-log-operators", weights={"kinds": 1.0, "stages": 0.03, "choices": 0.01}, logarithmic=True),
)
