"""The predictors' benchmark on small tables of the published layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks.audited_subnets import REFERENCE
from experiments.benchmarks.predictors import hat, operators
from experiments.benchmarks.predictors.__main__ import RECIPE, main
from experiments.benchmarks.predictors.methods import Outcome, judge_best_proxy, judged, mean_outcome
from experiments.benchmarks.predictors.published import read_fbnet, read_nasbench201, read_ofa, read_ofa_accuracy
from experiments.benchmarks.predictors.ridge import plain_ridge
from experiments.benchmarks.predictors.specialized import specialize_seconds
from experiments.recipe import load_recipe
from experiments.session import recipe_space
from hardware.device import Device
from hardware.measurement import MEASUREMENT_SCHEMA, CostMeasurement
from hardware.table import Table
from nas.operators import MeasuredParts
from predictors import LookupTablePredictor, OperatorTable, Prediction, from_operator_table
from predictors.features import Blocks, take
from predictors.model import CostModel, fit_cost_model
from predictors.operator_table import OperatorEntry
from predictors.parts import parts_of
from predictors.prediction import FloatArray
from searchspaces import Architecture, SearchSpace
from searchspaces.fbnet import OPERATORS, fbnet
from searchspaces.nas_bench_macro import nas_bench_macro
from tests.hardware.test_measurement import measurement

NUM = 240


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """FBNet networks on three devices that differ in what an operator costs, and one task."""
    folder = tmp_path / "data" / "help"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ops_NL = rng.integers(0, 9, size=(NUM, 22))
    cost = rng.uniform(0.5, 2.0, size=9)
    columns = {
        f"lat_{name}": (cost * rng.uniform(0.8, 1.2, size=9))[ops_NL].sum(axis=1) * np.exp(rng.normal(0, 0.01, NUM))
        for name in ("one", "two", "three")
    }
    np.savez(folder / "fbnet_latency.npz", op_idx=ops_NL.astype(np.int8), op_names=np.array(OPERATORS), **columns)
    (folder / "fbnet_device_splits.json").write_text(json.dumps({"0": {"train": ["one", "two"], "test": ["three"]}}))
    return tmp_path / "data"


def test_every_method_has_its_figures_and_absent_files_are_skipped(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code = main(["--data", str(data), "--quick", "--seeds", "2", "--parts", "fbnet,ofa", "--out", str(out)])
    assert code == 0
    content = json.loads(out.read_text())
    figures = content["figures"]
    for method in ("ours", "ours_random", "ridge", "ridge_onehot", "ridge_analytic", "macs", "best_source"):
        assert -1.0 <= figures[f"fbnet/task0/n10/{method}/spearman"] <= 1.0
        assert figures[f"fbnet/task0/n10/{method}/spearman_deviation"] >= 0.0
    assert figures["fbnet/task0/n20/ours/spearman"] > 0.8
    assert figures["fbnet/task0/ceiling/spearman"] > figures["fbnet/task0/n20/ridge_onehot/spearman"]
    assert figures["fbnet/all/n20/ours/interval_score_over_ridge"] > 0.0
    assert figures["fbnet/outside_more_macs/n50/ours/flagged"] > 0.9
    picture = (tmp_path / "out-fbnet-spearman.svg").read_text()
    assert "best_source" in picture
    assert "<polygon" in picture
    assert content["targets"]["fbnet/task0/n20/ours/spearman"]["at_least"] >= 0.975
    assert "help/ofa_mbv3_latency.npz" in content["environment"]["skipped"]


def test_a_task_with_a_device_that_is_not_there_is_skipped(data: Path, tmp_path: Path) -> None:
    splits = data / "help" / "fbnet_device_splits.json"
    splits.write_text(json.dumps({"0": {"train": ["one"], "test": ["four"]}}))
    out = tmp_path / "out.json"
    assert main(["--data", str(data), "--quick", "--strict", "--parts", "fbnet", "--out", str(out)]) == 1
    assert "no columns of four" in json.loads(out.read_text())["environment"]["skipped"]["fbnet"]


def test_without_tasks_every_column_is_a_device_and_what_is_no_latency_is_left_out(data: Path, tmp_path: Path) -> None:
    (data / "help" / "fbnet_device_splits.json").unlink()
    file = data / "help" / "fbnet_latency.npz"
    with np.load(file) as archive:
        content = {name.replace("_one", "_my-board"): archive[name] for name in archive.files}
    content["lat_two"][3] = np.nan
    np.savez(file, **content)
    out = tmp_path / "out.json"
    assert main(["--data", str(data), "--quick", "--seeds", "1", "--parts", "fbnet", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    devices = {key.split("/")[1] for key in written["figures"] if key.endswith("/ceiling/spearman")}
    assert devices == {"my-board", "three"}
    assert written["figures"]["fbnet/my-board/n20/transfer_ours/spearman"] > 0.8
    assert "1 values" in written["environment"]["skipped"]["fbnet/two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("help/nasbench201_latency.npz", b"PK\x03\x04123", "BadZipFile"),
        ("help/ofa_mbv3_latency.npz", b"", "EOFError"),
        ("hat/wmt14ende_cpu_xeon_all.csv", b"encoder_layer_num,latency_mean_encoder\n1,fast\n", "ValueError"),
        ("hat/wmt14ende_cpu_xeon_all.csv", b"encoder_layer_num\n1\n", "KeyError"),
        ("nas_bench_macro/nas-bench-macro_cifar10.json", b'{"0": {}}', "cannot be read"),
        ("help/fbnet_device_splits.json", b"{", "JSONDecodeError"),
    ],
)
def test_a_damaged_file_is_skipped_with_what_is_wrong(
    data: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (data / name).parent.mkdir(exist_ok=True)
    (data / name).write_bytes(content)
    parts = {"nasb": "nb201", "ofa_": "ofa", "wmt1": "hat", "nas-": "accuracy", "fbne": "fbnet"}
    part, out = parts[Path(name).name[:4]], tmp_path / "out.json"
    assert main(["--data", str(data), "--quick", "--seeds", "1", "--parts", part, "--out", str(out)]) == 0
    skipped = json.loads(out.read_text())["environment"]["skipped"][part]
    assert message in skipped
    assert name in skipped


def test_an_archive_without_its_networks_is_skipped_and_so_are_columns_of_text_or_of_one_value(
    data: Path, tmp_path: Path
) -> None:
    file, out = data / "help" / "fbnet_latency.npz", tmp_path / "out.json"
    with np.load(file) as archive:
        content = {name: archive[name] for name in archive.files}
    np.savez(data / "help" / "nasbench201_latency.npz", lat_one=content["lat_one"])
    np.savez(
        data / "help" / "ofa_mbv3_latency.npz", ks=np.zeros((0, 20)), e=np.zeros((0, 20)), d=np.zeros((0, 5)), r=[]
    )
    (data / "help" / "fbnet_device_splits.json").unlink()
    np.savez(file, **content | {"lat_one": np.array(["a"] * NUM), "lat_two": np.ones(NUM)})
    assert main(["--data", str(data), "--quick", "--seeds", "1", "--parts", "nb201,ofa,fbnet", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    skipped = written["environment"]["skipped"]
    assert "KeyError" in skipped["nb201"]
    assert "no array lat_*" in skipped["ofa"]
    assert f"{NUM} values are not finite" in skipped["fbnet/one"]
    assert "all values are 1" in skipped["fbnet/two"]
    assert "fbnet/three/ceiling/spearman" in written["figures"]


def test_the_proxy_that_orders_the_measured_networks_best_is_taken_and_scaled() -> None:
    cost_N = np.linspace(1.0, 2.0, 30)
    proxies_NP = np.stack([cost_N[::-1], 3.0 * cost_N], axis=1)
    found = judge_best_proxy(cost_N, np.arange(0, 30, 3), proxies_NP=proxies_NP)
    assert found.spearman == pytest.approx(1.0)
    assert found.within_5 == 1.0


def test_an_interval_score_is_the_width_and_what_lies_outside_of_it() -> None:
    found = Prediction(
        mean=np.array([1.0, 1.1]),
        lower=np.full(2, np.exp(-0.5)),
        upper=np.full(2, np.exp(0.5)),
        level=0.9,
        in_range=np.array([True, False]),
    )
    outcome = judged(found, np.exp([0.0, 0.7]))
    assert outcome.interval_score == pytest.approx(1.0 + 0.5 * 2.0 / 0.1 * 0.2)
    assert (outcome.coverage, outcome.outside_coverage, outcome.in_range) == (1.0, 0.0, 0.5)
    assert np.isnan(outcome.repeat_coverage)
    # Of the network in range: half of the repeats of what lies at the end of its interval, all of what has no noise.
    at_end = np.exp([0.5, 0.7])
    assert judged(found, at_end, noise_N=np.full(2, 0.01)).repeat_coverage == pytest.approx(0.5)
    assert judged(found, np.exp([0.0, 0.7]), noise_N=np.zeros(2)).repeat_coverage == 1.0


def test_spread_is_that_over_seeds() -> None:
    def outcome(spearman: float) -> Outcome:
        return Outcome(spearman=spearman, within_10=1.0, within_5=1.0, mape=1.0)

    # Two devices that differ, two seeds that do not.
    figures = mean_outcome([[outcome(0.2), outcome(0.8)], [outcome(0.8), outcome(0.2)]])
    assert figures["spearman"] == pytest.approx(0.5)
    assert figures["spearman_deviation"] == pytest.approx(0.0)


def test_tables_keep_the_order_of_their_rows(data: Path, tmp_path: Path) -> None:
    table = read_fbnet(data / "help" / "fbnet_latency.npz")
    with np.load(data / "help" / "fbnet_latency.npz") as archive:
        ops_NL = archive["op_idx"]
        assert (table.latency["two"] == archive["lat_two"]).all()
    arch = fbnet().architectures(table.genomes_NG[7:8])[0]
    assert [arch[f"layer{layer + 1}.op"] for layer in range(22)] == [OPERATORS[op] for op in ops_NL[7]]

    names = np.array(["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"])
    np.savez(tmp_path / "nb.npz", ops=np.array([[0, 1, 2, 3, 4, 0]], dtype=np.int8), op_names=names, lat_a=np.ones(1))
    cell = read_nasbench201(tmp_path / "nb.npz")
    genes = dict(cell.space.architectures(cell.genomes_NG)[0].genes)
    assert list(genes.values()) == ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none"]

    settings = {"ks": np.full((1, 20), 5), "e": np.full((1, 20), 4), "d": np.full((1, 5), 3), "r": np.array([160])}
    columns = {key: value.astype(np.int16) for key, value in settings.items()}
    np.savez(tmp_path / "ofa.npz", lat_a=np.ones(1), **columns)  # type: ignore[arg-type]
    network = read_ofa(tmp_path / "ofa.npz")
    assert network.space.input_shape(network.space.architectures(network.genomes_NG)[0]) == (3, 160, 160)


def test_plain_ridge_finds_an_exponential_of_a_sum() -> None:
    rng = np.random.default_rng(1)
    inputs_NF = rng.normal(size=(60, 3))
    cost_N = np.exp(inputs_NF @ np.array([0.3, -0.2, 0.0]) + 1.0)
    found = plain_ridge(inputs_NF[:40], cost_N[:40], inputs_NF[40:])
    np.testing.assert_allclose(found.mean, cost_N[40:], rtol=1e-3)


def test_intervals_of_ridge_hold_what_they_promise() -> None:
    rng = np.random.default_rng(4)
    held = []
    for _ in range(20):
        inputs_NF = rng.normal(size=(340, 5))
        cost_N = np.exp(inputs_NF @ rng.normal(size=5) + rng.normal(0.0, 0.2, 340))
        found = plain_ridge(inputs_NF[:40], cost_N[:40], inputs_NF[40:])
        held.append(((found.lower <= cost_N[40:]) & (cost_N[40:] <= found.upper)).mean())
    assert 0.87 <= np.mean(held) <= 0.94


def test_accuracies_of_ofa_networks_are_read_and_compared_where_they_are_given(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ofa"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    ks_NL, e_NL = rng.choice([3, 5, 7], (100, 20)), rng.choice([3, 4, 6], (100, 20))
    d_NS = rng.choice([2, 3, 4], (100, 5))
    macs_N = d_NS.sum(axis=1) * 1e7 + e_NL.sum(axis=1) * 1e6
    np.savez(folder / "ofa_mbv3_accuracy.npz", ks=ks_NL, e=e_NL, d=d_NS, macs=macs_N, top1=70.0 + macs_N / 1e8)
    space, genomes_NG, accuracy_N, _ = read_ofa_accuracy(folder / "ofa_mbv3_accuracy.npz")
    assert space.input_shape(space.architectures(genomes_NG[:1])[0]) == (3, 224, 224)
    assert accuracy_N.max() < 1.0
    out = tmp_path / "out.json"
    arguments = ["--data", str(tmp_path / "data"), "--quick", "--seeds", "1", "--parts", "accuracy"]
    assert main([*arguments, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert figures["ofa_accuracy/n50/ours/kendall"] > 0.6
    assert figures["ofa_accuracy/macs/kendall"] == pytest.approx(1.0)
    # The file does not say on how many images.
    assert figures["ofa_accuracy/noise/binomial_points"] is None


def test_searching_a_space_is_timed() -> None:
    calls: list[int] = []

    def timed(work: Callable[[], object]) -> float:
        work()
        calls.append(1)
        return 0.5

    found = specialize_seconds(nas_bench_macro(), rounds=2, timed=timed)
    assert found == {"specialize": [0.5, 0.5], "command": [0.5, 0.5]}
    assert len(calls) == 4


def write_transformers(data: Path, *, num: int) -> None:
    """A table of HAT."""
    (data / "hat").mkdir(parents=True)
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"encoder_layer_num": rng.integers(1, 7, num), "decoder_layer_num": rng.integers(1, 7, num)})
    table["decoder_embed_dim"] = rng.choice([512, 640], num)
    for part in ("encoder", "decoder"):
        table[f"{part}_ffn_embed_dim_avg"] = 1024.0
    table["encoder_embed_dim"] = 512
    for part in ("encoder", "decoder"):
        time_N = table[f"{part}_layer_num"] * table["decoder_embed_dim"] / 100 + 5.0
        table[f"latency_mean_{part}"] = time_N * np.exp(rng.normal(0, 0.005, num))
        table[f"latency_std_{part}"] = 0.005 * time_N
    table.to_csv(data / "hat" / "wmt14ende_cpu_xeon_all.csv", index=False)


def test_transformers_are_predicted_from_averages_of_their_layers(tmp_path: Path) -> None:
    write_transformers(tmp_path / "data", num=200)
    out = tmp_path / "out.json"
    code = main(["--data", str(tmp_path / "data"), "--quick", "--seeds", "1", "--parts", "hat", "--out", str(out)])
    assert code == 0
    content = json.loads(out.read_text())
    case = "hat/wmt14ende_cpu_xeon/n100"
    assert content["figures"][f"{case}/ours/mape"] < 2.0
    assert content["figures"][f"{case}/ours/mape"] < content["figures"][f"{case}/ridge/mape"]
    assert content["figures"][f"{case}/macs/spearman"] > 0.5
    assert content["figures"]["hat/wmt14ende_cpu_xeon/noise/relative"] == pytest.approx(0.005 / 2**0.5, rel=0.2)
    assert len(content["environment"]["skipped"]) == 3


def test_of_small_files_what_they_have_rows_for_is_judged_and_the_rest_is_skipped(data: Path, tmp_path: Path) -> None:
    file = data / "help" / "fbnet_latency.npz"
    with np.load(file) as archive:
        content = {name: archive[name] for name in archive.files}
    few = {name: array if name == "op_names" else array[:15] for name, array in content.items()}
    np.savez(file, **few)
    write_transformers(data, num=90)
    write_macro(data, macro_content(120))
    out = tmp_path / "out.json"
    arguments = ["--data", str(data), "--seeds", "1", "--out", str(out)]
    assert main([*arguments, "--parts", "fbnet,hat,accuracy"]) == 0
    written = json.loads(out.read_text())
    skipped = written["environment"]["skipped"]
    assert "15 networks are too few: 20 or more" in skipped["fbnet/n10,n20,n50,n100"]
    assert "90 networks are too few: 200 or more" in skipped["hat/wmt14ende_cpu_xeon/n100,n400,n1600"]
    assert "200 or more" in skipped["macro/n100,n250"]
    assert {key.split("/")[1] for key in written["figures"]} == {"n50", "noise"}
    # Without tasks every device is judged, and without sizes none.
    (data / "help" / "fbnet_device_splits.json").unlink()
    assert main([*arguments, "--parts", "fbnet"]) == 0
    assert json.loads(out.read_text())["figures"] == {}


def test_every_transformer_table_gets_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_transformers(tmp_path / "data", num=200)
    fits: list[int] = []

    def fit(blocks: Blocks, cost_N: FloatArray, **options: object) -> CostModel:
        fits.append(len(cost_N))
        return fit_cost_model(take(blocks, np.arange(20)), cost_N[:20], population=blocks)

    monkeypatch.setattr(hat, "fit_cost_model", fit)
    arguments = ["--data", str(tmp_path / "data"), "--parts", "hat", "--quick", "--seeds", "5"]
    assert main([*arguments, "--out", str(tmp_path / "out.json")]) == 0
    assert fits == [100] * 5


def macro_content(num: int) -> dict[str, dict[str, float]]:
    """At most that many networks of NAS-Bench-Macro."""
    rng = np.random.default_rng(3)
    keys = {"".join(map(str, row)) for row in rng.integers(0, 3, size=(num, 8)).tolist()}
    return {key: {"mean_acc": 85.0 + sum(map(int, key)) / 2 + rng.normal(0, 0.05), "std": 0.1} for key in sorted(keys)}


def write_macro(data: Path, content: object) -> None:
    (data / "nas_bench_macro").mkdir(parents=True)
    (data / "nas_bench_macro" / "nas-bench-macro_cifar10.json").write_text(json.dumps(content))


def test_accuracies_are_predicted_against_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = macro_content(130)
    write_macro(tmp_path / "data", content)
    out = tmp_path / "out.json"
    arguments = ["--data", str(tmp_path / "data"), "--quick", "--seeds", "1", "--parts", "accuracy"]
    assert main([*arguments, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert figures["macro/n50/ours/kendall_deviation"] == 0.0  # one seed
    assert figures["macro/n50/ours/kendall"] > 0.85
    assert figures["macro/n50/ours/rmse_points"] < figures["macro/n50/forest/rmse_points"]
    assert figures["macro/noise/rmse_points"] == pytest.approx(0.1 / 3**0.5)
    accuracy_N = np.array([entry["mean_acc"] for entry in content.values()]) / 100.0
    noise = 100.0 * np.sqrt(np.mean(accuracy_N * (1.0 - accuracy_N)) / 10_000)
    assert figures["macro/noise/binomial_points"] == pytest.approx(noise)
    assert f"binomial noise: {noise:.2f}, of 10,000 images" in capsys.readouterr().out


def test_what_no_predictor_can_be_fitted_to_is_skipped_and_later_parts_run(tmp_path: Path) -> None:
    write_macro(tmp_path / "data", {key: {"mean_acc": 90.0, "std": 0.1} for key in macro_content(120)})
    out = tmp_path / "out.json"
    arguments = ["--data", str(tmp_path / "data"), "--quick", "--parts", "accuracy,local", "--out", str(out)]
    assert main(arguments) == 0
    skipped = json.loads(out.read_text())["environment"]["skipped"]
    assert "all 50 accuracies are 0.9000" in skipped["accuracy"]
    assert "--measurements" in skipped["local"]


def test_devices_of_this_machine_are_skipped_without_measurements(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["--parts", "local", "--out", str(out)]) == 0
    assert "--measurements" in json.loads(out.read_text())["environment"]["skipped"]["local"]


def row(arch: Architecture, record: CostMeasurement, *, purpose: str) -> dict[str, object]:
    keys = {"arch_id": arch.arch_id, "candidate_id": "c", "architecture": arch.to_json(), "purpose": purpose}
    return {**record.to_row(), **keys}


def audited(folder: Path, *, device_id: str, power: float) -> None:
    """140 networks in two sessions, the second on a host half as fast, with a reference in each; p99 is 1.5 medians."""
    space = recipe_space(load_recipe(RECIPE))
    rng = np.random.default_rng(0)
    genomes_NG = np.unique(space.sample_many(150, rng), axis=0)[:140]
    macs_N = space.op_table(genomes_NG).macs.sum(axis=1)
    rows = []
    for number, (arch, macs) in enumerate(zip(space.architectures(genomes_NG), macs_N, strict=True)):
        session = number % 2
        ms = (1 + session) * (0.01 + (macs / 1e8) ** power)
        runs = ms * np.exp(rng.normal(0, 0.01, size=(6, 5)))
        record = measurement(
            device_id=device_id,
            session_id=f"session {session}",
            p50=ms,
            p99=1.5 * ms,
            raw_ms=tuple(map(tuple, runs.tolist())),
            slowdown=(1.0,) * 6,
        )
        rows.append(row(arch, record, purpose=REFERENCE if number < 2 else "audit"))
    Table(folder / device_id, schema=MEASUREMENT_SCHEMA).append(rows)


def test_p99_and_int8_of_this_machines_devices(tmp_path: Path) -> None:
    for device_id, power in (("a", 1.0), ("a-int8", 0.9)):
        audited(tmp_path / "measurements", device_id=device_id, power=power)
    out = tmp_path / "out.json"
    arguments = ["--parts", "local", "--quick", "--seeds", "1", "--measurements", str(tmp_path)]
    assert main([*arguments, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    for method in ("alone", "ours"):
        assert figures[f"local/a/p99/n20/{method}/mape"] < 5.0
    assert figures["local/a-int8/p99/halves/spearman"] > 0.9
    assert figures["local/int8-from-fp32/a-int8/n5/from_fp32/spearman"] > 0.95
    assert not any(key.startswith("local/int8-from-fp32/a/") for key in figures)


def test_operator_tables_are_measured_once_and_every_way_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device whose networks take what their parts take, and 2 us a part less."""
    rng = np.random.default_rng(0)
    measured: list[int] = []

    def parts(device: Device, space: SearchSpace, **settings: object) -> MeasuredParts:
        entries: dict[int, dict[str, OperatorEntry]] = {}
        for part in parts_of(space, num_classes=10):
            for size, key in zip(part.resolutions_R.tolist(), part.keys, strict=True):
                if key is not None:
                    mean = float(rng.uniform(0.005, 0.05))
                    entries.setdefault(size, {})[key] = OperatorEntry(count=9, mean=mean, std=0.0)
        table = OperatorTable(device_id=device.spec.device_id, unit="ms", entries=entries)
        sums.append(from_operator_table(table, space=space, num_classes=10))
        return MeasuredParts(table=table, num_parts=1, num_suspect=0)

    def subnets(
        device: Device, space: SearchSpace, purposes: dict[Architecture, str], *, table: Table, **settings: object
    ) -> None:
        measured.append(len(purposes))
        sums_N3 = sums[0].sums.of_genomes(space.genomes(list(purposes)))
        records = [
            measurement(p50=ms, p99=ms, raw_ms=((ms,),) * 10, slowdown=(1.0,) * 10)
            for ms in sums_N3[:, 0] - 0.002 * sums_N3[:, 2]
        ]
        table.append(
            [row(arch, one, purpose=what) for (arch, what), one in zip(purposes.items(), records, strict=True)]
        )

    sums: list[LookupTablePredictor] = []
    monkeypatch.setattr(operators, "measure_parts", parts)
    monkeypatch.setattr(operators, "measure_architectures", subnets)
    out = tmp_path / "out.json"
    arguments = ["--parts", "operators", "--quick", "--seeds", "1", "--out", str(out)]
    assert main(arguments) == 0
    assert "--work" in json.loads(out.read_text())["environment"]["skipped"]["operators"]
    for _ in range(2):
        assert main([*arguments, "--work", str(tmp_path / "work")]) == 0
    # The largest is the reference, and not counted.
    assert (measured, len(sums)) == ([38], 1)
    figures = json.loads(out.read_text())["figures"]
    case = "operators/onnxruntime-cpu/n10"
    assert figures[f"{case}/corrected_operator_sum/mape_percent"] < 0.01
    assert figures[f"{case}/operator_sum/mape_percent"] > 2.0
    assert figures[f"{case}/stored/mape_percent"] < figures[f"{case}/regressor/mape_percent"]
