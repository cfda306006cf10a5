"""Gaussian processes: linear in blocks of features, each with a share of the variance of its own, and smooth beside.

Features are standardised by what the whole space looks like, not by the few measured architectures: that needs no
measurement. The shares and the noise are those of highest posterior density (Rasmussen and Williams, Gaussian Processes
for Machine Learning, 2006, section 5.4.1), under wide priors that say which blocks to trust first: with ten
measurements the priors decide, with a hundred the data do. Errors are taken as Student-t, so that a few wrong
measurements do not bend the fit: rows far from what the others predict count less (fitted by reweighting; Lange,
Little, Taylor, "Robust statistical modeling using the t distribution", JASA 1989).

What effects of single features do not explain, because they depend on each other, smooth kernels can: Gaussian bells of
some fixed widths over all choices, each with its share.

Letters: N rows, D columns of all views together, E of those of the smooth kernels, V views, R widths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy

from predictors.features import Blocks
from predictors.prediction import FloatArray
from predictors.regressors.regressor import BEYOND_FITTED

if TYPE_CHECKING:
    import torch

_ARRAYS = ("center_D", "gain_D", "fitted_ND", "share_R", "place_NE", "inverse_NN", "pull_N")

# Standard deviation of the logarithms of shares and noise under their priors: a factor of 4.5 either way.
_PRIOR_SPREAD = 1.5
_PRIOR_NOISE = 0.2
# Prior variance of the constant, in units of the variance of the measurements.
_CONSTANT = 10.0
_LEAST_OF_DEVIATION = 0.3
_DEGREES_OF_FREEDOM = 4.0
_REWEIGHTINGS = 3
_MOST_STEPS = 60
_LOG_BOUNDS = (-18.0, 6.0)
# Widths of the bells, as multiples of the mean squared distance of two architectures.
_WIDTHS = (0.25, 1.0, 4.0)
_SMOOTH_SHARE = -3.0

# Shares and noise are found on this many rows at most; all rows are fitted with them.
_ROWS_FOR_SHARES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A block of features as one kernel.

    Attributes:
        block: its name.
        log_share: logarithm of the share of the variance that it is expected to explain, before any measurement.
        logarithmic: take log(1 + feature).
    """

    block: str
    log_share: float
    logarithmic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianProcess:
    """A family of Gaussian processes.

    Attributes:
        name: see `Regressor`.
        views: its kernels; those whose block is missing are left out.
        logarithmic: True models log(cost): effects multiply. False models the cost itself: effects add, as times do,
            and the noise is relative to the cost.
        smooth: what the smooth kernels see, equally much of each; none if empty.
        needs: it is used only where this block is given.
        fewest: it is not used on fewer rows.
    """

    name: str
    views: tuple[View, ...]
    logarithmic: bool
    smooth: tuple[View, ...] = ()
    needs: str | None = None
    fewest: int = 3

    def fit(self, blocks: Blocks, cost_N: FloatArray, *, population: Blocks) -> "FittedGaussianProcess":
        """Fit; see `Regressor`."""
        views = [view for view in self.views if view.block in blocks]
        center_D, gain_D, view_D = _scales(views, population)
        inputs_ND = (_join(views, blocks) - center_D) * gain_D
        smooth = _Smooth.of(self.smooth, population)
        place_NE = smooth.places(self.smooth, blocks)
        bells_RNN = smooth.bells(place_NE, place_NE)
        target_N = np.log(cost_N) if self.logarithmic else cost_N
        offset = float(np.median(target_N))
        scale = _robust_deviation(target_N - offset)
        y_N = (target_N - offset) / scale
        noise_N = np.ones_like(cost_N) if self.logarithmic else (cost_N / np.median(cost_N)) ** 2
        weight_N = np.ones_like(y_N)
        logs_P = np.array(
            [*(view.log_share for view in views), *[_SMOOTH_SHARE] * len(bells_RNN), np.log(_PRIOR_NOISE)]
        )
        prior_P = logs_P
        for _ in range(_REWEIGHTINGS):
            logs_P = _most_probable(
                inputs_ND, view_D, bells_RNN, y_N, noise_N / weight_N, prior_P=prior_P, start_P=logs_P
            )
            share_D, noise = np.exp(logs_P[: len(views)])[view_D], float(np.exp(logs_P[-1]))
            share_R = np.exp(logs_P[len(views) : -1])
            scaled_ND = inputs_ND * np.sqrt(share_D)
            covariance_NN = scaled_ND @ scaled_ND.T + np.tensordot(share_R, bells_RNN, axes=1) + _CONSTANT
            covariance_NN += np.diag(noise * noise_N / weight_N)
            inverse_NN = scipy.linalg.inv(covariance_NN, check_finite=False)
            pull_N = inverse_NN @ y_N
            left_out_N = 1.0 / np.diag(inverse_NN)
            variance_N = np.maximum(left_out_N - noise * noise_N / weight_N, 0.0) + noise * noise_N
            missed_N = pull_N * left_out_N
            used_N, weight_N = weight_N, _student_weight(missed_N**2 / variance_N)
        return FittedGaussianProcess(
            family=self,
            settings={
                "offset": offset,
                "scale": scale,
                "noise": noise,
                "typical": float(np.median(cost_N)),
                "lowest": float(cost_N.min()) / BEYOND_FITTED,
                "highest": float(cost_N.max()) * BEYOND_FITTED,
                **{
                    f"share.{view.block}{'.log' * view.logarithmic}": float(np.exp(log))
                    for view, log in zip(views, logs_P, strict=False)
                },
            },
            center_D=center_D,
            gain_D=gain_D * np.sqrt(share_D),
            fitted_ND=scaled_ND,
            smooth=smooth,
            share_R=share_R,
            place_NE=place_NE,
            inverse_NN=inverse_NN,
            pull_N=pull_N,
            loo_log_errors_N=_log_errors(-scale * missed_N, cost_N, logarithmic=self.logarithmic),
            loo_spread_N=scale * np.sqrt(variance_N) / (1.0 if self.logarithmic else cost_N),
            weight_N=used_N,
        )

    def restore(self, arrays: Mapping[str, FloatArray], *, settings: Mapping[str, float]) -> "FittedGaussianProcess":
        """Rebuild; see `Regressor`."""
        empty = np.empty(0)
        return FittedGaussianProcess(
            family=self,
            settings=dict(settings),
            **{name: arrays[name] for name in _ARRAYS},
            smooth=_Smooth(center_E=arrays["smooth_center_E"], gain_E=arrays["smooth_gain_E"]),
            loo_log_errors_N=empty,
            loo_spread_N=empty,
            weight_N=empty,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedGaussianProcess:
    """What `GaussianProcess.fit` found; see `FittedRegressor`.

    Attributes:
        settings: offset and scale of the target, noise as share of its variance, and the shares of the views.
        center_D, gain_D: inputs become (x - center) * gain; the gains hold the roots of the shares.
        fitted_ND: the fitted rows as such inputs.
        smooth, share_R, place_NE: the smooth kernels, their shares, and where the fitted rows are for them.
        inverse_NN, pull_N: inverse of their covariance, and it times the target.
        weight_N: how much each fitted row counted, 1 for an ordinary one; empty after `restore`.
    """

    family: GaussianProcess
    settings: Mapping[str, float]
    center_D: FloatArray
    gain_D: FloatArray
    fitted_ND: FloatArray
    smooth: "_Smooth"
    share_R: FloatArray
    place_NE: FloatArray
    inverse_NN: FloatArray
    pull_N: FloatArray
    loo_log_errors_N: FloatArray
    loo_spread_N: FloatArray
    weight_N: FloatArray = field(default_factory=lambda: np.empty(0))

    @property
    def name(self) -> str:
        """Name of the family."""
        return self.family.name

    def predict(self, blocks: Blocks) -> tuple[FloatArray, FloatArray]:
        """Predict; see `FittedRegressor`. The spread is the posterior's, noise included."""
        own, logarithmic = self.settings, self.family.logarithmic
        views = [view for view in self.family.views if view.block in blocks]
        inputs_ND = _scaled(_join(views, blocks), self.center_D, self.gain_D)
        bells_RNM = self.smooth.bells(self.smooth.places(self.family.smooth, blocks), self.place_NE)
        covariance_NM = inputs_ND @ self.fitted_ND.T + np.tensordot(self.share_R, bells_RNM, axes=1) + _CONSTANT
        target_N = own["offset"] + own["scale"] * (covariance_NM @ self.pull_N)
        known_N = np.einsum("nm,nm->n", covariance_NM @ self.inverse_NN, covariance_NM)
        open_N = np.einsum("nd,nd->n", inputs_ND, inputs_ND) + self.share_R.sum() + _CONSTANT
        open_N = np.maximum(open_N - known_N, 0.0)
        if logarithmic:
            mean_N = np.exp(np.clip(target_N, np.log(own["lowest"]), np.log(own["highest"])))
            return mean_N, own["scale"] * np.sqrt(open_N + own["noise"])
        mean_N = np.clip(target_N, own["lowest"], own["highest"])
        noise_N = own["noise"] * (mean_N / own["typical"]) ** 2
        return mean_N, own["scale"] * np.sqrt(open_N + noise_N) / mean_N

    def arrays(self) -> Mapping[str, FloatArray]:
        """The arrays to store."""
        own = {name: getattr(self, name) for name in _ARRAYS}
        return {**own, "smooth_center_E": self.smooth.center_E, "smooth_gain_E": self.smooth.gain_E}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Smooth:
    """Where the smooth kernels see an architecture: standardised columns; none at all without such kernels."""

    center_E: FloatArray
    gain_E: FloatArray

    @classmethod
    def of(cls, views: Sequence[View], population: Blocks) -> "_Smooth":
        if not views:
            return cls(center_E=np.empty(0), gain_E=np.empty(0))
        center_E, gain_E, _ = _scales(views, population)
        # The mean squared distance of two architectures is 2 for each view.
        return cls(center_E=center_E, gain_E=gain_E / np.sqrt(2.0 * len(views)))

    def places(self, views: Sequence[View], blocks: Blocks) -> FloatArray:
        """(N, E)."""
        num = len(next(iter(blocks.values())))
        return _scaled(_join(views, blocks), self.center_E, self.gain_E) if views else np.empty((num, 0))

    def bells(self, place_NE: FloatArray, other_ME: FloatArray) -> FloatArray:
        """(R, N, M): one kernel for each width, each 1 where two architectures are the same."""
        if not self.center_E.size:
            return np.empty((0, len(place_NE), len(other_ME)))
        squares_NM = np.square(place_NE).sum(axis=1)[:, None] + np.square(other_ME).sum(axis=1)
        distance_NM = np.maximum(squares_NM - 2.0 * place_NE @ other_ME.T, 0.0)
        bells_RNM = np.empty((len(_WIDTHS), *distance_NM.shape))
        np.exp(-0.5 / _WIDTHS[-1] * distance_NM, out=bells_RNM[-1])
        # Each width is a quarter of the next: the fourth power of its bell is cheaper than another exponential.
        for narrow, wide in zip(bells_RNM[-2::-1], bells_RNM[:0:-1], strict=True):
            np.square(wide, out=narrow)
            np.square(narrow, out=narrow)
        return bells_RNM


def differentiable_mean(fitted: FittedGaussianProcess, blocks: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """The mean of `FittedGaussianProcess.predict` (B,), from and with tensors, so that it has gradients."""
    import torch

    def joined(views: Sequence[View]) -> "torch.Tensor":
        return torch.cat(
            [torch.log1p(blocks[view.block]) if view.logarithmic else blocks[view.block] for view in views], dim=1
        )

    own = fitted.settings
    inputs_BD = joined([view for view in fitted.family.views if view.block in blocks]) - _tensor(fitted.center_D)
    covariance_BN = (inputs_BD * _tensor(fitted.gain_D)) @ _tensor(fitted.fitted_ND).T + _CONSTANT
    if fitted.family.smooth:
        place_BE = (joined(fitted.family.smooth) - _tensor(fitted.smooth.center_E)) * _tensor(fitted.smooth.gain_E)
        other_NE = _tensor(fitted.place_NE)
        squares_BN = place_BE.square().sum(dim=1, keepdim=True) + other_NE.square().sum(dim=1)
        distance_BN = (squares_BN - 2.0 * place_BE @ other_NE.T).clamp(min=0.0)
        for share, width in zip(fitted.share_R.tolist(), _WIDTHS, strict=True):
            covariance_BN = covariance_BN + share * torch.exp(-0.5 * distance_BN / width)
    target_B = own["offset"] + own["scale"] * (covariance_BN @ _tensor(fitted.pull_N))
    if fitted.family.logarithmic:
        return torch.exp(target_B.clamp(float(np.log(own["lowest"])), float(np.log(own["highest"]))))
    return target_B.clamp(own["lowest"], own["highest"])


def _tensor(array: FloatArray) -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _join(views: Sequence[View], blocks: Blocks) -> FloatArray:
    return np.concatenate(
        [np.log1p(blocks[view.block]) if view.logarithmic else blocks[view.block] for view in views], axis=1
    )


def _scaled(joined_ND: FloatArray, center_D: FloatArray, gain_D: FloatArray) -> FloatArray:
    """(joined - center) * gain, in place: these arrays are what predicting spends its time on."""
    joined_ND -= center_D
    joined_ND *= gain_D
    return joined_ND


def _scales(views: Sequence[View], population: Blocks) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """Centre and gain of every column, so that each view has variance 1 over the population, and its view."""
    joined_MD = _join(views, population)
    widths = [population[view.block].shape[1] for view in views]
    view_D = np.repeat(np.arange(len(views)), widths)
    center_D, deviation_D = joined_MD.mean(axis=0), joined_MD.std(axis=0)
    varies_D = deviation_D > 1e-9 * np.abs(joined_MD).max(axis=0)
    num_varying_V = np.bincount(view_D, weights=varies_D, minlength=len(views))
    gain_D = np.where(varies_D, 1.0 / np.where(varies_D, deviation_D, 1.0), 0.0)
    return center_D, gain_D / np.sqrt(np.maximum(num_varying_V, 1.0))[view_D], view_D


def _most_probable(
    inputs_ND: FloatArray,
    view_D: np.ndarray,
    bells_RNN: FloatArray,
    y_N: FloatArray,
    noise_N: FloatArray,
    *,
    prior_P: FloatArray,
    start_P: FloatArray,
) -> FloatArray:
    """Logarithms of the shares of views and bells and of the noise, of highest posterior density."""
    if len(y_N) > _ROWS_FOR_SHARES:
        some = np.random.default_rng(0).choice(len(y_N), _ROWS_FOR_SHARES, replace=False)
        inputs_ND, y_N, noise_N = inputs_ND[some], y_N[some], noise_N[some]
        bells_RNN = bells_RNN[:, some[:, None], some]
    num_views = len(prior_P) - 1 - len(bells_RNN)
    kernels = [inputs_ND[:, view_D == v] @ inputs_ND[:, view_D == v].T for v in range(num_views)]
    parts_PNN = np.stack([*kernels, *bells_RNN, np.diag(noise_N)])
    # As rows, so that sums over parts and over entries are products with a vector.
    parts_PM = parts_PNN.reshape(len(parts_PNN), -1)

    def cost(logs_P: FloatArray) -> tuple[float, FloatArray]:
        share_P = np.exp(logs_P)
        covariance_NN = (share_P @ parts_PM).reshape(parts_PNN.shape[1:]) + _CONSTANT
        # The transpose is the same matrix, in the order that needs no copy.
        lower_NN, failed = scipy.linalg.lapack.dpotrf(covariance_NN.T, lower=1, clean=1, overwrite_a=1)
        if failed:
            return 1e10, np.zeros_like(logs_P)
        log_determinant = 2.0 * float(np.log(np.diag(lower_NN)).sum())
        half_NN, _ = scipy.linalg.lapack.dpotri(lower_NN, lower=1, overwrite_c=1)
        inverse_NN = half_NN + half_NN.T
        inverse_NN[np.diag_indices(len(y_N))] *= 0.5
        pull_N = inverse_NN @ y_N
        off_P = (logs_P - prior_P) / _PRIOR_SPREAD
        value = 0.5 * y_N @ pull_N + 0.5 * log_determinant + 0.5 * off_P @ off_P
        slope_NN = inverse_NN - np.outer(pull_N, pull_N)
        gradient_P = 0.5 * share_P * (parts_PM @ slope_NN.ravel()) + off_P / _PRIOR_SPREAD
        return float(value), gradient_P

    bounds = [_LOG_BOUNDS] * len(prior_P)
    found = scipy.optimize.minimize(
        cost, start_P, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _MOST_STEPS}
    )
    return np.asarray(found.x)


def _robust_deviation(centred_N: FloatArray) -> float:
    """Standard deviation by the median absolute deviation; where most values are nearly the same (a floor), by more."""
    off_N = np.abs(centred_N)
    wide = _LEAST_OF_DEVIATION * np.quantile(off_N, 0.8) / 1.2816
    return float(max(1.4826 * np.median(off_N), wide)) or float(centred_N.std())


def _student_weight(squared_N: FloatArray) -> FloatArray:
    return (_DEGREES_OF_FREEDOM + 1.0) / (_DEGREES_OF_FREEDOM + squared_N)


def _log_errors(missed_N: FloatArray, cost_N: FloatArray, *, logarithmic: bool) -> FloatArray:
    """log(predicted / measured) from predicted - measured."""
    if logarithmic:
        return missed_N
    ratio_N: FloatArray = np.log(np.maximum(1.0 + missed_N / cost_N, 1.0 / BEYOND_FITTED))
    return ratio_N


_SOURCES = (View(block="sources-mean", log_share=0.0), View(block="sources", log_share=-2.0))
_OWN = (
    ("totals", 0.0, True),
    ("totals", 0.0, False),
    ("kinds", -2.0, False),
    ("shapes", -3.0, True),
    ("stages", -3.0, False),
    ("choices", -4.0, False),
)


def _own(*, trust: float = 0.0, prefix: str = "") -> tuple[View, ...]:
    return tuple(View(block=prefix + b, log_share=s + trust, logarithmic=log) for b, s, log in _OWN)


_SMOOTH = (View(block="choices", log_share=0.0), View(block="totals", log_share=0.0, logarithmic=True))
_FEWEST_FOR_SMOOTH = 40
# Where paths are known they say what the choices say, and more: how operators depend on each other.
_PATHS = GaussianProcess(
    name="gp-paths",
    views=(
        View(block="totals", log_share=0.0, logarithmic=True),
        View(block="kinds", log_share=-1.0, logarithmic=True),
        View(block="paths", log_share=-1.0),
        View(block="depths", log_share=0.0),
    ),
    logarithmic=True,
    smooth=(
        View(block="kinds", log_share=0.0, logarithmic=True),
        View(block="paths", log_share=0.0),
        View(block="depths", log_share=0.0),
    ),
    needs="paths",
)

REGRESSORS = (
    GaussianProcess(name="gp-log", views=_own(), logarithmic=True),
    GaussianProcess(name="gp-additive", views=_own(), logarithmic=False),
    GaussianProcess(name="gp-smooth", views=_own(), logarithmic=True, smooth=_SMOOTH, fewest=_FEWEST_FOR_SMOOTH),
    GaussianProcess(name="gp-live", views=_own(prefix="live-"), logarithmic=False, needs="live-totals"),
    _PATHS,
    GaussianProcess(name="gp-transfer", views=_SOURCES + _own(trust=-3.0), logarithmic=True, needs="sources"),
    GaussianProcess(name="gp-sources", views=_SOURCES, logarithmic=True, needs="sources"),
)


def prior_inputs(blocks: Blocks, *, population: Blocks) -> FloatArray:
    """Rows (N, D) whose products are the prior covariances of log(cost), before any measurement."""
    family = next(one for one in REGRESSORS if one.name == ("gp-transfer" if "sources" in blocks else "gp-log"))
    center_D, gain_D, view_D = _scales(family.views, population)
    share_V = np.exp([view.log_share for view in family.views])
    inputs_ND = (_join(family.views, blocks) - center_D) * gain_D * np.sqrt(share_V)[view_D]
    return np.concatenate([inputs_ND, np.full((len(inputs_ND), 1), np.sqrt(_CONSTANT))], axis=1)
