"""Costs by analysis: computed from the operators, for many architectures at once. Their provenance is `estimated`.

MACs, parameters and bytes are exact counts under the stated convention; as a stand-in for time they are an estimate
(`hardware.roofline` makes one). All counts are for one image or series.

Letters: N architectures, S operator slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardware.errors import MeasurementError
from hardware.liveness import peak_activation_elements
from searchspaces import OpTable
from searchspaces.graph import Counts

BYTES_PER_ELEMENT: Mapping[str, int] = {"fp32": 4, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticCosts:
    """Counts of N architectures for one image.

    Attributes:
        macs_N: multiply-accumulate operations of convolutions and linear layers.
        params_N: learnable parameters.
        bytes_moved_N: every operator's input and output activations and its weights, each once, without any cache.
        weight_bytes_N: memory of the learnable parameters. All have the given precision; files may hold more (scales,
            biases of 32 bits) or less (a normalisation folded into its convolution).
        peak_activation_bytes_N: the most activation memory that is alive at once, see `hardware.liveness`.
    """

    macs_N: npt.NDArray[np.int64]
    params_N: npt.NDArray[np.int64]
    bytes_moved_N: npt.NDArray[np.int64]
    weight_bytes_N: npt.NDArray[np.int64]
    peak_activation_bytes_N: npt.NDArray[np.int64]


def analytic_costs(table: OpTable, *, precision: str = "fp32") -> AnalyticCosts:
    """Costs of the architectures of a table.

    Args:
        table: operators of N architectures.
        precision: number format of weights and activations: "fp32" (4 bytes an element) or "int8" (1 byte).

    Raises:
        MeasurementError: another precision.
    """
    size = bytes_per_element(precision)
    params_N = table.params.sum(axis=1)
    return AnalyticCosts(
        macs_N=table.macs.sum(axis=1),
        params_N=params_N,
        bytes_moved_N=moved_elements(table).sum(axis=1) * size,
        weight_bytes_N=params_N * size,
        peak_activation_bytes_N=peak_activation_bytes(table, precision=precision),
    )


def peak_activation_bytes(table: OpTable, *, precision: str = "fp32") -> npt.NDArray[np.int64]:
    """The most activation memory (N,) that is alive at once; see `hardware.liveness` for schedule and convention.

    Args:
        table: operators of N architectures, for one image.
        precision: number format of the activations: "fp32" (4 bytes an element) or "int8" (1 byte).

    Raises:
        MeasurementError: another precision.
    """
    return peak_activation_elements(table) * bytes_per_element(precision)


def moved_elements(table: OpTable) -> Counts:
    """Elements (N, S) that each operator moves: its inputs, its output and its weights, each once."""
    return table.params + table.input_elements + table.output_elements


def bytes_per_element(precision: str) -> int:
    """Bytes of a weight or an activation.

    Raises:
        MeasurementError: a precision that has no analytic costs.
    """
    if precision not in BYTES_PER_ELEMENT:
        raise MeasurementError(
            f"no analytic costs in precision {precision!r}, there are those of {', '.join(BYTES_PER_ELEMENT)}",
            hint='pass precision="fp32" or precision="int8"',
        )
    return BYTES_PER_ELEMENT[precision]
