"""Costs by analysis: computed from the operators, for many architectures at once. Their provenance is `estimated`.

MACs, parameters and bytes are exact counts under the stated convention; as a stand-in for time they are an estimate.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from searchspaces import OpTable

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
