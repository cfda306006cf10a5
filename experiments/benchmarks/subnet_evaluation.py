"""How fast subnets are judged, and whether the fast way is exact.

Three procedures take turns on the same subnets of `mbconv-small` on Fashion-MNIST, in every round in another order:

- judge: `nas.evaluation.SubnetJudge`: extract, recalibrate with 2,000 training images, classify the search split;
- reference: the once-for-all procedure step by step, as its text says: extract, prepare the images, recalibrate with
  batches of 200, classify with the normalisations where they are;
- forward: nothing but passing the same number of images through the finished network, in the same batches and layout.

The judge has to reach 85 % of the throughput of the last one, and accuracies within .1 points of the second one.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.standalone_training import count_correct
from experiments.datasets import load_dataset
from experiments.recipe import load_recipe
from experiments.session import new_run
from experiments.workload import Workload, load_workload
from nas.data import DataSplits
from nas.evaluation import SubnetJudge, batch_size
from nas.training.context import LocalContext
from searchspaces import Architecture
from searchspaces.elastic.supernet import Supernet

RECIPE = Path(__file__).parents[1] / "recipes" / "fashion_mnist.yaml"
RECALIBRATION_IMAGES = 2000
RECALIBRATION_BATCH = 200
WAYS = ("judge", "reference", "forward")
_SUBNETS = 8  # keeps the choice of subnets apart from other uses of the seed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = benchmark_parser("subnet_evaluation", description=__doc__)
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="a run with a trained supernet [default: train a little]"
    )
    parser.add_argument("--subnets", type=int, default=24, metavar="N", help="subnets judged [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each way [default: %(default)s]")
    options, report = start(parser, argv)
    with ExitStack() as stack:
        if options.run is None:
            workload = trained_a_little(Path(stack.enter_context(tempfile.TemporaryDirectory())), quick=options.quick)
        else:
            workload = load_workload(options.run)
        num_subnets, rounds = (4, 2) if options.quick else (options.subnets, options.rounds)
        _compare(report, workload=workload, num_subnets=num_subnets, rounds=rounds)
    return report.finish()


def trained_a_little(directory: Path, *, quick: bool) -> Workload:
    """A run whose supernet has seen 12,800 images once: enough for accuracies that mean something."""
    recipe = load_recipe(RECIPE, overrides=["train.epochs=1"])
    data = load_dataset(recipe.data, seed=recipe.seed)
    num = 1280 if quick else 12_800
    run = new_run(recipe, directory / "run", num_classes=data.num_classes)
    workload = Workload(run=run, recipe=recipe, data=replace(data, train=data.train.first(num)))
    workload.train(LocalContext())
    return workload


def _compare(report: BenchmarkReport, *, workload: Workload, num_subnets: int, rounds: int) -> None:
    data, supernet, seed = workload.data, workload.run.supernet(), workload.recipe.seed
    space = supernet.space
    archs = space.architectures(space.sample_many(num_subnets, np.random.default_rng((seed, _SUBNETS))))
    judge = SubnetJudge(supernet, data=data, recalibration_images=RECALIBRATION_IMAGES, seed=seed)
    reference = _Reference(supernet, data=data, recalibration_inputs=torch.cat(list(judge.augmented_batches())))
    correct: dict[str, list[int]] = {}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    rng = np.random.default_rng(seed)
    for number in range(rounds + 1):
        totals = dict.fromkeys(WAYS, 0.0)
        found: dict[str, list[int]] = {"judge": [], "reference": []}
        for arch in archs:
            forward = _prepare_forward(arch, judge=judge, shape=space.input_shape(arch))
            ways: dict[str, Callable[[], int]] = {
                "judge": lambda arch=arch: judge.judge([arch])[0].accuracy.num_correct,  # type: ignore[misc]
                "reference": lambda arch=arch: reference.num_correct(arch),  # type: ignore[misc]
                "forward": forward,
            }
            for way in rng.permutation(WAYS).tolist():
                started = time.perf_counter()
                result = ways[way]()
                totals[way] += time.perf_counter() - started
                if way in found:
                    found[way].append(result)
        correct = found
        if number > 0:  # the first round fills caches
            for way in WAYS:
                seconds[way].append(totals[way])
    _report(report, seconds=seconds, correct=correct, num_subnets=num_subnets, num_images=len(data.search))


def _report(
    report: BenchmarkReport,
    *,
    seconds: dict[str, list[float]],
    correct: dict[str, list[int]],
    num_subnets: int,
    num_images: int,
) -> None:
    report.note("recalibration_images", RECALIBRATION_IMAGES)
    report.note("search_images", num_images)
    rows = []
    for way in WAYS:
        per_minute = [60.0 * num_subnets / total for total in seconds[way]]
        report.add(f"fashion-mnist/{way}/subnets_per_minute", statistics.median(per_minute))
        rows.append([way, f"{statistics.median(per_minute):.1f}", f"{min(per_minute):.1f}", f"{max(per_minute):.1f}"])
    report.show("Subnets a minute", headings=["", "median", "lowest round", "highest round"], rows=rows)
    for way, target in (("forward", 0.85), ("reference", None)):
        # Within a round, so that what else the machine does falls on all ways alike.
        ratios = [other / own for other, own in zip(seconds[way], seconds["judge"], strict=True)]
        key = f"fashion-mnist/judge/throughput_over_{way}"
        report.add(key, statistics.median(ratios), at_least=target)
        report.add(f"{key}_lowest", min(ratios))
        report.add(f"{key}_highest", max(ratios))
    differences = [100.0 * abs(a - b) / num_images for a, b in zip(correct["judge"], correct["reference"], strict=True)]
    report.add("fashion-mnist/judge/largest_difference_points", max(differences), at_most=0.1)
    report.add("fashion-mnist/judge/mean_accuracy", statistics.mean(correct["judge"]) / num_images)
    report.add("fashion-mnist/judge/lowest_accuracy", min(correct["judge"]) / num_images)


def _prepare_forward(arch: Architecture, *, judge: SubnetJudge, shape: tuple[int, ...]) -> Callable[[], int]:
    """The pure forward passes of one judgement: a finished network, and inputs that are there already."""
    network = judge.network(arch)
    x = judge.data.preprocessing.batch(judge.data.search.inputs, shape=shape)
    batches = [*judge.recalibration_batches(shape), *x.split(batch_size(shape))]

    def run() -> int:
        with torch.inference_mode():
            for batch in batches:
                network(batch)
        return 0

    return run


class _Reference:
    """The procedure of the once-for-all networks, nothing shared between subnets."""

    def __init__(self, supernet: Supernet, *, data: DataSplits, recalibration_inputs: torch.Tensor) -> None:
        self._supernet, self._data = supernet, data
        self._raw = recalibration_inputs

    def num_correct(self, arch: Architecture) -> int:
        """Correct answers on the search split after recalibration."""
        shape = self._supernet.space.input_shape(arch)
        network = self._supernet.extract(arch).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._recalibrate(network, shape=shape)
        return count_correct(network, self._data.search, preprocessing=self._data.preprocessing, shape=shape)

    def _recalibrate(self, network: nn.Module, *, shape: tuple[int, ...]) -> None:
        """Training mode normalises by the batch; hooks in front of each normalisation note mean and biased variance."""
        norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        noted: dict[nn.Module, list[tuple[int, torch.Tensor, torch.Tensor]]] = {norm: [] for norm in norms}

        def note(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            values_CM = inputs[0].transpose(0, 1).flatten(1)
            var_C, mean_C = torch.var_mean(values_CM, dim=1, correction=0)
            noted[norm].append((len(inputs[0]), mean_C, var_C))

        hooks = [norm.register_forward_pre_hook(note) for norm in norms]
        network.train()
        with torch.no_grad():
            for raw in self._raw.split(RECALIBRATION_BATCH):
                network(self._prepare(raw, shape=shape))
        network.eval()
        for hook in hooks:
            hook.remove()
        total = len(self._raw)
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(torch.stack([n * mean_C for n, mean_C, _ in noted[norm]]).sum(dim=0) / total)
            norm.running_var.copy_(torch.stack([n * var_C for n, _, var_C in noted[norm]]).sum(dim=0) / total)

    def _prepare(self, raw: torch.Tensor, *, shape: tuple[int, ...]) -> torch.Tensor:
        return self._data.preprocessing.batch(raw, shape=shape)


if __name__ == "__main__":
    raise SystemExit(main())
