"""Profiles a device: measures chosen subnets, fits the predictors, judges them on subnets that they never saw."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hardware.cost import analytic_costs
from hardware.files import JSON, read_json, write_json
from nas.costs import fit_costs, further_quantities, store_costs
from nas.errors import RunError
from nas.materialise import Workbench
from nas.measure import measure_candidates
from nas.run import Run
from predictors import CostPredictor, fit_latency_predictor
from predictors.design import most_telling
from predictors.features import LatencyFeatures
from predictors.latency import FEWEST_ARCHITECTURES, LatencyPredictor
from predictors.scores import Scores
from searchspaces import Architecture, SearchSpace
from searchspaces.genomes import unique_genomes

PROFILE_FIT, PROFILE_HELD_OUT = "profile-fit", "profile-held-out"
SEARCH = "search"
"""Purpose of what is measured while searching; predictors are fitted on it, too."""

_PROFILED = (PROFILE_FIT, PROFILE_HELD_OUT, SEARCH)

_POOL = 4000
# The most telling are looked for among so many.
_TELLING_POOL = 400
_BATCH = 64
_EXTRA = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """How much is measured for the predictor; the recipe's section `profile` has the same names.

    Attributes:
        fit: subnets that the predictor is fitted on at first.
        held_out: subnets that judge it.
        max_measured: most subnets measured, both kinds together.
        max_mape_percent: accepted mean absolute percentage error on the held-out subnets.
        protocol: measurement protocol.
        seed: chooses the subnets.
    """

    fit: int
    held_out: int
    max_measured: int
    max_mape_percent: float
    protocol: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What profiling a device came to.

    Attributes:
        device_id: the device.
        scores: errors on the held-out subnets.
        num_fit, num_held_out: subnets of each kind that were used.
        num_suspect: measurements that failed their own checks twice (kept and marked in the table).
        uses_suspect: whether they are among the fitted and judged ones, because too few others are left.
        accepted: whether the error is within the recipe's bound.
        max_mape_percent: that bound.
    """

    device_id: str
    scores: Scores
    num_fit: int
    num_held_out: int
    num_suspect: int
    uses_suspect: bool
    accepted: bool
    max_mape_percent: float

    @property
    def num_measured(self) -> int:
        """Measured subnets, used or not."""
        return self.num_fit + self.num_held_out + (0 if self.uses_suspect else self.num_suspect)

    def to_json(self) -> dict[str, JSON]:
        """Plain JSON values."""
        values: dict[str, JSON] = asdict(self)
        scores = asdict(self.scores)
        # JSON has no NaN: a rank correlation of constant values does not exist
        return values | {"scores": {key: None if np.isnan(value) else value for key, value in scores.items()}}


def choose_subnets(space: SearchSpace, *, num: int, seed: int) -> list[Architecture]:
    """Distinct subnets spread evenly over the logarithm of MACs, the smallest and the largest first.

    Uniform sampling of genes hardly ever gives small or large networks, which is where fronts end.
    """
    rng = np.random.default_rng((seed, 5))
    ends_NG = space.genomes([space.smallest, space.largest])
    near_ends_NG = space.mutate_many(np.repeat(ends_NG, _POOL // 4, axis=0), rng, probability=0.3)
    pool_NG = unique_genomes(np.concatenate([space.sample_many(_POOL, rng), near_ends_NG]))
    pool_NG = pool_NG[rng.permutation(len(pool_NG))]
    macs_N = np.log(analytic_costs(space.op_table(pool_NG)).macs_N)
    edges = np.linspace(macs_N.min(), macs_N.max(), num + 1)
    bins = np.clip(np.digitize(macs_N, edges) - 1, 0, num - 1)
    # Round robin over the bins: one of each, then a second of each, ...
    turn_N = np.zeros(len(bins), dtype=np.int64)
    for value in np.unique(bins):
        turn_N[bins == value] = np.arange(int((bins == value).sum()))
    order = np.lexsort((bins, turn_N))
    archs = [space.smallest, space.largest, *space.architectures(pool_NG[order[: num + 2]])]
    return list(dict.fromkeys(archs))[:num]


def choose_measurements(
    space: SearchSpace, *, fit: int, held_out: int, seed: int, sources: Sequence[CostPredictor] = ()
) -> tuple[list[Architecture], list[Architecture]]:
    """What to measure: the two ends and the most telling subnets to fit, and others of all sizes that judge.

    Args:
        space: to choose from; it has at least `fit` + `held_out` subnets.
        fit: how many to fit.
        held_out: how many more to judge.
        seed: of the choice.
        sources: predictors of other devices; what they say is not asked again.
    """
    spread = choose_subnets(space, num=min(max(_TELLING_POOL, 2 * (fit + held_out)), space.size), seed=seed)
    # The two ends are fitted, so that few networks lie outside the fitted range.
    order = np.random.default_rng((seed, 6)).permutation(np.arange(2, len(spread)))
    judging = [spread[n] for n in order[:held_out]]
    pool = [arch for arch in spread if arch not in set(judging)]
    features = LatencyFeatures(space=space, sources=tuple(sources))
    telling = most_telling(features, space.genomes(pool), n=min(fit, len(pool)))
    return list(dict.fromkeys([*pool[:2], *(pool[n] for n in telling)]))[:fit], judging


def profile_device(
    bench: Workbench,
    *,
    settings: ProfileSettings,
    on_progress: Callable[[int, int], None],
    on_message: Callable[[str], None],
    sources: Sequence[LatencyPredictor] = (),
) -> tuple[LatencyPredictor, Profile]:
    """Measure what is missing, fit, and measure more while the held-out error is above the bound.

    Measurements land in the run's table batch by batch; the predictor and its profile are stored in the run, and so are
    predictors of what else the same measurements tell (`nas.costs`).

    Args:
        bench: makes artifacts.
        settings: how much.
        on_progress: called with (rounds done, most rounds) of the batch that is measured.
        on_message: told what a user should know.
        sources: predictors of other devices that this one builds on.

    Raises:
        RunError: the space has fewer subnets than are asked for.
        DeviceError: the device is unavailable or busy.
    """
    run, space = bench.run, bench.run.space
    wanted = settings.fit + settings.held_out
    if space.size < wanted:
        raise RunError(
            f"space {space.space_id} has {space.size} architectures, profile.fit + profile.held_out is {wanted}",
            hint="lower profile.fit and profile.held_out",
        )
    fitting, judging = choose_measurements(
        space, fit=settings.fit, held_out=settings.held_out, seed=settings.seed, sources=sources
    )
    purposes = dict.fromkeys(fitting, PROFILE_FIT) | dict.fromkeys(judging, PROFILE_HELD_OUT)
    measure_missing(bench, purposes, settings=settings, on_progress=on_progress)
    predictors, profile = fit_profile(run, device_id=bench.device.spec.device_id, settings=settings, sources=sources)
    while not profile.accepted and profile.num_measured < settings.max_measured:
        on_message(
            f"held-out error {profile.scores.mape_percent:.1f} % is above {settings.max_mape_percent:g} %: measure more"
        )
        room = settings.max_measured - profile.num_measured
        exclude = set(profiled_subnets(run, device_id=profile.device_id)["arch_id"])
        rng = np.random.default_rng((settings.seed, 7, profile.num_measured))
        proposed = predictors["latency"].propose(min(_EXTRA, room), rng=rng, exclude=exclude)
        if not proposed:
            break
        measure_missing(bench, dict.fromkeys(proposed, PROFILE_FIT), settings=settings, on_progress=on_progress)
        predictors, profile = fit_profile(run, device_id=profile.device_id, settings=settings, sources=sources)
    if profile.num_suspect:
        what = "used nevertheless, because too few others are left" if profile.uses_suspect else "left out"
        on_message(f"{profile.num_suspect} measurements are suspect, the host was not quiet: they are {what}")
    store_profile(run, predictors, profile)
    return predictors["latency"], profile


def store_profile(run: Run, predictors: Mapping[str, LatencyPredictor], profile: Profile) -> None:
    """Store what `fit_profile` gave; see `store_costs`."""
    store_costs(predictors, place=lambda quantity: run.predictor_dir(profile.device_id, quantity=quantity))
    write_json(profile_path(run, profile.device_id), profile.to_json())


def profile_path(run: Run, device_id: str) -> Path:
    """Where the profile of a device is stored; it exists once the device is profiled."""
    return run.path / "predictors" / f"{device_id}.profile.json"


def stored_num_measured(run: Run, device_id: str) -> int:
    """Measured subnets that the device's stored predictors know; 0 before profiling."""
    path = profile_path(run, device_id)
    if not path.exists():
        return 0
    content = read_json(path)
    assert isinstance(content, dict), path
    suspect = 0 if content["uses_suspect"] else content["num_suspect"]
    return int(content["num_fit"]) + int(content["num_held_out"]) + int(suspect)


def profiled_subnets(run: Run, *, device_id: str) -> pd.DataFrame:
    """Measurements that the predictor is fitted or judged on, the newest of each subnet.

    `latency_ms` is the median over the rounds of (this network's round median / the reference network's in the same
    round), times the reference's median in the first session: a host that is slower for some rounds, or in a later
    session, must not look like a slower network. `latency_p99_ms` likewise: its ratio to the median is compared with
    the reference's of its session, because some sessions have longer tails than others; it is that of a session with
    the reference's median tail. `energy_mj` is NaN where none was counted. What was measured while searching has the
    purpose of what is fitted.
    """
    rows = run.measurements_table(device_id).read()
    references = rows[rows["arch_id"] == run.space.largest.arch_id].drop_duplicates("session_id", keep="last")
    reference_raw_ms = dict(zip(references["session_id"], references["raw_ms"], strict=True))
    reference_tail = dict(zip(references["session_id"], references["p99"] / references["p50"], strict=True))
    rows = rows[rows["purpose"].isin(_PROFILED)].drop_duplicates("arch_id", keep="last")
    unit_ms = float(references["p50"].iloc[0]) if len(references) else float("nan")
    latency_ms_N = np.array(
        [
            unit_ms * ratio_to_reference(raw_ms, reference_raw_ms[session_id])
            for raw_ms, session_id in zip(rows["raw_ms"], rows["session_id"], strict=True)
        ],
        dtype=np.float64,
    )
    longer_N = rows["p99"] / rows["p50"] / rows["session_id"].map(reference_tail).astype(np.float64)
    return rows.assign(
        purpose=rows["purpose"].replace(SEARCH, PROFILE_FIT),
        latency_ms=latency_ms_N,
        latency_p99_ms=latency_ms_N * longer_N * np.median(list(reference_tail.values()) or [np.nan]),
        energy_mj=[json.loads(text).get("energy_mj", np.nan) for text in rows["also"]],
    )


def usable_subnets(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `profiled_subnets` without suspect ones.

    All rows if fewer than half of a kind would be left, or too few to fit a predictor.
    """
    good = rows[~rows["suspect"]]
    of_kind, good_of_kind = rows["purpose"].value_counts(), good["purpose"].value_counts()
    few = (2 * good_of_kind.reindex(of_kind.index, fill_value=0) < of_kind).any()
    return rows if few or good_of_kind.get(PROFILE_FIT, 0) < FEWEST_ARCHITECTURES else good


def ratio_to_reference(raw_ms: Iterable[Sequence[float]], reference_raw_ms: Iterable[Sequence[float]]) -> float:
    """How long a network takes in units of the reference: the median over rounds of the ratio of their round medians.

    Args:
        raw_ms: the network's timed runs of each round, as records have them.
        reference_raw_ms: the reference's, of the same rounds.
    """
    own_R, reference_R = (np.array([np.median(runs) for runs in raw]) for raw in (raw_ms, reference_raw_ms))
    return float(np.median(own_R / reference_R))


def measure_missing(
    bench: Workbench,
    purposes: Mapping[Architecture, str],
    *,
    settings: ProfileSettings,
    on_progress: Callable[[int, int], None],
) -> None:
    """Measure those architectures that the run has not measured for its predictors; each has its purpose."""
    done = set(profiled_subnets(bench.run, device_id=bench.device.spec.device_id)["arch_id"])
    missing = [arch for arch in purposes if arch.arch_id not in done]
    for start in range(0, len(missing), _BATCH):
        batch = {bench.inherit(arch): purposes[arch] for arch in missing[start : start + _BATCH]}
        measure_candidates(bench, batch, protocol=settings.protocol, seed=settings.seed, on_round=on_progress)


def _by_purpose(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those to fit and those that judge."""
    return rows[rows["purpose"] == PROFILE_FIT], rows[rows["purpose"] == PROFILE_HELD_OUT]


def told_quantities(run: Run, *, device_id: str) -> list[str]:
    """What else than latency the run's measurements on a device tell: a predictor of each can be fitted."""
    return further_quantities(*_by_purpose(usable_subnets(profiled_subnets(run, device_id=device_id))))


def fit_profile(
    run: Run, *, device_id: str, settings: ProfileSettings, sources: Sequence[LatencyPredictor]
) -> tuple[Mapping[str, LatencyPredictor], Profile]:
    """Fit predictors, by quantity, to what the run has measured, and judge that of latency on the held-out subnets."""
    measured = profiled_subnets(run, device_id=device_id)
    num_suspect, rows = int(measured["suspect"].sum()), usable_subnets(measured)
    fit, held_out = _by_purpose(rows)
    latency = fit_latency_predictor(fit, space=run.space, device_id=device_id, sources=sources)
    scores = latency.score(held_out)
    profile = Profile(
        device_id=device_id,
        scores=scores,
        num_fit=len(fit),
        num_held_out=len(held_out),
        num_suspect=num_suspect,
        uses_suspect=bool(rows["suspect"].any()),
        accepted=scores.mape_percent <= settings.max_mape_percent,
        max_mape_percent=settings.max_mape_percent,
    )
    return fit_costs(fit, held_out, latency=latency.with_scores(scores)), profile
