"""Time series: the best subnet of a `conv1d-sensor` supernet against MiniRocket, on real data sets of the UCR archive.

The official training part is divided once more: most of it trains the supernet (sandwich rule), the rest is held out.
Subnets are judged on the held-out part with inherited weights, and the best one, the end of the front, is taken: one
network, no ensemble. The judge is the loss: among 14 ... 54 series macro F1 has few values and many ties. The network
is fine-tuned as `nas refine` does it, on the whole training part, now that the held-out part has done its work. The
official test part is used once, for this network and for MiniRocket (Dempster et al., KDD 2021, arXiv 2012.08791; the
implementation of aeon with its ridge classifier), which learns from the whole training part as well. The settings were
chosen by cross-validation inside the official training parts.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import nn

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.datasets import load_dataset
from experiments.recipe_settings import DataSettings
from nas.candidate_store import CandidateStore
from nas.data import DataSplits, Examples
from nas.evaluation import SubnetJudge
from nas.refine import FineTuning, RefineSettings, read_refined
from nas.training.context import LocalContext
from nas.training.loop import train_supernet
from nas.training.settings import TrainSettings
from searchspaces import SearchSpace, get_space
from searchspaces.genomes import Genomes

LEAST_DIFFERENCE_POINTS = -2.0
_SUBNETS = 24
_LEARNING_RATE = 3e-3
_CHOICE = 8  # keeps the draw of subnets apart from other uses of the seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How one data set is learnt.

    Attributes:
        num_classes: of the data set.
        held_out: examples of the training part that choose the network.
        epochs: of the supernet, and again of the fine-tuning.
        batch_size: of the supernet and of the fine-tuning.
        augmentation: in training; the fine structure of outlines (OSULeaf) does not survive noise.
        settings: of the space.
    """

    num_classes: int
    held_out: int
    epochs: int
    batch_size: int
    augmentation: str
    settings: Mapping[str, object]


# The three largest of the classification problems inside aeon, by their number of examples.
CASES: Mapping[str, Case] = {
    "JapaneseVowels": Case(
        num_classes=9,
        held_out=54,
        epochs=60,
        batch_size=16,
        augmentation="jitter-scale",
        settings={
            "in_channels": 12,
            "length": 25,
            "stem_kernel": 5,
            "depths": [1, 2],
            "kernels": [3, 5, 7],
            "dilations": [1, 2],
        },
    ),
    "OSULeaf": Case(
        num_classes=6,
        held_out=40,
        epochs=60,
        batch_size=8,
        augmentation="none",
        settings={
            "length": 427,
            "stem_channels": 48,
            "stem_kernel": 9,
            "widths": [[48, 64], [48, 64]],
            "depths": [2],
            "kernels": [3, 5],
            "dilations": [2, 4],
            "dropout": 0.0,
        },
    ),
    "ItalyPowerDemand": Case(
        num_classes=2,
        held_out=14,
        epochs=100,
        batch_size=16,
        augmentation="jitter-scale",
        settings={"length": 24, "stem_kernel": 5, "depths": [1, 2], "kernels": [3, 5, 7], "dilations": [1, 2]},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The network that the held-out part chose.

    Attributes:
        network: takes prepared series; in eval mode.
        held_out_f1: macro F1 on the held-out part, before the network learnt from that as well.
        macs: for one series.
    """

    network: nn.Module
    held_out_f1: float
    macs: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options, report = start(benchmark_parser("sensor_vs_minirocket", description=__doc__, seeds=3), argv)
    rows = []
    for name, case in CASES.items():
        shown = replace(case, epochs=2) if options.quick else case
        rows.append(_compare(name, shown, seeds=1 if options.quick else options.seeds, report=report))
    headings = ["data set", "test series", "front's best", "MiniRocket", "difference", "k MACs"]
    report.show("Macro F1 on the official test part, mean (lowest ... highest seed)", headings=headings, rows=rows)
    return report.finish()


def _compare(name: str, case: Case, *, seeds: int, report: BenchmarkReport) -> list[str]:
    """Both methods on one data set; returns a line of the table."""
    scores: dict[str, list[float]] = {"front_best": [], "minirocket": []}
    macs = []
    for seed in range(seeds):
        data = load_case(name, case, seed=seed)
        start_s = time.perf_counter()
        chosen = choose_network(data, case, seed=seed)
        seconds = time.perf_counter() - start_s
        for method, predicted_N in (
            ("front_best", predict(chosen.network, data, case=case)),
            ("minirocket", minirocket(data, seed=seed)),
        ):
            f1 = float(f1_score(data.report.labels_N.numpy(), predicted_N, average="macro"))
            scores[method].append(f1)
            report.add(f"{name}/seed{seed}/{method}/macro_f1", f1)
        macs.append(chosen.macs)
        report.add(f"{name}/seed{seed}/front_best/held_out_macro_f1", chosen.held_out_f1)
        report.add(f"{name}/seed{seed}/front_best/macs", chosen.macs)
        report.say(
            f"{name}, seed {seed}: front's best {scores['front_best'][-1]:.4f}, MiniRocket "
            f"{scores['minirocket'][-1]:.4f}, {chosen.macs / 1e3:.0f} k MACs, {seconds:.0f} s"
        )
        report.save()
    for method, values in scores.items():
        report.add(f"{name}/{method}/macro_f1", float(np.mean(values)))
        report.add(f"{name}/{method}/macro_f1_spread", max(values) - min(values))
    difference = 100 * float(np.mean(scores["front_best"]) - np.mean(scores["minirocket"]))
    report.add(f"{name}/difference_points", difference, at_least=LEAST_DIFFERENCE_POINTS)
    cells = [f"{np.mean(v):.4f} ({min(v):.4f} ... {max(v):.4f})" for v in scores.values()]
    return [name, str(len(data.report)), *cells, f"{difference:+.2f}", f"{np.mean(macs) / 1e3:.0f}"]


def load_case(name: str, case: Case, *, seed: int) -> DataSplits:
    """The data set with all that is held out in `search`; `report` is the official test part."""
    settings = DataSettings(
        dataset="aeon",
        subset=name,
        search=case.held_out - case.num_classes,
        verify=case.num_classes,
        report="official",
        metric="macro-f1",
        augmentation=case.augmentation,
    )
    data = load_dataset(settings, seed=seed)
    return replace(data, search=_joined(data.search, data.verify))


def choose_network(data: DataSplits, case: Case, *, seed: int) -> Chosen:
    """Train a supernet, take the best subnet on the held-out part, fine-tune it on the whole training part."""
    space = get_space("conv1d-sensor", **case.settings)
    with tempfile.TemporaryDirectory() as name, torch.random.fork_rng(devices=[]):
        directory = Path(name)
        torch.manual_seed(seed)
        supernet = space.build_supernet(num_classes=data.num_classes)
        settings = train_settings(case, seed=seed)
        train_supernet(supernet, data=data, settings=settings, directory=directory, context=LocalContext())
        judge = SubnetJudge(supernet, data=data, recalibration_images=len(data.train), seed=seed)
        archs = space.architectures(subnets(space, seed=seed))
        shape = space.input_shape(space.largest)
        held_out = {arch: _held_out(judge.network(arch), data, shape=shape) for arch in archs}
        best = min(archs, key=lambda arch: held_out[arch][1])
        whole = replace(data, train=_joined(data.train, data.search))
        store = CandidateStore(directory / "candidates", space=space, num_classes=data.num_classes)
        tuning = FineTuning(
            judge=SubnetJudge(supernet, data=whole, recalibration_images=len(whole.train), seed=seed),
            space=space,
            data=whole,
            store=store,
            settings=refine_settings(case, settings=settings),
        )
        tuning.run(best, directory=directory / "refine", on_epoch=lambda row: None)
        refined = read_refined(directory / "refine")
        assert refined is not None
        network = store.load(refined.candidate)
    macs = space.op_table(space.genomes([best]), num_classes=data.num_classes).macs.sum()
    return Chosen(network=network, held_out_f1=held_out[best][0], macs=int(macs))


def _held_out(network: nn.Module, data: DataSplits, *, shape: tuple[int, ...]) -> tuple[float, float]:
    """Macro F1 and loss (cross entropy, nats) on the held-out part."""
    with torch.inference_mode():
        logits_NK = network(data.preprocessing.prepare(data.search.inputs, shape=shape))
    labels_N = data.search.labels_N
    f1 = float(f1_score(labels_N.numpy(), logits_NK.argmax(dim=1).numpy(), average="macro"))
    return f1, float(nn.functional.cross_entropy(logits_NK, labels_N))


def train_settings(case: Case, *, seed: int) -> TrainSettings:
    """Long training with small batches: the sets have 53 ... 216 examples to learn from."""
    return TrainSettings(
        epochs=case.epochs,
        batch_size=case.batch_size,
        learning_rate=_LEARNING_RATE,
        weight_decay=0.01,
        label_smoothing=0.1,
        warmup_epochs=5.0,
        random_subnets=1,
        distillation=1.0,
        gradient_clip=5.0,
        seed=seed,
        optimizer="adamw",
    )


def refine_settings(case: Case, *, settings: TrainSettings) -> RefineSettings:
    """Fine-tuning as long as the supernet was trained, at a third of its rate."""
    return RefineSettings(
        candidates=1,
        epochs=case.epochs,
        learning_rate=settings.learning_rate / 3,
        batch_size=settings.batch_size,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        optimizer=settings.optimizer,
    )


def subnets(space: SearchSpace, *, seed: int) -> Genomes:
    """The largest and the smallest subnet and some at random, (N, G)."""
    drawn_NG = space.sample_many(_SUBNETS, np.random.default_rng((seed, _CHOICE)))
    return np.unique(np.concatenate([space.genomes([space.largest, space.smallest]), drawn_NG]), axis=0)


def predict(network: nn.Module, data: DataSplits, *, case: Case) -> NDArray[np.int64]:
    """Classes of the official test part by a network of `case`."""
    space = get_space("conv1d-sensor", **case.settings)
    with torch.inference_mode():
        x_NCT = data.preprocessing.prepare(data.report.inputs, shape=space.input_shape(space.largest))
        classes_N: NDArray[np.int64] = network(x_NCT).argmax(dim=1).numpy()
    return classes_N


def minirocket(data: DataSplits, *, seed: int) -> NDArray[np.int64]:
    """Classes of the official test part by MiniRocket, which learns from train and held-out part together."""
    from aeon.classification.convolution_based import MiniRocketClassifier

    known, num_threads = _joined(data.train, data.search), torch.get_num_threads()
    classifier = MiniRocketClassifier(random_state=seed, n_jobs=1)
    try:
        classifier.fit(known.inputs.numpy(), known.labels_N.numpy())
        classes_N: NDArray[np.int64] = classifier.predict(data.report.inputs.numpy())
    finally:
        # Numba's OpenMP sets the number of threads for torch as well, and the next training would not be the same.
        torch.set_num_threads(num_threads)
    return classes_N


def _joined(a: Examples, b: Examples) -> Examples:
    return Examples(
        inputs=torch.cat([a.inputs, b.inputs]),
        labels_N=torch.cat([a.labels_N, b.labels_N]),
        indices_N=torch.cat([a.indices_N, b.indices_N]),
        part=a.part,
    )


if __name__ == "__main__":
    raise SystemExit(main())
