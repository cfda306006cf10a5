import numpy as np
import pytest
import torch

from hardware import get_device
from nas.errors import RunError
from nas.operators import cut_out, measure_parts
from predictors import from_operator_table
from predictors.parts import part_name, parts_of
from searchspaces import get_space
from searchspaces.space import SearchSpace

TINY = {
    "resolutions": (16,),
    "stages": [{"channels": 8, "stride": 2, "depths": [1, 2]}],
    "kernels": (3, 5),
    "expands": (2,),
    "head_channels": 16,
}


@pytest.mark.parametrize("name", ["mbconv-small", "conv1d-sensor", "nas-bench-macro", "ofa-resnet50d"])
def test_the_parts_one_after_the_other_are_the_network(name: str) -> None:
    space = get_space(name)
    torch.manual_seed(0)
    supernet = space.build_supernet(num_classes=10).eval()
    arch = space.sample(np.random.default_rng(3))
    operators = space.graph(arch).operators
    x = images = torch.randn(1, *space.input_shape(arch))
    with torch.no_grad():
        for part in dict.fromkeys(part_name(operator.name) for operator in operators):
            network, shape = cut_out(supernet, arch, part)
            assert tuple(x.shape[1:]) == shape
            params = sum(operator.params for operator in operators if part_name(operator.name) == part)
            assert sum(weight.numel() for weight in network.parameters()) == params
            x = network(x)
        expected = supernet(images, arch)
    torch.testing.assert_close(x, expected)


def test_measuring_gives_an_entry_for_every_part() -> None:
    space: SearchSpace = get_space("mbconv-small", **TINY)
    told: list[tuple[int, int]] = []
    found = measure_parts(
        get_device("onnxruntime-cpu"),
        space,
        num_classes=3,
        protocol="quick",
        seed=0,
        on_progress=lambda done, total: told.append((done, total)),
    )
    keys = {key for part in parts_of(space, num_classes=3) for key in part.keys if key is not None}
    # Stem, head, pool, classifier, and two kernels of the first block and of the second.
    assert found.num_parts == len(keys) == 8
    assert set(found.table.entries[16]) == keys
    assert (found.table.device_id, found.table.unit) == ("onnxruntime-cpu", "ms")
    assert all(entry.count >= 200 for entry in found.table.entries[16].values())
    assert told == [(8, 8)]
    prediction = from_operator_table(found.table, space=space, num_classes=3).predict([space.largest])
    assert prediction.mean[0] > max(entry.mean for entry in found.table.entries[16].values())


def test_parts_are_not_measured_in_int8() -> None:
    with pytest.raises(RunError, match="quantised otherwise") as refusal:
        measure_parts(
            get_device("onnxruntime-cpu-int8"),
            get_space("mbconv-small", **TINY),
            num_classes=3,
            protocol="quick",
            seed=0,
            on_progress=lambda _, __: None,
        )
    assert "--operators" in refusal.value.hint
