"""Peak activation memory: by hand, against a slow simulation of random tables, and against networks that ran."""

import numpy as np
import pytest
import torch

from experiments.benchmarks.observed_costs import observe
from hardware.cost import peak_activation_bytes
from hardware.liveness import alive_elements, peak_activation_elements
from searchspaces import get_space, list_spaces
from searchspaces.graph import NOTHING, Counts, OpTable, OpTableBuilder, Slots
from searchspaces.nasbench201 import nasbench201
from tests.searchspaces.hooks import Sum
from tests.searchspaces.nasbench201_network import Operator, Zeros, reference


def add(
    build: OpTableBuilder,
    size: int,
    *,
    reads: list[Slots] | None = None,
    present: list[bool] | None = None,
    inside: int = 0,
) -> Slots:
    """A slot that writes `size` elements; what it reads is not counted here."""
    return build.add(
        f"slot{build.latest}-{size}", kind="conv", stage=0, macs=1, params=0, input_elements=0, output_elements=size,
        workspace_elements=inside, reads=reads, present=None if present is None else np.array(present),
    )  # fmt: skip


def test_a_chain_holds_an_input_and_an_output_at_a_time() -> None:
    build = OpTableBuilder(1, network_input_elements=10)
    for size in (7, 5, 3):
        add(build, size)
    assert alive_elements(build.build()).tolist() == [[17, 12, 8]]


def test_a_shortcut_waits_until_the_sum() -> None:
    build = OpTableBuilder(1, network_input_elements=10)
    before = add(build, 4)
    add(build, 100)
    after = add(build, 4)
    add(build, 4, reads=[after, before])
    add(build, 1)
    assert alive_elements(build.build()).tolist() == [[14, 104, 108, 12, 5]]


def test_a_shortcut_around_missing_operators_is_the_tensor_itself() -> None:
    build = OpTableBuilder(2, network_input_elements=10)
    before = add(build, 4)
    add(build, 100, present=[True, False])
    after = add(build, 4, present=[True, False])
    add(build, 4, reads=[after, before], present=[True, False])
    add(build, 1)
    assert alive_elements(build.build()).tolist() == [[14, 104, 108, 12, 5], [14, 0, 0, 0, 5]]


def test_the_networks_input_stays_as_long_as_it_is_read() -> None:
    build = OpTableBuilder(1, network_input_elements=10)
    image = build.latest
    add(build, 1)
    late = add(build, 1)
    add(build, 1, reads=[late, image])
    add(build, 1)
    assert alive_elements(build.build()).tolist() == [[11, 12, 12, 2]]


def test_a_tensor_that_is_read_twice_by_one_operator_exists_once() -> None:
    build = OpTableBuilder(1, network_input_elements=10)
    x = add(build, 6)
    add(build, 6, reads=[x, x])
    assert alive_elements(build.build()).tolist() == [[16, 12]]


def test_what_nobody_reads_is_gone_after_it_is_written() -> None:
    build = OpTableBuilder(1, network_input_elements=10)
    x = add(build, 6)
    add(build, 50)
    add(build, 3, reads=[x])
    assert alive_elements(build.build()).tolist() == [[16, 56, 9]]


def test_what_lives_inside_an_operator_counts_only_there() -> None:
    build = OpTableBuilder(1, network_input_elements=10)
    add(build, 6)
    add(build, 6, inside=5)
    add(build, 6)
    assert alive_elements(build.build()).tolist() == [[16, 17, 12]]


def random_table(rng: np.random.Generator) -> OpTable:
    """Seven architectures, slots that read one to three earlier results and are there or not."""
    num = 7
    build = OpTableBuilder(num, network_input_elements=rng.integers(1, 100, num))
    results = [build.latest]
    for slot in range(12):
        reads = [results[k] for k in rng.integers(0, len(results), rng.integers(1, 4))]
        # Like an edge that carries no operator: nothing comes from there.
        reads += [np.where(rng.random(num) < 0.5, NOTHING, reads[0]).astype(np.int32)]
        sizes_N = rng.integers(1, 100, num)
        results.append(
            build.add(
                f"slot{slot}", kind="conv", stage=0, macs=0, params=0, input_elements=0, output_elements=sizes_N,
                workspace_elements=rng.integers(0, 9, num), present=rng.random(num) < 0.7, reads=reads,
            )
        )  # fmt: skip
    return build.build()


def simulated(table: OpTable, row: int) -> list[int]:
    """Alive elements at every slot, by running the operators with a set of tensors that are still to be read."""
    alive: list[int] = []
    present_S = table.present()[row]
    reads = [{source for source in sources if source != NOTHING} for sources in table.inputs[row].tolist()]
    sizes: dict[int, int] = {-1: int(table.network_input_elements[row])}
    for slot in range(len(table.names)):
        if not present_S[slot]:
            alive.append(0)
            continue
        sizes[slot] = int(table.output_elements[row, slot])
        needed = set().union(*reads[slot:]) | {slot}
        held = sum(size for tensor, size in sizes.items() if tensor in needed)
        alive.append(held + int(table.workspace_elements[row, slot]))
    return alive


@pytest.mark.parametrize("seed", range(20))
def test_random_tables_hold_what_a_slow_simulation_holds(seed: int) -> None:
    table = random_table(np.random.default_rng(seed))
    found_NS = alive_elements(table)
    assert found_NS.tolist() == [simulated(table, row) for row in range(len(found_NS))]
    assert peak_activation_elements(table).tolist() == found_NS.max(axis=1).tolist()


@pytest.mark.parametrize("name", list_spaces())
def test_architectures_in_bulk_cost_what_they_cost_alone(name: str) -> None:
    space = get_space(name)
    genomes_NG = space.sample_many(300, np.random.default_rng(1))
    peaks_N = peak_activation_elements(space.op_table(genomes_NG))
    alone = [int(peak_activation_elements(space.op_table(genomes_NG[n : n + 1]))[0]) for n in range(0, 300, 60)]
    assert peaks_N[::60].tolist() == alone
    assert len(set(peaks_N.tolist())) > 1


def test_no_architecture_has_no_peak() -> None:
    space = get_space("mbconv-small")
    table = space.op_table(np.empty((0, len(space.choices)), dtype=np.int8))
    assert peak_activation_elements(table).shape == (0,)


def told(table: OpTable, row: int) -> Counts:
    """Bytes at every operator of one architecture."""
    bytes_S: Counts = 4 * alive_elements(table)[row][table.present()[row]]
    return bytes_S


def test_cells_of_nasbench201_hold_what_a_reference_network_was_seen_to_hold() -> None:
    space = nasbench201()
    zeros = [["none"] * 6, ["none", "skip_connect", "nor_conv_1x1", "none", "avg_pool_3x3", "skip_connect"]]
    archs = [space.smallest, space.largest, *(space.from_ops(ops) for ops in zeros)]
    archs += space.architectures(space.sample_many(20, np.random.default_rng(2)))
    table = space.op_table(space.genomes(archs), num_classes=7)
    peaks_N = peak_activation_bytes(table)
    for row, arch in enumerate(archs):
        network = reference(space.to_ops(arch), num_classes=7)
        seen = observe(network, torch.rand(1, *space.input_shape(arch)), leaves=(Operator, Sum, Zeros))
        assert told(table, row).tolist() == seen.bytes_by_operator, space.to_string(arch)
        assert peaks_N[row] == seen.peak_bytes
        assert table.macs[row].sum() == seen.macs
