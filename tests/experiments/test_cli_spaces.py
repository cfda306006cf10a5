"""`nas spaces` and `nas import-ofa`, as typed."""

import json
import re
from pathlib import Path

import pytest
import torch

from experiments.errors import RecipeError
from experiments.spaces import default_settings, find_space, gene_text
from searchspaces import Architecture, get_space, list_spaces
from searchspaces.ofa_keys import ofa_keys
from tests.experiments.conftest import InProcess

GUIDE = Path(__file__).parents[2] / "docs" / "supernets.md"
OFA = "ofa-mobilenetv3-w1.0"


def test_the_list_has_every_space_with_its_exact_size(nas: InProcess) -> None:
    result = nas("spaces", "list", "--format", "json")
    assert result.code == 0
    sizes = {row["space"]: row["size"] for row in json.loads(result.out)}
    assert sizes[OFA] == 25 * 7371**5
    assert sizes["nasbench201"] == 15_625
    assert sizes["nas-bench-macro"] == 6_561
    assert "conv1d-sensor" in sizes


def test_a_space_is_shown_with_genes_costs_and_settings(nas: InProcess) -> None:
    shown = nas("spaces", "show", "mbconv-small", "--set", "width=0.5", "--format", "json")
    document = json.loads(shown.out)
    genes = {row["kind"]: (row["values"], row["count"]) for row in document["genes"]}
    assert genes["resolution"] == ([16, 20, 24], 1)
    assert genes["kernel"] == ([3, 5, 7], 9)
    assert document["largest"]["macs"] == 2_466_336
    assert document["largest"]["params"] == 70_082
    assert document["largest"]["provenance"] == "estimated"
    table = nas("spaces", "show", "mbconv-small").out
    assert "peak activation memory" in table
    assert "head_channels" in table


def test_defaults_that_follow_from_others_are_shown_as_they_come_out() -> None:
    stages = default_settings("mbconv-small")["stages"]
    assert get_space("mbconv-small", stages=stages).space_id == "mbconv-small"
    sensor = default_settings("conv1d-sensor")
    assert (sensor["strides"], sensor["kernels"]) == ([1, 1, 1], [3, 5, 7, 9])
    assert get_space("conv1d-sensor", **sensor).space_id == "conv1d-sensor"
    for name in list_spaces():
        assert None not in default_settings(name).values(), name


def test_samples_are_architectures_of_the_space_and_follow_from_the_seed(nas: InProcess) -> None:
    first = json.loads(nas("spaces", "sample", "mbconv-small", "-n", "4", "--seed", "3", "--format", "json").out)
    again = json.loads(nas("spaces", "sample", "mbconv-small", "-n", "4", "--seed", "3", "--format", "json").out)
    assert first == again
    space = get_space("mbconv-small")
    for row in first:
        arch = Architecture(space_id=row["space"], genes=tuple(row["genes"].items()))
        space.validate(arch)
        assert arch.arch_id == row["arch_id"]


def test_the_table_of_samples_shows_their_genes(nas: InProcess) -> None:
    table = nas("spaces", "sample", "mbconv-small", "-n", "2", "--set", "resolutions=[20]", "--set", "expands=[4]").out
    assert table.count("resolution 20; depth ") == 2


def test_genes_are_written_by_kind_with_stages_apart() -> None:
    stages = [{"channels": 16, "stride": 1, "depths": [1, 2]}, {"channels": 24, "stride": 2, "depths": [1, 11]}]
    space = get_space("mbconv-small", stages=stages, kernels=[3, 5], expands=[2])
    genes = {choice.name: choice.values[0] for choice in space.choices}
    changed = genes | {"stage2.depth": 11, "stage2.block2.kernel": 5, "stage1.block2.kernel": 5}
    assert gene_text(space, space.smallest) == "resolution 16; depth 1 1; kernel 3 3; expand 2 2"
    longer = f"3,5,{','.join('3' * 9)}"  # in the order of the network, block 10 after block 9
    expected = f"resolution 16; depth 1 11; kernel 3 {longer}; expand 2 {','.join('2' * 11)}"
    assert gene_text(space, space.architecture(changed)) == expected


def test_the_space_of_the_guide_can_be_built_and_trained(nas: InProcess, tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    (tmp_path / "mine.yaml").write_text(text.group(1))
    document = json.loads(nas("spaces", "show", tmp_path / "mine.yaml", "--format", "json").out)
    assert document["smallest"]["input_shape"] == [3, 32, 32]
    assert document["trainable"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: mbconv-smal", "did you mean 'mbconv-small'?"),
        ("name: mbconv-small\nsettings: {stages: [{channels: 16, stride: 3, depths: [1]}]}", "stage 1: stride is 3"),
        ("name: mbconv-small\nsettings: {stages: [{channels: 16, strid: 1, depths: [1]}]}", "strid"),
        ("name: mbconv-small\nsettings: {stages: []}", "stages"),
        ("name: mbconv-small\nsettings: {resolutions: [8], stem_stride: 2}", "pixels"),
        ("name: mbconv-small\nsetting: {}", "unknown key"),
        ("settings: {width: 1}", "name: missing"),
        ("just text", "expected a mapping"),
    ],
)
def test_a_space_file_that_does_not_fit_is_refused_with_its_place(
    nas: InProcess, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    result = nas("spaces", "show", tmp_path / "mine.yaml")
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("name: conv1d-sensor\nsettings: {length: 0}", "conv1d-sensor"),
        ("name: ofa-resnet50d\nsetting: {}", "ofa-resnet50d"),
        ("name: nonsense", "mbconv-small"),
        ("name: [1]", "mbconv-small"),
    ],
)
def test_the_hint_for_a_space_file_names_its_own_space(tmp_path: Path, content: str, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(RecipeError) as caught:
        find_space(str(tmp_path / "mine.yaml"))
    assert f"has `name: {name}`" in caught.value.hint
    assert f"`nas spaces show {name}`" in caught.value.hint


def test_a_missing_space_file_is_called_a_space_file(nas: InProcess, tmp_path: Path) -> None:
    result = nas("spaces", "show", tmp_path / "gone.yaml")
    assert result.code == 2
    assert "space file" in result.err
    assert "recipe" not in result.err


def test_a_published_supernet_is_imported_and_says_what_was_not_needed(nas: InProcess, tmp_path: Path) -> None:
    state = get_space(OFA).build_supernet(num_classes=7).state_dict()
    content = {theirs: state[ours] for ours, theirs in ofa_keys(state, space_id=OFA).items()}
    content["first_conv.bn.num_batches_tracked"] = torch.tensor(3)
    torch.save({"state_dict": content}, tmp_path / "net")
    result = nas("import-ofa", tmp_path / "net", "--space", OFA, "--out", tmp_path / "supernet")
    assert result.code == 0
    assert "7 classes" in result.out
    assert "1 not needed: first_conv.bn.num_batches_tracked" in result.out
    wrong = nas("import-ofa", tmp_path / "net", "--space", "ofa-mobilenetv3-w1.2", "--out", tmp_path / "other")
    assert wrong.code == 2
    assert "first_conv.conv.weight" in wrong.err
    assert not (tmp_path / "other").exists()
    again = nas("import-ofa", tmp_path / "net", "--space", OFA, "--out", tmp_path / "supernet")
    assert again.code == 2
    assert "not empty" in again.err
