"""Costs by analysis: computed from the operators, for many architectures at once. Their provenance is `estimated`.

MACs, parameters and bytes are exact counts under the stated convention; as a stand-in for time they are an estimate.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from searchspaces import OpTable
from searchspaces.graph import Counts

_BYTES_PER_ELEMENT = {"fp32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticCosts:
    """Counts of N architectures for one image.

    Attributes:
        macs_N: multiply-accumulate operations of convolutions and linear layers.
        params_N: learnable parameters.
        bytes_moved_N: every operator's input and output activations and its weights, each once, without any cache.
    """

    macs_N: npt.NDArray[np.int64]
    params_N: npt.NDArray[np.int64]
    bytes_moved_N: npt.NDArray[np.int64]


def analytic_costs(table: OpTable, *, precision: str = "fp32") -> AnalyticCosts:
    """Sum the operators' counts.

    Args:
        table: operators of N architectures.
        precision: number format of weights and activations; "fp32" (4 bytes an element).
    """
    elements = table.params + table.input_elements + table.output_elements
    return AnalyticCosts(
        macs_N=table.macs.sum(axis=1),
        params_N=table.params.sum(axis=1),
        bytes_moved_N=elements.sum(axis=1) * _BYTES_PER_ELEMENT[precision],
    )


def peak_activation_bytes(table: OpTable, *, precision: str = "fp32") -> npt.NDArray[np.int64]:
    """The most activation memory (N,) that is alive at once when the operators run one after the other.

    Counted are an operator's input and output, and inside a residual block the block's input, which the sum needs
    later. Runtimes that fuse or reuse buffers in place need less.

    Args:
        table: operators of N architectures, for one image.
        precision: number format of the activations; "fp32" (4 bytes an element).
    """
    alive_NS = np.where(table.present(), table.input_elements + table.output_elements + _held_for_sums(table), 0)
    peaks_N: npt.NDArray[np.int64] = alive_NS.max(axis=1) * _BYTES_PER_ELEMENT[precision]
    return peaks_N


def _held_for_sums(table: OpTable) -> Counts:
    """Elements (N, S) that wait for the sum at the end of the operator's block while the operator runs.

    The operators of a residual block share the first part of their names ("stage1.block2.expand", "stage1.block2.add").
    The block's first operator reads the waiting elements itself, and so does the sum.
    """
    blocks = [name.rpartition(".")[0] for name in table.names]
    sums = {blocks[s]: s for s, kind in enumerate(table.kinds) if kind == "add"}
    held_NS = np.zeros_like(table.output_elements)
    for s, block in enumerate(blocks):
        first = blocks.index(block)
        if block in sums and s not in (first, sums[block]):
            held_NS[:, s] = table.output_elements[:, sums[block]]
    return held_NS
