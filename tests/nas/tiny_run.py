"""A run small enough for tests, made of real parts: 800 architectures, digits, one epoch, ONNX Runtime, SQLite."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hardware.cost import analytic_costs
from hardware.device import Device
from nas.accuracy import Accuracy, accuracy_row
from nas.candidate import Candidate
from nas.data import DataSplits
from nas.evaluation import SubnetJudge
from nas.materialise import Workbench
from nas.pareto import FrontPoint, ParetoFront
from nas.pricing import Price, Pricer
from nas.profile import ProfileSettings
from nas.refine import Refined, RefineSettings
from nas.run import Run, create_run, open_run, utc_now
from nas.search.loop import Evaluated
from nas.search.settings import SearchSettings
from nas.search.study import Values
from nas.training.settings import TrainSettings
from nas.verify import Verified, VerifySettings, choose_for_verification, verify_candidates
from predictors import fit_latency_predictor
from searchspaces import Architecture, SearchSpace
from searchspaces.elastic.supernet import Supernet
from searchspaces.genomes import Genomes
from searchspaces.mbconv import MBConvConfig, MBConvSpace, Stage

SPACE = MBConvSpace(
    MBConvConfig(
        resolutions=(8, 12),
        stem_stride=1,
        stages=tuple(
            Stage(channels=channels, stride=2, depths=(1, 2), kernels=(3, 5), expands=(2, 3)) for channels in (8, 16)
        ),
        head_channels=32,
    )
)
NUM_CLASSES = 10
SEED = 0

TRAIN = TrainSettings(
    epochs=1,
    batch_size=8,
    learning_rate=0.05,
    weight_decay=3e-5,
    label_smoothing=0.0,
    warmup_epochs=0.1,
    random_subnets=1,
    distillation=0.5,
    gradient_clip=5.0,
    seed=SEED,
)
PROFILE = ProfileSettings(fit=12, held_out=4, max_measured=16, max_mape_percent=1e6, protocol="quick", seed=SEED)
SEARCH = SearchSettings(sampler="nsga2", evaluations=12, population=4, subnets_per_task=3, limits=(), seed=SEED)
REFINE = RefineSettings(candidates=2, epochs=2, learning_rate=0.02, batch_size=32, weight_decay=3e-5, seed=SEED)


class TinyRun(Run):
    """A run of `SPACE`, which is no registered space."""

    @cached_property
    def space(self) -> SearchSpace:
        return SPACE


def create_tiny_run(path: Path) -> TinyRun:
    run = create_run(
        path,
        name="tiny",
        recipe_text="name: tiny\n",
        recipe_sha256="0" * 64,
        space="mbconv-small",
        space_settings={"resolutions": [16, 20, 24]},
        num_classes=NUM_CLASSES,
        device_id="onnxruntime-cpu",
    )
    return TinyRun(path, info=run.info)


def open_tiny_run(path: Path) -> TinyRun:
    return TinyRun(path, info=open_run(path).info)


def copy_run(run: Run, path: Path) -> TinyRun:
    """A copy that a test may change; the session's runs are shared."""
    shutil.copytree(run.path, path)
    return open_tiny_run(path)


def fresh_supernet(*, seed: int = SEED, space: SearchSpace = SPACE) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return space.build_supernet(num_classes=NUM_CLASSES)


def make_judge(supernet: Supernet, data: DataSplits) -> SubnetJudge:
    return SubnetJudge(supernet, data=data, recalibration_images=128, seed=SEED)


def make_bench(run: Run, *, data: DataSplits, device: Device) -> Workbench:
    judge = make_judge(run.supernet(), data)
    return Workbench(run, device=device, data=data, judge=judge, recalibration="bn 128 images, seed 0")


def make_pricer(run: Run) -> Pricer:
    return Pricer(run.space, predictor=run.predictor(), num_classes=NUM_CLASSES)


def verify_all(
    bench: Workbench, *, pricer: Pricer, settings: VerifySettings, on_progress: Callable[[int, int], None]
) -> Verified:
    """Verify what the stage would choose."""
    evaluations, device_id = bench.run.evaluations(), bench.device.spec.device_id
    chosen = choose_for_verification(evaluations, space=bench.run.space, device_id=device_id, num=settings.candidates)
    return verify_candidates(
        bench, chosen, evaluations=evaluations, pricer=pricer, settings=settings, on_progress=on_progress
    )


def price_by_macs(space: SearchSpace, genomes_NG: Genomes) -> Pricer:
    """A pricer for a device that needs 0.01 ms and a nanosecond for every ten MACs, fitted to these architectures."""
    genomes_NG = np.unique(genomes_NG, axis=0)
    macs_N = analytic_costs(space.op_table(genomes_NG, num_classes=NUM_CLASSES)).macs_N
    table = pd.DataFrame(
        {
            "architecture": [arch.to_json() for arch in space.architectures(genomes_NG)],
            "latency_ms": 0.01 + 1e-7 * macs_N,
        }
    )
    predictor = fit_latency_predictor(table, space=space, device_id="macs")
    return Pricer(space, predictor=predictor, num_classes=NUM_CLASSES)


class UncertainPricer(Pricer):
    """Prices as by MACs, with intervals so wide that whoever compares their wrong ends errs."""

    def price(self, archs: Sequence[Architecture]) -> list[Price]:
        return [
            replace(
                price,
                latency_predicted_low_ms=0.99 * price.latency_predicted_ms,
                latency_predicted_high_ms=1.01 * price.latency_predicted_ms,
            )
            for price in super().price(archs)
        ]


def uncertain(pricer: Pricer) -> UncertainPricer:
    """The same prices, less sure."""
    return UncertainPricer(pricer.space, predictor=pricer.predictor, num_classes=NUM_CLASSES)


def evaluation_row(candidate: Candidate, *, accuracy: Accuracy, price: Price, trial_number: int) -> dict[str, object]:
    return {
        **candidate.row(),
        **accuracy_row(accuracy),
        **price.row(),
        "split": "search",
        "trial_number": trial_number,
        "seconds": 0.0,
        "utc_time": utc_now(),
    }


def record_evaluated(bench: Workbench, evaluated: Sequence[Evaluated]) -> None:
    """Append what a search found to the run's table."""
    bench.run.evaluations_table.append(
        [
            evaluation_row(
                bench.inherit(one.architecture),
                accuracy=one.score.accuracy,
                price=one.price,
                trial_number=one.trial_number,
            )
            for one in evaluated
        ]
    )


def record_refined(bench: Workbench, refined: Refined, *, pricer: Pricer) -> None:
    """Append a fine-tuned candidate to the run's table."""
    price = pricer.price([refined.candidate.architecture])[0]
    row = evaluation_row(refined.candidate, accuracy=refined.accuracy, price=price, trial_number=-1)
    bench.run.evaluations_table.append([row])


def known_values(evaluations: pd.DataFrame) -> Mapping[str, Values]:
    rows = evaluations[evaluations["weights_kind"] == "inherited"]
    return {
        str(row["arch_id"]): Values(accuracy=float(row["accuracy"]), latency_ms=float(row["latency_predicted_ms"]))
        for row in rows.to_dict("records")
    }


def candidate_of(run: Run, point: FrontPoint) -> Candidate:
    """The candidate behind a point of the verified front."""
    rows = run.verifications()
    row = rows[rows["candidate_id"] == point.candidate].iloc[-1]
    return Candidate.from_row({str(key): str(value) for key, value in row.items()})


def make_point(number: int = 0, **changed: object) -> FrontPoint:
    """A made-up point of a front."""
    values: dict[str, object] = {
        "arch_id": f"{number:012x}",
        "candidate": f"{number:012x}-00000000-fp32",
        "metric": "top1",
        "accuracy": 0.5,
        "accuracy_interval": (0.4, 0.6),
        "accuracy_inherited": 0.4,
        "accuracy_search": 0.55,
        "latency_ms": 1.0,
        "latency_interval_ms": (0.9, 1.1),
        "latency_predicted_ms": 1.05,
        "membership": 0.9,
        "provenance": "measured",
        "suspect": False,
        "macs": 1000,
        "params": 100,
        "weights_kind": "inherited",
        "architecture": SPACE.smallest.to_json(),
        **changed,
    }
    return FrontPoint(**values)  # type: ignore[arg-type]


def make_front(points: Sequence[FrontPoint], *, provenance: str = "measured", split: str = "verify") -> ParetoFront:
    return ParetoFront(
        device_id="onnxruntime-cpu",
        points=tuple(points),
        reference_point=(0.0, 10.0),
        hypervolume=1.0,
        provenance=provenance,
        split=split,
    )


def ignore(*_: object) -> None:
    """A listener that does not care."""
