import itertools

import numpy as np
import pytest

from predictors import PredictorError
from predictors.operator_sums import row_numbers
from predictors.parts import NO_RESOLUTION, parts_of
from searchspaces import SearchSpace, get_space


def keys_of(space: SearchSpace, genomes_NG: np.ndarray, *, num_classes: int = 10) -> list[list[str]]:
    parts = parts_of(space, num_classes=num_classes)
    rows_PN = row_numbers(np.stack([part.strides_G for part in parts]), genomes_NG)
    return [
        [key for part, row in zip(parts, rows, strict=True) if (key := part.keys[row]) is not None]
        for rows in rows_PN.T
    ]


def test_keys_of_once_for_all_say_what_the_parts_are() -> None:
    space = get_space("ofa-mobilenetv3-w1.2")
    (keys,) = keys_of(space, space.genomes([space.largest]), num_classes=1000)
    assert keys[:3] == [
        "Conv-input:224x224x3-output:112x112x24",
        "expanded_conv-input:112x112x24-output:112x112x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0",
        "expanded_conv-input:112x112x24-output:56x56x32-expand:144-kernel:7-stride:2-idskip:0-se:0-hs:0",
    ]
    assert keys[-5:] == [
        "expanded_conv-input:7x7x192-output:7x7x192-expand:1152-kernel:7-stride:1-idskip:1-se:1-hs:1",
        "Conv_1-input:7x7x192-output:7x7x1152",
        "AvgPool2D-input:7x7x1152-output:1x1x1152",
        "Conv_2-input:1x1x1152-output:1x1x1536",
        "Logits-input:1x1x1536-output:1000",
    ]
    assert len(keys) == 26


@pytest.mark.parametrize("name", ["mbconv-small", "conv1d-sensor", "nas-bench-macro", "ofa-resnet50d"])
def test_equal_keys_at_a_resolution_are_equal_parts(name: str) -> None:
    space = get_space(name)
    for part in parts_of(space, num_classes=10):
        table = space.op_table(part.genomes_RG)
        slots = [s for s, slot in enumerate(table.names) if slot == part.name or slot.startswith(f"{part.name}.")]
        present_R = np.asarray(table.present()[:, slots].any(axis=1))
        assert [key is not None for key in part.keys] == present_R.tolist()
        counts_R = [
            tuple(row) for row in np.stack([table.macs, table.params], axis=2)[:, slots].reshape(len(part.keys), -1)
        ]
        by_key: dict[tuple[int, str], tuple[int, ...]] = {}
        for size, key, counts in zip(part.resolutions_R.tolist(), part.keys, counts_R, strict=True):
            if key is not None:
                assert by_key.setdefault((size, key), counts) == counts


def test_equal_blocks_of_a_stage_share_their_key_and_dilations_do_not() -> None:
    space = get_space("conv1d-sensor")
    parts = {part.name: part for part in parts_of(space, num_classes=10)}
    second, third = (set(parts[f"stage1.block{n}"].keys) for n in (2, 3))
    assert second == third
    assert {key.rpartition("-")[2] for key in second if key is not None} == {"dilation:1", "dilation:2", "dilation:4"}
    assert set(parts["stem"].resolutions_R.tolist()) == {NO_RESOLUTION}


def test_a_deeper_network_has_the_parts_of_the_shallower_one_and_more() -> None:
    space = get_space("mbconv-small")
    genes = dict(space.smallest.genes)
    deeper = space.architecture({**space.complete_genes(space.smallest), **genes, "stage2.depth": 2})
    shallow, deep = keys_of(space, space.genomes([space.smallest, deeper]))
    assert len(deep) == len(shallow) + 1
    assert set(shallow) <= set(deep)
    assert len(list(itertools.chain(shallow, deep))) == 2 * len(shallow) + 1


def test_parts_that_depend_on_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictors.parts.MOST_ROWS", 10)
    with pytest.raises(PredictorError, match=r"part stage1\.block1 of space mbconv-small-.* has 27 forms, at most 10"):
        parts_of(get_space("mbconv-small", in_channels=2), num_classes=10)
