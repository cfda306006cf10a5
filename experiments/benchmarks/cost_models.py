"""Are the costs by analysis those of the networks? Random subnets are extracted, run, and counted anew.

Of every subnet the MACs are compared with torch's own counter, the parameters with the network's, and the activation
memory with the lives of all tensors that an FX interpreter saw: the peak, and what is alive at every single operator.
Normalisations and activations are fused into the operator before them, as the analysis counts them: the text of
`observed_costs`, which counts and shares no code with the analysis, says how.

    python -m experiments.benchmarks.cost_models --out cost_models.json
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.observed_costs import observe
from hardware.cost import BYTES_PER_ELEMENT, analytic_costs
from hardware.liveness import alive_elements
from searchspaces import SearchSpace, get_space, list_spaces

NAME = "cost_models"
NUM_CLASSES = 10
SUBNETS = 20

_COMPARED = ("macs", "params", "peak_bytes", "bytes_of_an_operator")
_STAGES_WITH_SE = [
    {"channels": 16, "stride": 1, "depths": [1, 2], "se": True},
    {"channels": 24, "stride": 2, "depths": [1, 2, 3], "se": True, "activation": "h-swish"},
]
# Cases by name: space and settings. Every other space that can be trained is a case as it is. Spaces with one size of
# input are laid out with several, odd ones among them.
_LAID_OUT: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "mbconv-small-se": ("mbconv-small", {"resolutions": [17, 24, 33], "stages": _STAGES_WITH_SE}),
    "nas-bench-macro": ("nas-bench-macro", {"resolutions": [24, 32, 45]}),
    "conv1d-sensor-97": ("conv1d-sensor", {"in_channels": 6, "length": 97, "stem_stride": 2, "strides": [1, 2, 1]}),
    "conv1d-sensor-400": ("conv1d-sensor", {"in_channels": 3, "length": 400, "strides": [1, 2, 2]}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The analysis beside what was observed, of the subnets of one case.

    Attributes:
        num_subnets: different architectures compared.
        num_operators: operators that they have in all.
        input_shapes: different shapes of their inputs.
        macs, params, peak_bytes: largest absolute difference of each.
        bytes_of_an_operator: largest absolute difference of the memory at any operator; None if a network has not as
            many operators as its table.
        peaks_N: observed peaks in bytes, one a subnet.
        share_waiting: part of the subnets whose peak is more than the input and output of any one operator: there it
            matters most for how long tensors live.
    """

    num_subnets: int
    num_operators: int
    input_shapes: frozenset[tuple[int, ...]]
    macs: int
    params: int
    peak_bytes: int
    bytes_of_an_operator: int | None
    peaks_N: tuple[int, ...]
    share_waiting: float


def cases() -> dict[str, SearchSpace]:
    """Every space that can be trained, some of them laid out in another way, by the name of the case."""
    spaces = {name: get_space(name) for name in list_spaces()}
    laid_out = {name: get_space(space, **settings) for name, (space, settings) in _LAID_OUT.items()}
    return {name: space for name, space in (spaces | laid_out).items() if space.trainable}


def compare(space: SearchSpace, *, num_random: int, seed: int) -> Comparison:
    """Compare the smallest, the largest and `num_random` random subnets, all different."""
    torch.manual_seed(seed)
    supernet = space.build_supernet(num_classes=NUM_CLASSES)
    drawn = space.architectures(space.sample_many(8 * num_random, np.random.default_rng(seed)))
    archs = list(dict.fromkeys([space.smallest, space.largest, *drawn]))[: 2 + num_random]
    table = space.op_table(space.genomes(archs), num_classes=NUM_CLASSES)
    costs = analytic_costs(table)
    size = BYTES_PER_ELEMENT["fp32"]
    told = [size * alive_S[is_S] for alive_S, is_S in zip(alive_elements(table), table.present(), strict=True)]
    alone_N = size * (table.input_elements + table.output_elements).max(axis=1)
    seen = [observe(supernet.extract(arch), torch.rand(1, *space.input_shape(arch))) for arch in archs]
    profiles = [np.array(observation.bytes_by_operator) for observation in seen]
    peaks_N = np.array([observation.peak_bytes for observation in seen])
    comparable = [len(profile) for profile in profiles] == [len(profile) for profile in told]
    return Comparison(
        num_subnets=len(archs),
        num_operators=sum(len(profile) for profile in profiles),
        input_shapes=frozenset(space.input_shape(arch) for arch in archs),
        macs=int(np.abs(costs.macs_N - [observation.macs for observation in seen]).max()),
        params=int(np.abs(costs.params_N - [observation.params for observation in seen]).max()),
        peak_bytes=int(np.abs(costs.peak_activation_bytes_N - peaks_N).max()),
        bytes_of_an_operator=int(np.abs(np.concatenate(told) - np.concatenate(profiles)).max()) if comparable else None,
        peaks_N=tuple(peaks_N.tolist()),
        share_waiting=float((peaks_N > alone_N).mean()),
    )


def analysed_per_second(space: SearchSpace, *, num: int) -> float:
    """Architectures a second that the analysis prices in bulk, tables included; the best of three."""
    genomes_NG = space.sample_many(num, np.random.default_rng(0))
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        analytic_costs(space.op_table(genomes_NG))
        seconds.append(time.perf_counter() - started)
    return num / min(seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = benchmark_parser(NAME, description=__doc__)
    parser.add_argument("--subnets", type=int, default=SUBNETS, metavar="N", help="random subnets a case [default: 20]")
    options, report = start(parser, argv)
    num_random = 3 if options.quick else options.subnets
    rows = []
    for case, space in cases().items():
        found = [compare(space, num_random=num_random, seed=seed) for seed in range(options.seeds)]
        rows.append(_record(report, case, found, fewest=None if options.quick else 2 + SUBNETS))
        report.say(f"{case}: compared")
    headings = [
        "case",
        "subnets",
        "operators",
        "input sizes",
        *("MACs", "params", "peak", "operator"),
        "KiB",
        "waiting",
    ]
    report.show("Largest difference between the analysis and the networks that ran", headings=headings, rows=rows)
    report.say("peak, operator: bytes alive at once, at the peak and at any operator; KiB: peaks that were seen")
    report.say("waiting: share of subnets whose peak is more than the input and output of any one operator")
    rows = []
    for name in list_spaces():
        speed = analysed_per_second(get_space(name), num=256 if options.quick else 4096)
        report.add(f"analysis/{name}/architectures_per_second", speed)
        rows.append([name, f"{speed:,.0f}"])
    report.show("Architectures analysed a second", headings=["space", "a second"], rows=rows)
    return report.finish()


def _record(report: BenchmarkReport, case: str, found: Sequence[Comparison], *, fewest: int | None) -> list[str]:
    """Add the figures of one case, of all seeds; returns its row of the table."""
    differences = []
    for name in _COMPARED:
        values = [getattr(comparison, name) for comparison in found]
        difference = None if None in values else max(values)
        report.add(f"{case}/{name}/largest_difference", difference, at_most=0)
        differences.append("other" if difference is None else str(difference))
    num_subnets = sum(comparison.num_subnets for comparison in found)
    num_operators = sum(comparison.num_operators for comparison in found)
    sizes = {shape[-1] for comparison in found for shape in comparison.input_shapes}
    peaks = [peak for comparison in found for peak in comparison.peaks_N]
    share = float(np.mean([comparison.share_waiting for comparison in found]))
    report.add(f"{case}/subnets", num_subnets, at_least=fewest)
    report.add(f"{case}/operators", num_operators)
    report.add(f"{case}/input_sizes", len(sizes))
    report.add(f"{case}/peak_bytes/smallest", min(peaks))
    report.add(f"{case}/peak_bytes/largest", max(peaks))
    report.add(f"{case}/peak_bytes/share_waiting", share)
    spread = f"{len(sizes)}: {min(sizes)}-{max(sizes)}" if len(sizes) > 1 else str(*sizes)
    kib = f"{min(peaks) / 1024:,.0f}-{max(peaks) / 1024:,.0f}"
    return [case, str(num_subnets), str(num_operators), spread, *differences, kib, f"{share:.0%}"]


if __name__ == "__main__":
    raise SystemExit(main())
