"""Inherited weights against stand-alone training: do subnets of one supernet rank as networks trained alone?

Twelve subnets of a narrow `mbconv-small` on Fashion-MNIST, six of them inside a band of MACs 20 % wide, where their
size says little about their accuracy. Images are not augmented: networks of this size only lose by it. Each is trained
alone from scratch until longer training no longer pays (see
`experiments.benchmarks.standalone_training`), several seeds each, and judged with the weights it inherits from a
supernet that the project trained. Both accuracies are of the same 45,000 images: the verify and the report split.
Everything finished is kept in --work, so the benchmark can be stopped, continued, and shared by several processes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.pictures import INK, Axis, Drawing
from experiments.benchmarks.standalone_training import AloneSettings, AloneTrainings, choose_subnets, count_correct
from experiments.datasets import load_dataset
from experiments.recipe import load_recipe
from experiments.session import exclusive, open_session, recipe_space
from experiments.workload import Workload
from hardware.files import write_text
from nas.data import DataSplits
from nas.memory import keep_freed_memory
from nas.training.checkpoints import load_checkpoint
from nas.training.context import LocalContext
from nas.training.finished import CHECKPOINTS, finished_checkpoints
from searchspaces import Architecture

Floats = npt.NDArray[np.float64]

RECIPE = Path(__file__).parents[1] / "recipes" / "fashion_mnist.yaml"
PARTS = ("standalone", "supernet", "report")
LENGTHS = (8, 16, 32, 64)
LEAST_GAIN_POINTS = 0.2
_BATCH = 64
# A space and a training part (20,000 images) small enough to train 24 networks until they stop improving within some
# hours of two cores; the more images judge.
_OVERRIDES = (
    "space.settings.resolutions=[12, 14, 16, 20]",
    "space.settings.width=0.5",
    "data.augmentation=none",
    "data.verify=35000",
    f"train.batch_size={_BATCH}",
    "train.recalibration_images=2000",
)
_BAND = (0.20e6, 0.24e6)
_BESIDE = (0.075e6, 0.58e6)
_ABOVE = 1e-6  # better, not as good


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = benchmark_parser("supernet_vs_standalone", description=__doc__, seeds=2)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="trainings are kept here")
    parser.add_argument(
        "--parts", type=_parts, default=PARTS, metavar="LIST", help=f"some of {','.join(PARTS)} [default: all]"
    )
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="of the supernet [default: %(default)s]")
    parser.add_argument(
        "--longest", type=int, default=32, choices=LENGTHS, help="epochs of a stand-alone training [default: 32]"
    )
    options, report = start(parser, argv)
    keep_freed_memory()
    return _Comparison(options, report).run()


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(PARTS)}")
    return parts


class _Comparison:
    """The benchmark's parts on one set of subnets."""

    def __init__(self, options: argparse.Namespace, report: BenchmarkReport) -> None:
        self._options, self._report = options, report
        quick = options.quick
        overrides = [*_OVERRIDES, f"train.epochs={1 if quick else options.epochs}"]
        self._recipe = load_recipe(RECIPE, overrides=overrides)
        self._space = recipe_space(self._recipe)
        data = load_dataset(self._recipe.data, seed=self._recipe.seed)
        self._data = _small(data) if quick else data
        self._archs = choose_subnets(self._space, num=4 if quick else 12, band=_BAND, beside=_BESIDE, seed=0)
        lengths = (4,) if quick else tuple(length for length in LENGTHS if length <= options.longest)
        self._settings = AloneSettings(lengths=lengths, batch_size=_BATCH)
        self._alone = AloneTrainings(
            options.work / ("standalone-quick" if quick else "standalone"),
            space=self._space,
            data=self._data,
            settings=self._settings,
        )
        self._seeds = range(options.seeds)

    def run(self) -> int:
        """Do the asked parts."""
        parts = self._options.parts
        if "standalone" in parts:
            self._alone.work(self._archs, seeds=self._seeds, least_gain=LEAST_GAIN_POINTS, say=self._report.say)
        if "supernet" in parts:
            self._train_supernet()
        return self._compare() if "report" in parts else 0

    def _workload(self) -> Workload:
        """The supernet's own run, made by the recipe like any other."""
        name = "supernet-quick" if self._options.quick else f"supernet-epochs{self._recipe.train.epochs:03d}"
        session = open_session(self._recipe, self._options.work / name)
        return replace(session.workload, data=self._data)

    def _train_supernet(self) -> None:
        workload = self._workload()
        with exclusive(workload.run.path):
            workload.train(LocalContext())

    def _compare(self) -> int:
        report, settings = self._report, self._settings
        finished = [
            length
            for length in settings.lengths
            if all(self._alone.find(arch, seed=seed, epochs=length) for arch in self._archs for seed in self._seeds)
        ]
        report.note("subnets", [arch.to_json() for arch in self._archs])
        report.note("space_id", self._space.space_id)
        if not finished:
            report.skip("standalone", "trainings are missing: run --parts standalone first")
            return report.finish()
        epochs = finished[-1]
        report.add("standalone/epochs", epochs)
        if len(finished) > 1:
            gain = self._alone.mean_gain_points(self._archs, seeds=self._seeds, index=len(finished) - 1)
            report.add("standalone/last_gain_points", gain, at_most=LEAST_GAIN_POINTS)
        num_images = len(self._data.verify) + len(self._data.report)
        alone_SN = np.array(
            [[self._alone_accuracy(a, seed=s, epochs=epochs) for a in self._archs] for s in self._seeds]
        )
        report.add("noise/binomial_points", 100.0 * float(np.sqrt(alone_SN * (1 - alone_SN) / num_images).mean()))
        if len(self._seeds) > 1:
            report.add("noise/seed_points", 100.0 * float(alone_SN.std(axis=0, ddof=1).mean()))
        macs_N = self._space.op_table(self._space.genomes(self._archs)).macs.sum(axis=1).astype(np.float64)
        inherited_N = self._inherited()
        self._add_ranks("all", alone_SN=alone_SN, inherited_N=inherited_N, macs_N=macs_N, targets=True)
        half = slice(0, len(self._archs) - len(self._archs) // 2)
        self._add_ranks(
            "band",
            alone_SN=alone_SN[:, half],
            inherited_N=None if inherited_N is None else inherited_N[half],
            macs_N=macs_N[half],
            targets=False,
        )
        if inherited_N is not None:
            gaps_N = 100.0 * (alone_SN.mean(axis=0) - inherited_N)
            report.add("all/inherited/gap_points", float(gaps_N.mean()), at_most=0.5)
            report.add("all/inherited/largest_gap_points", float(gaps_N.max()))
        self._show(alone_SN, inherited_N=inherited_N, macs_N=macs_N)
        return report.finish()

    def _alone_accuracy(self, arch: Architecture, *, seed: int, epochs: int) -> float:
        found = self._alone.find(arch, seed=seed, epochs=epochs)
        assert found is not None
        return (found.correct["verify"] + found.correct["report"]) / (len(self._data.verify) + len(self._data.report))

    def _inherited(self) -> Floats | None:
        """Accuracies (N,) of the inherited subnets, None while the supernet is not trained."""
        workload = self._workload()
        done = finished_checkpoints(workload.run.train_dir / CHECKPOINTS)
        if not done or load_checkpoint(done[-1], expected={}).epoch < self._recipe.train.epochs:
            self._report.skip("inherited", "the supernet is not trained: run --parts supernet first")
            return None
        accuracies = []
        for arch in self._archs:
            network = workload.subnet_judge.network(arch)
            shape, preprocessing = self._space.input_shape(arch), self._data.preprocessing
            correct = sum(
                count_correct(network, split, preprocessing=preprocessing, shape=shape)
                for split in (self._data.verify, self._data.report)
            )
            accuracies.append(correct / (len(self._data.verify) + len(self._data.report)))
        return np.array(accuracies)

    def _add_ranks(
        self, case: str, *, alone_SN: Floats, inherited_N: Floats | None, macs_N: Floats, targets: bool
    ) -> None:
        """Kendall's tau of every stand-in against the mean stand-alone accuracy, and of one seed against another."""
        report, mean_N = self._report, alone_SN.mean(axis=0)
        seeds = [kendall(alone_SN[a], alone_SN[b]) for a in self._seeds for b in self._seeds if a < b]
        between_seeds = float(np.mean(seeds)) if seeds else None
        report.add(f"{case}/second_seed/kendall", between_seeds)
        of_macs = kendall(macs_N, mean_N)
        report.add(f"{case}/macs/kendall", of_macs)
        if inherited_N is None:
            return
        least = 0.9 * between_seeds if targets and between_seeds is not None else None
        inherited = kendall(inherited_N, mean_N)
        report.add(f"{case}/inherited/kendall", inherited, at_least=least)
        report.add(f"{case}/inherited/kendall_above_macs", inherited - of_macs, at_least=_ABOVE if targets else None)
        low, high = kendall_interval(inherited_N, mean_N)
        report.add(f"{case}/inherited/kendall_low", low)
        report.add(f"{case}/inherited/kendall_high", high)

    def _show(self, alone_SN: Floats, *, inherited_N: Floats | None, macs_N: Floats) -> None:
        shown = [float("nan")] * len(self._archs) if inherited_N is None else inherited_N.tolist()
        rows = [
            [arch.arch_id, f"{macs / 1e6:.2f}", str(self._space.input_shape(arch)[-1])]
            + [f"{accuracy:.2%}" for accuracy in (*alone, inherited)]
            for arch, macs, alone, inherited in zip(
                self._archs, macs_N.tolist(), alone_SN.T.tolist(), shown, strict=True
            )
        ]
        seeds = [f"alone, seed {seed}" for seed in self._seeds]
        self._report.show(
            "Accuracy on verify and report", headings=["subnet", "M MACs", "pixels", *seeds, "inherited"], rows=rows
        )
        if inherited_N is not None:
            inside = len(self._archs) - len(self._archs) // 2
            picture = draw_scatter(alone_SN, inherited_N=inherited_N, inside=inside)
            write_text(self._options.out.with_suffix(".svg"), picture)


def kendall(a_N: Floats, b_N: Floats) -> float:
    """Kendall's tau-b; NaN when one side is constant."""
    return float(stats.kendalltau(a_N, b_N).statistic)


def kendall_interval(a_N: Floats, b_N: Floats, *, level: float = 0.9, draws: int = 1000) -> tuple[float, float]:
    """Bootstrap interval of tau over the choice of subnets."""
    rows_DN = np.random.default_rng(0).integers(0, len(a_N), size=(draws, len(a_N)))
    taus = [kendall(a_N[rows], b_N[rows]) for rows in rows_DN]
    low, high = np.nanquantile(taus, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def draw_scatter(alone_SN: Floats, *, inherited_N: Floats, inside: int) -> str:
    """SVG: stand-alone accuracy (mean, with range of the seeds) against inherited; filled: inside the band."""
    size, edge = 560, 70
    both = np.concatenate([alone_SN.ravel(), inherited_N])
    low, high = float(both.min()), float(both.max())
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    # The same for both directions: equal accuracies lie on the diagonal.
    axis = Axis(low=low, high=high, start=edge, end=size - edge)
    drawing = Drawing(width=size, height=size)
    drawing.line(axis.start, axis.start, axis.end, axis.end, dashed=True)
    drawing.line(axis.start, axis.start, axis.end, axis.start)
    drawing.line(axis.start, axis.start, axis.start, axis.end)
    for value in np.linspace(low, high, 5).tolist():
        drawing.text(axis.at(value), edge - 18, f"{value:.1%}")
        drawing.text(edge - 30, axis.at(value) - 4, f"{value:.1%}")
    for number, inherited in enumerate(inherited_N.tolist()):
        seeds, y = alone_SN[:, number], axis.at(inherited)
        drawing.line(axis.at(float(seeds.min())), y, axis.at(float(seeds.max())), y, color=INK)
        drawing.circle(axis.at(float(seeds.mean())), y, filled=number < inside)
    drawing.text(size / 2, edge - 45, "trained alone (line: range of the seeds)")
    drawing.text(size / 2, size - 30, "Accuracy with inherited weights against training alone", size=16)
    drawing.text(size / 2, size - 50, "filled: inside one 20 % band of MACs; dashed: equal")
    drawing.text(16, size / 2, "inherited", upright=True)
    return drawing.svg()


def _small(data: DataSplits) -> DataSplits:
    """The first images of every split."""
    few = {split: getattr(data, split).first(500) for split in ("search", "verify", "report")}
    return replace(data, train=data.train.first(2560), **few)


if __name__ == "__main__":
    raise SystemExit(main())
