"""The search benchmark on small tables of the published layout."""

import argparse
import json
import pickle  # noqa: TID251 - the published file is one; it is written here and never loaded
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.harness import BenchmarkReport
from experiments.benchmarks.nasbench201_accuracies import read_accuracies, read_records
from experiments.benchmarks.search import informed
from experiments.benchmarks.search.__main__ import main
from experiments.benchmarks.search.compare import Curves
from experiments.benchmarks.search.nb201 import add_ratios
from experiments.benchmarks.search.ofa_evolution import ofa_evolution
from experiments.benchmarks.search.ofa_objectives import RESOLUTIONS, OfaObjectives, OfficialPredictor
from experiments.benchmarks.search.samplers import SAMPLERS, run_search
from experiments.benchmarks.search.store import Searched, SearchStore
from experiments.benchmarks.search.truth import ExactFront, Problem, evaluations_to
from experiments.errors import DataError
from hardware.cost import analytic_costs
from nas.objectives import ACCURACY, LATENCY
from nas.search import evolution
from searchspaces import Architecture, SearchSpace, get_space
from searchspaces.enumeration import enumerate_genomes
from searchspaces.genomes import Choice, Genomes
from searchspaces.graph import OpTable
from searchspaces.nasbench201 import EDGES, OPERATORS, NASBench201Space
from searchspaces.ofa_mbconv import OfaMBConvSpace

SPACE = NASBench201Space()
CELLS_NG = enumerate_genomes(SPACE)
# The published file's operators by number; its keys list the edges by their source.
NAMES = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
KEY_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


def accuracy_of(genome_G: np.ndarray) -> float:
    """A percentage that tells every cell from every other one."""
    return 10.0 + 80.0 * float(genome_G @ 5.0 ** np.arange(6)) / 5.0**6


def key_of(genome_G: np.ndarray) -> tuple[int, ...]:
    values = SPACE.choices[0].values
    return tuple(NAMES.index(str(values[genome_G[EDGES.index(edge)]])) for edge in KEY_EDGES)


@pytest.fixture(scope="module")
def published() -> bytes:
    """A file as the package writes it: a dictionary of its own objects, pickled."""
    module = types.ModuleType("analognasbench.data")
    classes = {name: type(name, (), {"__module__": module.__name__}) for name in ("Architecture", "DriftMeasurement")}
    vars(module).update(classes)
    parent = types.ModuleType("analognasbench")
    vars(parent)["data"] = module
    records = {}
    for genome_G in CELLS_NG:
        record, drift = classes["Architecture"](), classes["DriftMeasurement"]()
        drift.value = 10.0
        vars(record).update(architecture=key_of(genome_G), baseline_accuracy=accuracy_of(genome_G), drift=drift)
        records[key_of(genome_G)] = record
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "analognasbench", parent)
        patch.setitem(sys.modules, "analognasbench.data", module)
        return pickle.dumps(records, protocol=4)


def test_accuracies_are_read_without_the_package_and_without_unpickling(published: bytes, tmp_path: Path) -> None:
    assert "analognasbench" not in sys.modules
    plain, wheel = tmp_path / "data.anb", tmp_path / "some.whl"
    plain.write_bytes(published)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("analognasbench/data.anb", published)
    some_NG = CELLS_NG[::-700]
    for path in (plain, wheel):
        accuracy_N = read_accuracies(path, space=SPACE, genomes_NG=some_NG)
        np.testing.assert_allclose(accuracy_N, [accuracy_of(genome_G) / 100.0 for genome_G in some_NG])


class Bad:
    """Unpickled it would call something."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_a_pickle_that_asks_for_anything_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"builtins\.print"):
        read_records(pickle.dumps({(0,) * 6: Bad()}, protocol=4))
    with pytest.raises(DataError, match="plain data do not need"):
        read_records(pickle.dumps({(0,) * 6: Bad()}, protocol=0))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2], protocol=4), pickle.dumps(3, protocol=4)])
def test_what_is_no_dictionary_is_refused(content: bytes) -> None:
    with pytest.raises(DataError):
        read_records(content)


def test_a_file_without_every_cell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.anb"
    path.write_bytes(pickle.dumps({(0,) * 6: {"baseline_accuracy": 90.0}}, protocol=4))
    with pytest.raises(DataError, match="baseline_accuracy"):
        read_accuracies(path, space=SPACE, genomes_NG=CELLS_NG[:10])


def test_shares_of_a_tiny_front_are_those_that_can_be_counted_by_hand() -> None:
    cost_NM = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0], [0.0, 0.5]])
    front = ExactFront(cost_NM, counts_N=np.array([True, True, True, True, False]))
    assert front.size == 3
    # Scaled to (0, 1), (.5, .5), (1, 0) with the reference (1.1, 1.1): .11 + .36 + .11, less what they share.
    whole = 0.46
    shares_N = front.shares([4, 3, 1, 1, 0, 2])
    np.testing.assert_allclose(shares_N, [0.0, 0.01 / whole, 0.36 / whole, 0.36 / whole, (0.36 + 0.05) / whole, 1.0])
    assert evaluations_to(0.7, shares_N) == 3
    assert evaluations_to(1.1, shares_N) == np.inf


def test_without_a_filter_the_same_point_stretches_the_scale() -> None:
    cost_NM = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [9.0, 0.5]])
    assert ExactFront(cost_NM).size == 4
    assert ExactFront(cost_NM).shares([0, 3])[-1] > ExactFront(cost_NM, counts_N=cost_NM[:, 0] < 9).shares([0, 3])[-1]


@pytest.fixture
def problem() -> Problem:
    """Cells whose accuracy and latency follow from their operators."""
    latency_N = 1.0 + CELLS_NG @ np.array([1.0, 0.3, 2.0, 0.7, 1.5, 1.1])
    accuracy_N = 0.1 + 0.85 * np.sqrt(CELLS_NG @ np.array([0.2, 1.0, 0.5, 1.3, 0.4, 0.9]) / 17.2)
    return Problem(
        space=SPACE,
        genomes_NG=CELLS_NG,
        objectives=(ACCURACY, LATENCY),
        values_NM=np.column_stack([accuracy_N, latency_N]),
    )


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_every_sampler_evaluates_as_many_architectures_as_allowed_each_once(problem: Problem, sampler: str) -> None:
    rows = run_search(problem, sampler, seed=1, budget=18)
    assert len(rows) == len(set(rows)) == 18
    assert rows == run_search(problem, sampler, seed=1, budget=18)


class TinySpace(SearchSpace):
    """Nine architectures."""

    def __init__(self) -> None:
        super().__init__("tiny", choices=[Choice(name=name, values=(1, 2, 3)) for name in ("a", "b")])

    def op_table(self, genomes_NG: Genomes, *, num_classes: int = 10) -> OpTable:
        raise NotImplementedError

    def input_shape(self, arch: Architecture) -> tuple[int, ...]:
        raise NotImplementedError


def test_a_space_smaller_than_the_budget_is_evaluated_to_its_last_architecture() -> None:
    space = TinySpace()
    genomes_NG = enumerate_genomes(space)
    values_NM = np.column_stack([genomes_NG[:, 0] / 4.0, 1.0 + genomes_NG[:, 1]])
    tiny = Problem(space=space, genomes_NG=genomes_NG, objectives=(ACCURACY, LATENCY), values_NM=values_NM)
    assert sorted(run_search(tiny, "nsga2", seed=0, budget=50)) == list(range(9))


def test_finished_searches_are_found_again_and_a_torn_line_is_not(tmp_path: Path) -> None:
    store = SearchStore(tmp_path / "work")
    first = Searched(case="nb201/a", sampler="tpe", seed=0, budget=3, rows=[5, 1, 2], seconds=0.5)
    store.add(first)
    path = tmp_path / "work" / "tpe.jsonl"
    path.write_text(path.read_text() + '{"case": "nb201/a", "sam')
    second = Searched(case="nb201/a", sampler="tpe", seed=1, budget=3, rows=[0, 1, 2], seconds=0.5)
    assert store.find(case="nb201/a", sampler="tpe", seed=1, budget=3) is None
    store.add(second)
    assert store.find(case="nb201/a", sampler="tpe", seed=0, budget=3) == first
    assert store.find(case="nb201/a", sampler="tpe", seed=1, budget=3) == second
    assert store.find(case="nb201/a", sampler="tpe", seed=1, budget=4) is None


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The cells on two devices."""
    folder = tmp_path / "data" / "help"
    folder.mkdir(parents=True)
    ops_NE = np.array([[OPERATORS.index(str(SPACE.choices[0].values[v])) for v in row] for row in CELLS_NG])
    latency_N = 1.0 + CELLS_NG.sum(axis=1)
    np.savez(
        folder / "nasbench201_latency.npz",
        ops=ops_NE.astype(np.int8),
        op_names=np.array(OPERATORS),
        lat_gold_6226=latency_N,
        lat_pixel3=latency_N**1.5,
    )
    return tmp_path / "data"


def test_figures_targets_and_pictures_and_a_second_call_searches_nothing(
    data: Path, published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy, out, work = tmp_path / "data.anb", tmp_path / "out.json", tmp_path / "work"
    accuracy.write_bytes(published)
    arguments = ["--data", str(data), "--accuracy", str(accuracy), "--work", str(work), "--out", str(out)]
    arguments += ["--parts", "nb201", "--samplers", "nsga2,random", "--seeds", "2", "--quick"]
    assert main(arguments) == 0
    first = json.loads(out.read_text())
    figures = first["figures"]
    for sampler in ("nsga2", "random"):
        key = f"nb201/gold_6226/{sampler}"
        low, middle, high = (figures[f"{key}/hypervolume_at_60{end}"] for end in ("_lowest", "", "_highest"))
        assert 0.0 <= low <= middle <= high <= 1.0
        assert 0.0 < figures[f"{key}/unfiltered_hypervolume_at_60"] <= 1.0
        assert figures[f"{key}/num_seeds"] == 2
    assert first["environment"]["nb201_cells"]["disagreeing_with_paths"] > 0
    assert "<polygon" in (tmp_path / "out-nb201.svg").read_text()
    monkeypatch.setattr("experiments.benchmarks.search.compare.run_search", None)
    assert main(arguments) == 0
    assert json.loads(out.read_text())["figures"] == figures


def test_one_search_for_all_devices_stands_beside_one_for_each(
    data: Path, published: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.benchmarks.search.devices._BUDGET", 32)
    monkeypatch.setattr("experiments.benchmarks.search.devices._AT", (16, 32))
    accuracy, out = tmp_path / "data.anb", tmp_path / "out.json"
    accuracy.write_bytes(published)
    arguments = ["--data", str(data), "--accuracy", str(accuracy), "--out", str(out), "--parts", "devices"]
    assert main([*arguments, "--seeds", "1"]) == 0
    figures = json.loads(out.read_text())["figures"]
    for way in ("all-at-once", "gold_6226-alone", "one-each"):
        by_device = [figures[f"devices/{way}/{name}/hypervolume_at_32"] for name in ("gold_6226", "pixel3")]
        assert figures[f"devices/{way}/worst_device/hypervolume_at_32"] == min(by_device)
        assert 0.0 < min(by_device) <= max(by_device) <= 1.0
    assert main([*arguments, "--seeds", "1", "--devices", "pixel3"]) == 0
    assert "two devices" in json.loads(out.read_text())["environment"]["skipped"]["devices"]


def test_without_accuracies_the_part_says_where_they_come_from(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["--data", str(data), "--parts", "nb201", "--strict", "--out", str(out)]) == 1
    assert "analog-nasbench" in json.loads(out.read_text())["environment"]["skipped"]["nb201"]


def test_a_sampler_that_ended_early_counts_with_its_budget_unless_it_was_behind() -> None:
    def curves(*shares: float) -> Curves:
        return Curves(budget=len(shares), shares_SN=np.array([shares]), seconds=1.0)

    report = BenchmarkReport(argparse.Namespace(out=None))
    found = {"surrogate": curves(0.99), "nsga2": curves(0.5, 0.6, 0.7, 0.98), "gp": curves(0.5, 0.55)}
    ahead = {**found, "gp": curves(0.5, 0.65)}
    added: dict[str, float | str | None] = {}
    report.add = lambda key, value, **targets: bool(added.setdefault(key, value))  # type: ignore[method-assign]
    add_ratios(report, {"behind": found, "ahead": ahead})
    assert added["nb201/behind/all/evaluations_ratio_to_0.98"] == 4.0
    assert added["nb201/behind/all/evaluations_ratio_to_0.98_lower_bound"] == 2.0
    assert added["nb201/ahead/all/evaluations_ratio_to_0.98"] == 2.0
    assert added["nb201/ahead/all/best_optuna_sampler"] == "gp"
    assert added["nb201/all/evaluations_ratio_to_0.98"] == pytest.approx(8.0**0.5)


OFA = get_space("ofa-mobilenetv3-w1.2", resolutions=RESOLUTIONS)


def test_the_official_predictor_sees_what_its_encoding_says() -> None:
    """A network of one hidden unit that looks at one input."""
    assert isinstance(OFA, OfaMBConvSpace)
    arch = OFA.from_ofa(ks=[3, 5, *[3] * 18], e=[6, *[3] * 19], d=[2] * 5, resolution=176)
    genomes_NG = OFA.genomes([arch, OFA.smallest])
    # Kernel 5 of block 2, expand ratio 6 of block 1, kernel 3 of block 3 (which is not there), 176 pixels.
    for place, expected in ((3 + 1, [1.0, 0.0]), (60 + 2, [1.0, 0.0]), (6, [0.0, 0.0]), (124, [1.0, 0.0])):
        tensors: dict[str, np.ndarray] = {"0.weight": np.zeros((1, 128)), "0.bias": np.zeros(1)}
        tensors["0.weight"][0, place] = 1.0
        for layer in (2, 4, 6):
            tensors |= {f"{layer}.weight": np.ones((1, 1)), f"{layer}.bias": np.zeros(1)}
        np.testing.assert_array_equal(OfficialPredictor(OFA, tensors).predict(genomes_NG), expected)


def test_their_evolution_keeps_the_limit_and_gets_better_with_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "_MOST_ROUNDS", 20)
    counts_G = np.array([len(choice.values) for choice in OFA.choices])
    objectives = OfaObjectives(
        space=OFA,
        accuracy=lambda genomes_NG: np.sqrt(genomes_NG + 1.0).sum(axis=1) / 100.0,
        latency=lambda genomes_NG: (genomes_NG + 1.0).sum(axis=1) / counts_G.sum() * 100.0,
    )
    short, long = (ofa_evolution(objectives, limit_ms=45.0, seed=0, generations=n) for n in (0, 20))
    assert short is not None
    assert long is not None
    assert short.accuracy < long.accuracy
    assert long.latency_ms <= 45.0
    assert (short.judged, long.judged) == (100, 2100)
    assert ofa_evolution(objectives, limit_ms=0.001, seed=0, generations=1) is None


@pytest.mark.parametrize("told", [True, False])
def test_a_search_that_knows_more_evaluates_each_cell_once_and_finds_the_front_early(
    told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informed, "KNOWN", 60)
    genomes_NG = np.unique(SPACE.sample_many(400, np.random.default_rng(0)), axis=0)
    macs_N = analytic_costs(SPACE.op_table(genomes_NG)).macs_N.astype(np.float64)
    depth_N = SPACE.path_features(genomes_NG)["depths"][:, 4:8] @ np.arange(4)
    values_N2 = np.column_stack([0.5 + 0.1 * depth_N + 1e-10 * macs_N, 1e-7 * macs_N])
    problem = Problem(space=SPACE, genomes_NG=genomes_NG, objectives=(ACCURACY, LATENCY), values_NM=values_N2)
    counts_N = values_N2[:, 0] > 0.55
    latency = informed.guess_latencies(problem, seed=0)
    error = None if told else informed.guess_errors(problem, seed=0)
    rows = informed.informed_search(problem, budget=20, counts_N=counts_N, latency=latency, error=error)
    assert len(rows) == len(set(rows)) == 20
    assert counts_N[rows].all()
    front = ExactFront(problem.cost_NM, counts_N=counts_N)
    chance = front.shares(np.random.default_rng(1).permutation(np.flatnonzero(counts_N))[:20].tolist())[-1]
    assert front.shares(rows)[-1] > max(0.95, chance)
