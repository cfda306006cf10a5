"""A run of a small space that was profiled and searched without noise: nothing is trained and nothing measured."""

from pathlib import Path

import numpy as np
import pandas as pd

from nas.run import Run, create_run
from nas.tables import VERIFICATION_SCHEMA
from predictors import fit_latency_predictor
from predictors.features import LatencyFeatures
from predictors.prediction import FloatArray
from searchspaces import Architecture
from searchspaces.genomes import Genomes

NUM = 60
# A network's time on a device: some microseconds an operator and some nanoseconds a thousand MACs.
DEVICES = {"d": (1e-3, 1e-9), "parallel": (4e-3, 1e-10)}


def latency_ms(run: Run, genomes_NG: Genomes, *, device: str = "d") -> FloatArray:
    totals_NT = LatencyFeatures(space=run.space).encode(genomes_NG)["totals"]
    each, of_macs = DEVICES[device]
    return totals_NT[:, 0] * each + totals_NT[:, 1] * of_macs


def accuracy(run: Run, genomes_NG: Genomes) -> FloatArray:
    totals_NT = LatencyFeatures(space=run.space).encode(genomes_NG)["totals"]
    return 0.95 - 0.3 * (totals_NT[:, 1] / 1e7) ** -0.5


def everything(run: Run) -> Genomes:
    """All architectures of the run's space."""
    grids = np.meshgrid(*(np.arange(len(choice.values)) for choice in run.space.choices), indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1).astype(np.int8)


def empty_run(path: Path) -> Run:
    return create_run(
        path,
        name="test",
        recipe_text="",
        recipe_sha256="0" * 64,
        space="nas-bench-macro",
        space_settings={},
        num_classes=7,
        device_id="d",
    )


def evaluated_genomes(run: Run) -> Genomes:
    return np.unique(run.space.sample_many(NUM + 10, np.random.default_rng(0)), axis=0)[:NUM]


def add_device(run: Run, device: str) -> None:
    """Store the predictor of a device."""
    genomes_NG = evaluated_genomes(run)
    table = pd.DataFrame(
        {
            "architecture": [arch.to_json() for arch in run.space.architectures(genomes_NG)],
            "latency_ms": latency_ms(run, genomes_NG, device=device),
        }
    )
    fit_latency_predictor(table, space=run.space, device_id=device).save(run.predictor_dir(device))


def predicted_run(path: Path) -> Run:
    """A run that knows the device "d" and has `NUM` evaluations."""
    run = empty_run(path)
    add_device(run, "d")
    genomes_NG = evaluated_genomes(run)
    archs = run.space.architectures(genomes_NG)
    text = dict.fromkeys(("weights", "split", "metric", "utc_time"), "")
    intervals = ("latency_predicted_low_ms", "latency_predicted_high_ms")
    numbers = dict.fromkeys(("accuracy_low", "accuracy_high", *intervals, "seconds"), 0.0)
    counts = dict.fromkeys(("num_correct", "num_images", "macs", "params", "trial_number"), 0)
    found = zip(archs, accuracy(run, genomes_NG), latency_ms(run, genomes_NG), strict=True)
    run.evaluations_table.append(
        [
            {
                **text,
                **numbers,
                **counts,
                "in_range": True,
                "candidate_id": f"{arch.arch_id}-00000000-fp32",
                "arch_id": arch.arch_id,
                "architecture": arch.to_json(),
                "weights_kind": "inherited",
                "precision": "fp32",
                "device_id": "d",
                "accuracy": float(value),
                "latency_predicted_ms": float(latency),
            }
            for arch, value, latency in found
        ]
    )
    return run


def add_verification(
    run: Run,
    arch: Architecture,
    *,
    measured_ms: float,
    device: str = "d",
    provenance: str = "measured",
    suspect: bool = False,
) -> None:
    """Store what verifying an architecture came to."""
    nothing: dict[str, object] = {"string": "", "double": 0.0, "int64": 0, "bool": False}
    row = {one.name: nothing[str(one.type)] for one in VERIFICATION_SCHEMA}
    found = {
        "candidate_id": arch.arch_id,
        "arch_id": arch.arch_id,
        "architecture": arch.to_json(),
        "weights_kind": "inherited",
        "device_id": device,
        "provenance": provenance,
        "suspect": suspect,
        "latency_ms": measured_ms,
        "latency_low_ms": 0.99 * measured_ms,
        "latency_high_ms": 1.01 * measured_ms,
    }
    run.verifications_table.append([row | found])
