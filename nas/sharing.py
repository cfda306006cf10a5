"""Which architectures could serve many devices and budgets, and the portfolios that come of them; all by prediction.

Letters: N architectures, G genes, D devices, P targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from nas.errors import InfeasibleError, RunError
from nas.portfolio import Portfolio, losses, portfolios
from nas.pricing import Pricer
from nas.run import Run
from nas.run_accuracy import run_accuracy_predictor
from nas.specialize import evolve
from predictors import AccuracyPredictor, LatencyPredictor
from predictors.prediction import FloatArray, Prediction
from searchspaces import Architecture

# Combinations of one budget a device, for which the best architecture is looked for.
_MOST_COMBINATIONS = 256
_EACH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device and the largest latency of one inference that is allowed there."""

    device_id: str
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Architectures that were looked at, and the best portfolios of them.

    Attributes:
        targets: P of them.
        architectures: N of them.
        accuracy: predicted, with inherited weights, on the search split; of the N architectures.
        latency: predicted, in ms, by device.
        evaluated: accuracies with inherited weights that the run has found, by arch_id.
        best_P: column of each target's own best architecture.
        loss_PN: see `nas.portfolio.losses`.
        portfolios: from the smallest to the largest; models are columns. Empty if `max_models` cannot meet all targets.
    """

    targets: tuple[Target, ...]
    architectures: Sequence[Architecture]
    accuracy: Prediction
    latency: dict[str, Prediction]
    evaluated: dict[str, float]
    best_P: npt.NDArray[np.int64]
    loss_PN: FloatArray
    portfolios: list[Portfolio]


def share(run: Run, targets: Sequence[Target], *, max_models: int, seed: int = 0) -> Shared:
    """Find the architectures that serve all targets best, one to `max_models` together; nothing is evaluated.

    Every accuracy is predicted by one model, also of architectures that were evaluated: the losses compare like with
    like. Looked at are the evaluated architectures and, from one evolution over the whole space, the best for each
    target and for each combination of budgets on several devices.

    Args:
        run: profiled for the devices, with evaluations.
        targets: at least one; no two are equal.
        max_models: largest portfolio.
        seed: of the evolution.

    Raises:
        RunError: no or repeated targets, a budget that is no positive number, a device without a predictor of
            milliseconds, too few evaluations, or `max_models` below 1.
        InfeasibleError: targets that no architecture meets; all are named, with the smallest reachable latencies.
    """
    _require_targets(targets)
    latency_D = {device_id: _latency_predictor(run, device_id) for device_id in _devices(targets)}
    accuracy = run_accuracy_predictor(run)
    _require_reachable(run, targets, latency_D=latency_D, seed=seed)
    rows = run.evaluations()
    rows = rows[(rows["weights_kind"] == "inherited") & rows["accuracy"].notna()].drop_duplicates(
        "arch_id", keep="last"
    )
    known = [Architecture.from_json(text) for text in rows["architecture"]]
    found_NG = _evolved(run, targets, accuracy=accuracy, latency_D=latency_D, seed=seed)
    archs = list(dict.fromkeys([*known, *run.space.architectures(found_NG)]))
    genomes_NG = run.space.genomes(archs)
    accuracies = accuracy.predict(genomes_NG)
    latencies = {device_id: predictor.predict(genomes_NG) for device_id, predictor in latency_D.items()}
    meets_PN = np.array([latencies[target.device_id].mean <= target.latency_ms for target in targets])
    loss_PN = losses(accuracies.mean, meets_PN)
    return Shared(
        targets=tuple(targets),
        architectures=archs,
        accuracy=accuracies,
        latency=latencies,
        evaluated={str(key): float(value) for key, value in zip(rows["arch_id"], rows["accuracy"], strict=True)},
        best_P=np.argmin(loss_PN, axis=1),
        loss_PN=loss_PN,
        portfolios=portfolios(loss_PN, max_models=max_models),
    )


def _require_targets(targets: Sequence[Target]) -> None:
    if not targets or len(set(targets)) < len(targets):
        raise RunError(
            f"{len(targets)} targets, {len(set(targets))} of them different", hint="give every device and budget once"
        )
    for target in targets:
        if not 0 < target.latency_ms < float("inf"):
            raise RunError(
                f"the budget of device {target.device_id!r} is {target.latency_ms}, expected a positive number of ms",
                hint="give budgets in ms",
            )


def _devices(targets: Sequence[Target]) -> list[str]:
    return list(dict.fromkeys(target.device_id for target in targets))


def _latency_predictor(run: Run, device_id: str) -> LatencyPredictor:
    predictor = run.predictor(device_id)
    if predictor.unit != "ms":
        raise RunError(
            f"costs of device {device_id!r} are {predictor.unit}, budgets are ms",
            hint="choose devices that are measured",
        )
    return predictor


def _require_reachable(
    run: Run, targets: Sequence[Target], *, latency_D: dict[str, LatencyPredictor], seed: int
) -> None:
    """Name all targets that no architecture meets, at once."""
    missed = []
    for device_id, predictor in latency_D.items():
        pricer = Pricer(run.space, predictor=predictor, num_classes=run.info.num_classes)
        arch, price = pricer.fastest(seed=seed)
        reached_ms = price.latency_predicted_ms
        budgets = sorted(t.latency_ms for t in targets if t.device_id == device_id and t.latency_ms < reached_ms)
        if budgets:
            asked = ", ".join(f"{budget:g}" for budget in budgets)
            missed.append(f"{device_id} in {asked} ms (smallest reachable {reached_ms:.4g} ms, {arch.arch_id})")
    if missed:
        raise InfeasibleError(
            f"no architecture of {run.space.space_id} runs on {'; on '.join(missed)}; latencies are predicted",
            hint="raise the budgets above these values",
        )


def _evolved(
    run: Run,
    targets: Sequence[Target],
    *,
    accuracy: AccuracyPredictor,
    latency_D: dict[str, LatencyPredictor],
    seed: int,
) -> npt.NDArray[np.int8]:
    """The most accurate architectures under each target and under each combination of budgets."""
    limits_CD = _combinations(targets, devices=list(latency_D), seed=seed)

    def rank(genomes_NG: npt.NDArray[np.int8]) -> list[FloatArray]:
        return [accuracy.predict(genomes_NG).mean, *(one.predict(genomes_NG).mean for one in latency_D.values())]

    def order(ranked: Sequence[FloatArray]) -> npt.NDArray[np.int64]:
        """The first of every combination, then the second of every one, and so on; each once."""
        accuracy_N, latency_ND = ranked[0], np.stack(ranked[1:], axis=1)
        missed_CN = np.stack([np.maximum(latency_ND / limits_D - 1.0, 0.0).max(axis=1) for limits_D in limits_CD])
        turns_NC = np.stack([np.lexsort((-accuracy_N, missed_N)) for missed_N in missed_CN], axis=1)
        flat = turns_NC.ravel()
        return flat[np.sort(np.unique(flat, return_index=True)[1])]

    return evolve(run.space, rank, order=order, top=len(limits_CD) * _EACH // 4, seed=seed)


def _combinations(targets: Sequence[Target], *, devices: Sequence[str], seed: int) -> FloatArray:
    """Limits (C, D) in ms: one budget or none (inf) for every device, the single targets first."""
    budgets = [[np.inf, *sorted(t.latency_ms for t in targets if t.device_id == device_id)] for device_id in devices]
    combined = [limits for limits in product(*budgets) if np.isfinite(limits).any()]
    combined.sort(key=lambda limits: np.isfinite(limits).sum())
    single = combined[: len(targets)]
    others = combined[len(targets) :]
    if len(combined) > _MOST_COMBINATIONS:
        drawn = np.random.default_rng((seed, 10)).choice(
            len(others), size=_MOST_COMBINATIONS - len(single), replace=False
        )
        others = [others[n] for n in sorted(drawn)]
    return np.array([*single, *others], dtype=np.float64)
