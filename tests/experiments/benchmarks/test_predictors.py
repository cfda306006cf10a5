"""The predictors' benchmark on small tables of the published layout."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks.predictors.__main__ import main
from experiments.benchmarks.predictors.published import read_fbnet, read_nasbench201, read_ofa
from experiments.benchmarks.predictors.ridge import plain_ridge
from searchspaces.fbnet import OPERATORS, fbnet

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
    for method in ("ours", "ours_random", "ridge", "ridge_onehot", "ridge_analytic"):
        assert -1.0 <= figures[f"fbnet/task0/n10/{method}/spearman"] <= 1.0
    assert figures["fbnet/task0/n20/ours/spearman"] > 0.8
    assert content["targets"]["fbnet/task0/n20/ours/spearman"]["at_least"] >= 0.975
    assert "help/ofa_mbv3_latency.npz" in content["environment"]["skipped"]


def test_a_task_with_a_device_that_is_not_there_is_skipped(data: Path, tmp_path: Path) -> None:
    splits = data / "help" / "fbnet_device_splits.json"
    splits.write_text(json.dumps({"0": {"train": ["one"], "test": ["four"]}}))
    out = tmp_path / "out.json"
    assert main(["--data", str(data), "--quick", "--strict", "--parts", "fbnet", "--out", str(out)]) == 1
    assert "no columns of four" in json.loads(out.read_text())["environment"]["skipped"]["fbnet"]


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


def test_transformers_are_predicted_from_averages_of_their_layers(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "hat"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"encoder_layer_num": rng.integers(1, 7, 160), "decoder_layer_num": rng.integers(1, 7, 160)})
    table["decoder_embed_dim"] = rng.choice([512, 640], 160)
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
    assert figures["macro/n50/ours/kendall"] > 0.85
    assert figures["macro/n50/ours/rmse_points"] < figures["macro/n50/forest/rmse_points"]
    assert figures["macro/noise/rmse_points"] == pytest.approx(0.1 / 3**0.5)


def test_devices_of_this_machine_are_skipped_without_measurements(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["--parts", "local", "--out", str(out)]) == 0
    assert "--measurements" in json.loads(out.read_text())["environment"]["skipped"]["local"]
