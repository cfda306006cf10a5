"""This machine's CPU: a regressor, an operator lookup table, and both together, from the same few measured subnets."""

import argparse
from pathlib import Path

import numpy as np

from experiments.benchmarks.audited_subnets import AUDITED, REFERENCE, draw_subnets, require_same_settings
from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.predictors.local_devices import LocalDevice, read_device
from experiments.recipe import load_recipe
from experiments.session import recipe_space
from hardware import get_device
from hardware.device import Device
from hardware.measurement import MEASUREMENT_SCHEMA
from hardware.table import Table
from nas.calibrate import measure_architectures
from nas.operators import measure_parts
from nas.ways import compare_ways
from predictors import OperatorTable, read_operator_table, write_operator_table
from predictors.design import most_telling
from predictors.features import LatencyFeatures
from predictors.scores import Scores
from searchspaces import SearchSpace

_DEVICE, _NUM_CLASSES = "onnxruntime-cpu", 10
_SIZES, _HELD_OUT, _SPARE = (10, 20, 50), 50, 20
_QUICK_SIZES, _QUICK_HELD_OUT = (10,), 8
_AT_ONCE = 40


def add_operators(report: BenchmarkReport, options: argparse.Namespace) -> None:
    """Measure what is missing in --work, then fit and judge every way on several splits of the subnets."""
    if options.work is None:
        report.skip("operators", "pass --work DIR, which keeps what is measured; it takes some minutes")
        return
    device, space = get_device(_DEVICE), recipe_space(load_recipe(options.recipe))
    protocol = "quick" if options.quick else "standard"
    sizes, held_out = (_QUICK_SIZES, _QUICK_HELD_OUT) if options.quick else (_SIZES, _HELD_OUT)
    require_same_settings(options.work / "settings.json", {"space_id": space.space_id, "protocol": protocol})
    operators = _parts(device, space, path=options.work / "operators.json", protocol=protocol, report=report)
    wanted = sizes[-1] + held_out + _SPARE
    subnets = _subnets(device, space, wanted, folder=options.work / _DEVICE, protocol=protocol, report=report)
    if len(subnets.cost_N) < sizes[-1] + held_out:
        report.skip(
            "operators", f"{len(subnets.cost_N)} of {wanted} subnets are not suspect: call again when it is quiet"
        )
        return
    rows = []
    for n in sizes:
        found: dict[str, list[Scores]] = {}
        for seed in range(options.seeds):
            for way, scores in _ways(subnets, operators, n=n, held_out=held_out, seed=seed).items():
                found.setdefault(way, []).append(scores)
        for way, several in found.items():
            means = {
                name: float(np.mean([getattr(one, name) for one in several])) for name in ("spearman", "mape_percent")
            }
            for name, value in means.items():
                report.add(f"operators/{_DEVICE}/n{n}/{way.replace(' ', '_')}/{name}", value)
            rows.append([way, str(n), f"{means['mape_percent']:.1f} %", f"{means['spearman']:.3f}"])
    report.show("Operator table, held-out subnets", headings=["way", "n", "mean error", "Spearman"], rows=rows)


def _ways(subnets: LocalDevice, operators: OperatorTable, *, n: int, held_out: int, seed: int) -> dict[str, Scores]:
    """Every way, fitted to the `n` subnets that tell most of those that are not held out, and the one to be stored."""
    space, genomes_NG = subnets.table.space, subnets.table.genomes_NG
    order = np.random.default_rng((seed, 1)).permutation(len(genomes_NG))
    judging, pool = order[:held_out], order[held_out:]
    fitting = pool[most_telling(LatencyFeatures(space=space), genomes_NG[pool], n=n)]
    fit, judged = (
        frame.assign(latency_ms=frame["latency_ms"] * subnets.reference_ms)
        for frame in (subnets.frame(fitting), subnets.frame(judging))
    )
    ways = compare_ways(
        fit,
        judged,
        space=space,
        device_id=_DEVICE,
        unit="ms",
        sources=(),
        operators=operators,
        num_classes=_NUM_CLASSES,
    )
    return {**ways.scores, "stored": ways.scores[ways.chosen]}


def _parts(device: Device, space: SearchSpace, *, path: Path, protocol: str, report: BenchmarkReport) -> OperatorTable:
    if not path.exists():
        measured = measure_parts(
            device,
            space,
            num_classes=_NUM_CLASSES,
            protocol=protocol,
            seed=0,
            on_progress=lambda done, total: report.say(f"{done} of {total} parts measured"),
        )
        report.note("operators", {"num_parts": measured.num_parts, "num_suspect": measured.num_suspect})
        write_operator_table(path, measured.table)
    return read_operator_table(path, device_id=_DEVICE)


def _subnets(
    device: Device, space: SearchSpace, num: int, *, folder: Path, protocol: str, report: BenchmarkReport
) -> LocalDevice:
    """Those of `num` subnets whose measurement can be believed; the others are measured (again) first."""
    table = Table(folder, schema=MEASUREMENT_SCHEMA)
    good = {space.largest, *space.architectures(read_device(folder, space=space).table.genomes_NG)}
    missing = [arch for arch in draw_subnets(space, num=num, seed=0) if arch not in good]
    for start in range(0, len(missing), _AT_ONCE):
        measure_architectures(
            device,
            space,
            {space.largest: REFERENCE} | dict.fromkeys(missing[start : start + _AT_ONCE], AUDITED),
            num_classes=_NUM_CLASSES,
            protocol=protocol,
            seed=start,
            table=table,
            on_built=lambda done, total: None,
            on_round=lambda done, total: None,
        )
        report.say(f"{len(missing[: start + _AT_ONCE])} of {len(missing)} missing subnets measured")
    return read_device(folder, space=space)
