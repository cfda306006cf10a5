"""What a run cost: seconds of stages, devices and evaluations, energy, and when the supernet has paid for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import pandas as pd

from hardware.files import JSON
from nas.device_seconds import device_sessions, seconds_by_purpose
from nas.errors import RunError
from nas.origins import origins
from nas.run import Run
from nas.stage_calls import read_calls
from nas.training.finished import CHECKPOINTS, finished_checkpoints

WATTS_PER_CORE, WATTS_PER_GPU = 10.0, 300.0
"""Assumed draw of a busy core with its share of the memory, and of a busy GPU."""

# Paid once, whatever number of networks is taken from the supernet.
_SHARED_STAGES = ("train", "profile", "search")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """One stage, all its calls together.

    Attributes:
        stage: its name.
        calls: how often it was called with something to do, failed, interrupted and killed calls included.
        seconds: by the wall clock.
        core_seconds: at most: as if all its workers had been busy all the time.
        gpu_seconds: likewise.
        joules: energy.
        energy_provenance: "measured" if the processor counted every call (with whatever else ran there), otherwise
            "estimated" from core and GPU seconds.
    """

    stage: str
    calls: int
    seconds: float
    core_seconds: float
    gpu_seconds: float
    joules: float
    energy_provenance: Literal["measured", "estimated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCost:
    """What was measured on one device; see `nas.device_seconds`.

    Attributes:
        device_id: the device.
        measurements, sessions: how many.
        timed_seconds: of timed runs alone, without warm-up and building.
        seconds_by_purpose: that its unit was taken for sessions of each purpose ("search": `search.measure: active`).
    """

    device_id: str
    measurements: int
    sessions: int
    timed_seconds: float
    seconds_by_purpose: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """How many networks must be taken from a supernet before it is cheaper than training each alone.

    Attributes:
        shared_core_seconds: of training, profiling and search: paid once. Those of `Ledger.start_core_seconds` are in
            it.
        core_seconds_per_network: of fine-tuning one, measured, on average.
        epochs_alone: of training one network by itself, an assumption.
        core_seconds_alone: those epochs at the measured seconds of a fine-tuning epoch. That includes the teacher's
            forward passes and one evaluation an epoch, so training alone may be somewhat cheaper.
        networks: the quotient; None if a network of its own costs no more than fine-tuning one.
    """

    shared_core_seconds: float
    core_seconds_per_network: float
    epochs_alone: int
    core_seconds_alone: float
    networks: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The costs of a run as far as its tables hold them.

    Attributes:
        stages: in the order in which they were first called; empty for runs of a version that did not record them.
        devices: what measuring took.
        evaluations, evaluation_seconds: with inherited weights, those stopped early included; seconds of the workers.
        fine_tunings, fine_tuning_seconds: likewise.
        start_runs: directories of the runs that trained what the supernet started from, the nearest first, as far as
            they can be found.
        start_core_seconds: at most, of those trainings, which are not in `stages`; 0 for a supernet from fresh weights,
            None where not all of them are known.
        watts_per_core, watts_per_gpu: what estimated energies assume.
        break_even: None where something is missing that it needs; `break_even_missing` says what.
        break_even_missing: empty if there is one.
    """

    stages: tuple[StageCost, ...]
    devices: tuple[DeviceCost, ...]
    evaluations: int
    evaluation_seconds: float
    fine_tunings: int
    fine_tuning_seconds: float
    start_runs: tuple[str, ...]
    start_core_seconds: float | None
    watts_per_core: float
    watts_per_gpu: float
    break_even: BreakEven | None
    break_even_missing: str

    @property
    def joules(self) -> float:
        """Of all stages."""
        return sum(stage.joules for stage in self.stages)

    def to_json(self) -> dict[str, JSON]:
        """Plain JSON values."""
        document: dict[str, JSON] = asdict(self)
        return {**document, "joules": self.joules}


def ledger(
    run: Run,
    *,
    watts_per_core: float = WATTS_PER_CORE,
    watts_per_gpu: float = WATTS_PER_GPU,
    epochs_alone: int | None = None,
) -> Ledger:
    """Add up what a run's tables hold; nothing is measured now.

    Args:
        run: any run, finished or not.
        watts_per_core: of a busy core, for calls of stages whose energy was not counted.
        watts_per_gpu: of a busy GPU, likewise.
        epochs_alone: of training one network by itself; as many as the supernet had if None, with those of the runs
            that it started from.

    Raises:
        RunError: watts that are negative or not finite, or fewer than one epoch.
    """
    for name, watts in (("watts_per_core", watts_per_core), ("watts_per_gpu", watts_per_gpu)):
        if not 0 <= watts < float("inf"):
            raise RunError(f"{name} is {watts}, expected 0 or more", hint="give the draw in watts")
    if epochs_alone is not None and epochs_alone < 1:
        raise RunError(f"epochs_alone is {epochs_alone}, expected 1 or more", hint="give a number of epochs")
    evaluations, stopped = run.evaluations(), run.stopped()
    inherited = evaluations[evaluations["weights_kind"] == "inherited"]
    judging, tuning = stopped[stopped["of_epochs"] == 0], stopped[stopped["of_epochs"] > 0]
    tuned = evaluations[evaluations["weights_kind"] == "fine-tuned"]
    stages = stage_costs(read_calls(run), watts_per_core=watts_per_core, watts_per_gpu=watts_per_gpu)
    before, are_all = origins(run)
    trainings = [
        cost
        for one in before
        for cost in stage_costs(read_calls(one), watts_per_core=watts_per_core, watts_per_gpu=watts_per_gpu)
        if cost.stage == "train"
    ]
    are_known = are_all and len(trainings) == len(before)
    found: BreakEven | str = "what training the supernet's start took is not known"
    if are_known:
        found = _break_even((run, *before), [*stages, *trainings], tuned=tuned, epochs_alone=epochs_alone)
    return Ledger(
        stages=stages,
        devices=device_costs(run.measurements(), taken=run.sessions_table.read()),
        evaluations=inherited["candidate_id"].nunique() + len(judging),
        evaluation_seconds=float(inherited["seconds"].sum() + judging["seconds"].sum()),
        fine_tunings=len(tuned) + len(tuning),
        fine_tuning_seconds=float(tuned["seconds"].sum() + tuning["seconds"].sum()),
        start_runs=tuple(str(one.path) for one in before),
        start_core_seconds=sum((cost.core_seconds for cost in trainings), 0.0) if are_known else None,
        watts_per_core=watts_per_core,
        watts_per_gpu=watts_per_gpu,
        break_even=found if isinstance(found, BreakEven) else None,
        break_even_missing=found if isinstance(found, str) else "",
    )


def stage_costs(rows: pd.DataFrame, *, watts_per_core: float, watts_per_gpu: float) -> tuple[StageCost, ...]:
    """The calls of each stage, added up.

    Args:
        rows: of the table `stages`.
        watts_per_core: of a busy core, for calls whose energy was not counted.
        watts_per_gpu: of a busy GPU, likewise.
    """
    costs = []
    for stage in dict.fromkeys(rows["stage"]):
        calls = rows[rows["stage"] == stage]
        core_seconds, gpu_seconds = calls["seconds"] * calls["cores"], calls["seconds"] * calls["gpus"]
        estimated = watts_per_core * core_seconds + watts_per_gpu * gpu_seconds
        # RAPL knows nothing of GPUs.
        counted = calls["joules"].notna() & (calls["gpus"] == 0)
        costs.append(
            StageCost(
                stage=str(stage),
                calls=len(calls),
                seconds=float(calls["seconds"].sum()),
                core_seconds=float(core_seconds.sum()),
                gpu_seconds=float(gpu_seconds.sum()),
                joules=float(np.where(counted, calls["joules"].astype(float), estimated).sum()),
                energy_provenance="measured" if counted.all() else "estimated",
            )
        )
    return tuple(costs)


def device_costs(measurements: pd.DataFrame, *, taken: pd.DataFrame) -> tuple[DeviceCost, ...]:
    """What measuring took by device.

    Args:
        measurements: of all devices.
        taken: the table `sessions`.
    """
    costs = []
    for device_id in dict.fromkeys(measurements["device_id"]):
        rows = measurements[measurements["device_id"] == device_id]
        sessions = device_sessions(rows, taken=taken)
        costs.append(
            DeviceCost(
                device_id=str(device_id),
                measurements=len(rows),
                sessions=len(sessions),
                timed_seconds=float(sessions["timed_seconds"].sum()),
                seconds_by_purpose=seconds_by_purpose(sessions),
            )
        )
    return tuple(costs)


def break_even(
    stages: Sequence[StageCost],
    *,
    tuned: Sequence[tuple[float, int]],
    epochs_alone: int,
    seconds_in_search: float = 0.0,
) -> BreakEven | str:
    """When the supernet has paid for itself, or what is missing to say so.

    Args:
        stages: of the run, with the trainings of other runs that its supernet started from.
        tuned: seconds and epochs of each fine-tuning, on one core.
        epochs_alone: of training one network by itself.
        seconds_in_search: of those fine-tunings that are part of the stage `search`: they are not shared.
    """
    missing = [name for name in _SHARED_STAGES if name not in {stage.stage for stage in stages}]
    if missing:
        return f"the run did not record its stages {', '.join(missing)}"
    if any(stage.gpu_seconds for stage in stages):
        return "the supernet was trained on GPUs and fine-tuned on processors: their seconds do not compare"
    if not tuned:
        return "no network was fine-tuned, so the seconds of an epoch are not known"
    shared = sum(stage.core_seconds for stage in stages if stage.stage in _SHARED_STAGES)
    searched = sum(stage.core_seconds for stage in stages if stage.stage == "search")
    shared -= min(seconds_in_search, searched)
    each = fmean(seconds for seconds, _ in tuned)
    alone = epochs_alone * fmean(seconds / epochs for seconds, epochs in tuned)
    return BreakEven(
        shared_core_seconds=shared,
        core_seconds_per_network=each,
        epochs_alone=epochs_alone,
        core_seconds_alone=alone,
        networks=shared / (alone - each) if alone > each else None,
    )


def _break_even(
    runs: Sequence[Run], stages: Sequence[StageCost], *, tuned: pd.DataFrame, epochs_alone: int | None
) -> BreakEven | str:
    """That of the first of `runs`, whose supernet started from those of the others."""
    checkpoints = [finished_checkpoints(one.train_dir / CHECKPOINTS) for one in runs]
    run, trained = runs[0], sum(_num_epochs(found) for found in checkpoints)
    found, in_search = [], 0.0
    rows = tuned.drop_duplicates("candidate_id", keep="last")
    for arch_id, seconds, trial in zip(rows["arch_id"], rows["seconds"], rows["trial_number"], strict=True):
        # What is refined belongs to no trial, as does what the search trained right before it was killed.
        refined = 0 if trial >= 0 else _num_epochs(finished_checkpoints(run.refine_dir(str(arch_id))))
        searched = [_num_epochs(finished_checkpoints(directory)) for directory in run.trained_dirs(str(arch_id))]
        if epochs := refined or max(searched, default=0):
            found.append((float(seconds), epochs))
            in_search += 0.0 if refined else float(seconds)
    if not trained and epochs_alone is None:
        return "the supernet is not trained"
    return break_even(stages, tuned=found, epochs_alone=epochs_alone or trained, seconds_in_search=in_search)


def _num_epochs(checkpoints: Sequence[Path]) -> int:
    return int(checkpoints[-1].name.removeprefix("epoch-")) if checkpoints else 0
