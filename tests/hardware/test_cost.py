"""Costs by analysis, counted by hand and compared over precisions and spaces; `test_liveness` has the peaks."""

import numpy as np
import pytest

from hardware.cost import BYTES_PER_ELEMENT, analytic_costs, bytes_per_element, peak_activation_bytes
from hardware.errors import MeasurementError
from hardware.liveness import alive_elements, peak_activation_elements
from searchspaces import get_space, list_spaces
from searchspaces.graph import OpTable, OpTableBuilder


def two_operators() -> OpTable:
    """A convolution (64 -> 32 elements, 18 weights) and a classifier (32 -> 5 elements, 165 weights)."""
    build = OpTableBuilder(1, network_input_elements=64)
    build.add("conv", kind="conv", stage=0, macs=288, params=18, input_elements=64, output_elements=32)
    build.add("classifier", kind="linear", stage=-1, macs=160, params=165, input_elements=32, output_elements=5)
    return build.build()


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("int8", 1)])
def test_the_costs_of_two_operators_are_those_counted_by_hand(precision: str, size: int) -> None:
    costs = analytic_costs(two_operators(), precision=precision)
    assert costs.macs_N.tolist() == [288 + 160]
    assert costs.params_N.tolist() == [18 + 165]
    assert costs.weight_bytes_N.tolist() == [size * (18 + 165)]
    assert costs.bytes_moved_N.tolist() == [size * (64 + 18 + 32 + 32 + 165 + 5)]
    assert costs.peak_activation_bytes_N.tolist() == [size * (64 + 32)]


@pytest.mark.parametrize("name", list_spaces())
def test_int8_takes_a_quarter_of_the_bytes_of_fp32_in_every_space(name: str) -> None:
    space = get_space(name)
    table = space.op_table(space.sample_many(40, np.random.default_rng(0)))
    fp32, int8 = (analytic_costs(table, precision=precision) for precision in ("fp32", "int8"))
    assert (fp32.macs_N == int8.macs_N).all()
    for name_of_bytes in ("weight_bytes_N", "bytes_moved_N", "peak_activation_bytes_N"):
        assert (getattr(fp32, name_of_bytes) == 4 * getattr(int8, name_of_bytes)).all()
        assert (getattr(int8, name_of_bytes) > 0).all()
    assert (int8.peak_activation_bytes_N == peak_activation_elements(table)).all()
    assert (peak_activation_bytes(table) == fp32.peak_activation_bytes_N).all()


@pytest.mark.parametrize("name", list_spaces())
def test_no_peak_is_less_than_the_largest_operator_needs(name: str) -> None:
    space = get_space(name)
    table = space.op_table(space.sample_many(200, np.random.default_rng(3)))
    # A sum of three terms may read one tensor three times.
    least_N = (table.input_elements / 3 + table.output_elements).max(axis=1)
    assert (peak_activation_elements(table) >= least_N).all()


def test_a_larger_image_costs_more_memory_in_the_same_network() -> None:
    space = get_space("ofa-mobilenetv3-w1.0")
    archs = [space.architecture({**dict(space.largest.genes), "resolution": size}) for size in (128, 176, 224)]
    costs = analytic_costs(space.op_table(space.genomes(archs)))
    assert (np.diff(costs.peak_activation_bytes_N) > 0).all()
    assert len(set(costs.weight_bytes_N.tolist())) == 1


def test_squeeze_excite_needs_its_gate_beside_input_and_output() -> None:
    stages = [{"channels": 8, "stride": 1, "depths": [1], "se": True}]
    space = get_space("mbconv-small", stages=stages, kernels=[3], expands=[6], resolutions=[16])
    table = space.op_table(space.genomes([space.largest]))
    alive = dict(zip(table.kinds, alive_elements(table)[0].tolist(), strict=True))
    # 8 channels times 6, of 8 x 8 pixels
    assert alive["depthwise"] == 2 * 48 * 8**2
    assert alive["se"] == 2 * 48 * 8**2 + 48


@pytest.mark.parametrize("precision", ["fp16", "", "FP32"])
def test_a_precision_without_costs_is_refused_with_those_that_have_some(precision: str) -> None:
    for ask in (analytic_costs, peak_activation_bytes):
        with pytest.raises(
            MeasurementError, match=f"precision {precision!r}, there are those of fp32, int8"
        ) as refusal:
            ask(two_operators(), precision=precision)
        assert "precision=" in refusal.value.hint


def test_every_precision_has_a_size() -> None:
    assert [bytes_per_element(precision) for precision in BYTES_PER_ELEMENT] == [4, 1]
