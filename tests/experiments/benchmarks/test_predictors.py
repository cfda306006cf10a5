"""The predictors' benchmark on small tables of the published layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks.predictors.__main__ import main
from experiments.benchmarks.predictors.methods import Outcome, judge_best_proxy, judged, mean_outcome
from experiments.benchmarks.predictors.published import read_fbnet, read_nasbench201, read_ofa, read_ofa_accuracy
from experiments.benchmarks.predictors.ridge import plain_ridge
from experiments.benchmarks.predictors.specialized import specialize_seconds
from predictors.prediction import Prediction
from searchspaces.fbnet import OPERATORS, fbnet
from searchspaces.nas_bench_macro import nas_bench_macro

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
    ks_NL, e_NL = rng.choice([3, 5, 7], (90, 20)), rng.choice([3, 4, 6], (90, 20))
    d_NS = rng.choice([2, 3, 4], (90, 5))
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


def test_searching_a_space_is_timed() -> None:
    calls: list[int] = []

    def timed(work: Callable[[], object]) -> float:
        work()
        calls.append(1)
        return 0.5

    assert specialize_seconds(nas_bench_macro(), rounds=2, timed=timed) == [0.5, 0.5]
    assert len(calls) == 2


def test_transformers_are_predicted_from_averages_of_their_layers(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "hat"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"encoder_layer_num": rng.integers(1, 7, 160), "decoder_layer_num": rng.integers(1, 7, 160)})
    table["decoder_embed_dim"] = rng.choice([512, 640], 160)
    for part in ("encoder", "decoder"):
        table[f"{part}_ffn_embed_dim_avg"] = 1024.0
    table["encoder_embed_dim"] = 512
    for part in ("encoder", "decoder"):
        time_N = table[f"{part}_layer_num"] * table["decoder_embed_dim"] / 100 + 5.0
        table[f"latency_mean_{part}"] = time_N * np.exp(rng.normal(0, 0.005, 160))
        table[f"latency_std_{part}"] = 0.005 * time_N
    table.to_csv(folder / "wmt14ende_cpu_xeon_all.csv", index=False)
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


def test_accuracies_are_predicted_against_peers(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "nas_bench_macro"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    keys = {"".join(map(str, row)) for row in rng.integers(0, 3, size=(130, 8)).tolist()}
    content = {
        key: {"mean_acc": 85.0 + sum(map(int, key)) / 2 + rng.normal(0, 0.05), "std": 0.1} for key in sorted(keys)
    }
    (folder / "nas-bench-macro_cifar10.json").write_text(json.dumps(content))
    out = tmp_path / "out.json"
    arguments = ["--data", str(tmp_path / "data"), "--quick", "--seeds", "1", "--parts", "accuracy"]
    assert main([*arguments, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert figures["macro/n50/ours/kendall_deviation"] == 0.0  # one seed
    assert figures["macro/n50/ours/kendall"] > 0.85
    assert figures["macro/n50/ours/rmse_points"] < figures["macro/n50/forest/rmse_points"]
    assert figures["macro/noise/rmse_points"] == pytest.approx(0.1 / 3**0.5)


def test_devices_of_this_machine_are_skipped_without_measurements(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["--parts", "local", "--out", str(out)]) == 0
    assert "--measurements" in json.loads(out.read_text())["environment"]["skipped"]["local"]
