"""How long the best architectures of a large space under limits take to find, from predictors alone."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nas.objectives import Limit
from nas.run import Run, create_run
from nas.specialize import specialize
from nas.tables import EVALUATION_SCHEMA
from predictors.features import LatencyFeatures, feature_layout
from predictors.latency import fit_latency_predictor
from predictors.prediction import FloatArray
from searchspaces import SearchSpace

_NUM_MEASURED, _NUM_EVALUATED = 50, 100
_DEVICE = "synthetic"
# By Arrow's name of a column's type: what does not matter here.
_EMPTY: Mapping[str, object] = {"string": "", "double": 0.0, "int64": 0, "bool": True}


def specialize_seconds(
    space: SearchSpace, *, rounds: int, timed: Callable[[Callable[[], object]], float]
) -> dict[str, list[float]]:
    """Seconds of several calls, tables made, predictors read and fitted each time.

    "specialize" is `nas.specialize.specialize`, "command" the command `nas specialize` in a process of its own.

    The run's latencies and accuracies are synthetic: what matters to the time is how many there are.

    Args:
        space: searched; of its registered settings.
        rounds: how many calls.
        timed: what measures the time of a call.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = _synthetic_run(Path(folder) / "run", space)
        limit = Limit(name="latency_ms", value=float(_latency_ms(space, _genomes(space, 200)).mean()), unit="ms")

        def from_scratch() -> None:
            # A process that begins has no tables of operators.
            feature_layout.cache_clear()
            specialize(run, limits=[limit], top=5)

        command = [sys.executable, "-m", "experiments.cli", "specialize", str(run.path)]
        command += ["--limit", f"latency_ms<={limit.value}"]

        def from_the_shell() -> None:
            subprocess.run(command, check=True, capture_output=True)

        calls = {"specialize": from_scratch, "command": from_the_shell}
        return {name: [timed(call) for _ in range(rounds)] for name, call in calls.items()}


def _synthetic_run(path: Path, space: SearchSpace) -> Run:
    run = create_run(
        path,
        name="speed",
        recipe_text="",
        recipe_sha256="0" * 64,
        space=space.space_id,
        space_settings={},
        num_classes=1000,
        device_id=_DEVICE,
    )
    genomes_NG = _genomes(space, _NUM_EVALUATED)
    archs = space.architectures(genomes_NG)
    latency_N = _latency_ms(space, genomes_NG)
    table = pd.DataFrame({"architecture": [arch.to_json() for arch in archs], "latency_ms": latency_N})
    fitted = fit_latency_predictor(table[:_NUM_MEASURED], space=space, device_id=_DEVICE)
    fitted.save(run.predictor_dir(_DEVICE))
    empty = {field.name: _EMPTY[str(field.type)] for field in EVALUATION_SCHEMA}
    run.evaluations_table.append(
        [
            {
                **empty,
                "candidate_id": arch.arch_id,
                "arch_id": arch.arch_id,
                "architecture": arch.to_json(),
                "weights_kind": "inherited",
                "accuracy": 0.8 - 0.1 / latency_ms,
            }
            for arch, latency_ms in zip(archs, latency_N.tolist(), strict=True)
        ]
    )
    return run


def _genomes(space: SearchSpace, num: int) -> np.ndarray:
    return space.sample_many(num, np.random.default_rng(0))


def _latency_ms(space: SearchSpace, genomes_NG: np.ndarray) -> FloatArray:
    macs_N = LatencyFeatures(space=space).encode(genomes_NG)["totals"][:, 1]
    noise_N = np.random.default_rng(1).normal(0.0, 0.05, len(genomes_NG))
    latency_N: FloatArray = (1.0 + macs_N / 1e8) * np.exp(noise_N)
    return latency_N
