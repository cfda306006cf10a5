"""Roofline time: an estimate of latency from two peaks of a device (Williams et al., Roofline, CACM 2009).

An operator takes as long as its arithmetic at the peak rate, or as the movement of its inputs, output and weights at
the peak bandwidth, whichever is longer; a network takes the sum. Caches, overheads and kernels that miss the peak are
not in it, so it is no measurement and its provenance is `estimated`, also where the peaks were measured.

Letters: N architectures.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hardware.cost import bytes_per_element, moved_elements
from hardware.errors import MeasurementError
from searchspaces import OpTable

if TYPE_CHECKING:
    import torch

_MATRIX = 1024  # 1.07 billion multiply-accumulates, some 12 MiB: long for a clock, short for a user
_COPIED_BYTES = 128 * 2**20  # beyond the caches of a core
_TURNS = 10
_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """The best that a device can do in one number format.

    Attributes:
        macs_per_s: multiply-accumulate operations a second.
        bytes_per_s: bytes read plus bytes written a second.
        precision: number format that the peaks belong to, "fp32" or "int8".
        source: "measured" by `measure_peaks`, or "given", for example from a data sheet.

    Raises:
        MeasurementError: a peak that is not a number above 0, or an unknown precision.
    """

    macs_per_s: float
    bytes_per_s: float
    precision: str = "fp32"
    source: Literal["measured", "given"] = "given"

    def __post_init__(self) -> None:
        bytes_per_element(self.precision)
        for name in ("macs_per_s", "bytes_per_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise MeasurementError(
                    f"{name} is {value!r}, a peak is a number above 0",
                    hint="take it from the data sheet, or from hardware.roofline.measure_peaks() on the device",
                )


def roofline_ms(table: OpTable, *, peaks: Peaks) -> npt.NDArray[np.float64]:
    """Estimated latency (N,) in milliseconds of one image, in the precision of the peaks.

    Args:
        table: operators of N architectures.
        peaks: of the device.
    """
    compute_s_NS = table.macs / peaks.macs_per_s
    memory_s_NS = moved_elements(table) * bytes_per_element(peaks.precision) / peaks.bytes_per_s
    total_s_N: npt.NDArray[np.float64] = np.maximum(compute_s_NS, memory_s_NS).sum(axis=1)
    return 1e3 * total_s_N


def measure_peaks(*, threads: int = 1, timer_ns: Callable[[], int] = time.perf_counter_ns) -> Peaks:
    """Find this machine's fp32 peaks in a second or two: a square matrix product and a copy, by torch, the best of ten.

    The best turn is the one that least else disturbed; still, whoever shares the machine should hold the lease of its
    host (`hardware.lease`). torch has no public int8 product for CPUs: give the peaks of int8.

    Args:
        threads: threads of torch while it measures; the former number is restored.
        timer_ns: what the turns are timed with.

    Raises:
        MeasurementError: fewer than one thread, or a timer that stood still.
    """
    import torch

    if threads < 1:
        raise MeasurementError(f"threads is {threads}, expected at least 1", hint="pass threads=1")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = torch.rand(_MATRIX, _MATRIX)
        product = torch.empty_like(a)
        # Written once, or the system would hand out its pages while the clock runs.
        source = torch.ones(_COPIED_BYTES, dtype=torch.uint8)
        target = torch.zeros_like(source)
        with torch.inference_mode():
            product_ns = _best_ns(lambda: torch.mm(a, a, out=product), timer_ns=timer_ns)
            copy_ns = _best_ns(lambda: target.copy_(source), timer_ns=timer_ns)
    finally:
        torch.set_num_threads(before)
    return Peaks(
        macs_per_s=_MATRIX**3 / product_ns * _NS_PER_S,
        bytes_per_s=2 * _COPIED_BYTES / copy_ns * _NS_PER_S,
        source="measured",
    )


def _best_ns(run: "Callable[[], torch.Tensor]", *, timer_ns: Callable[[], int]) -> int:
    run()
    times_ns = []
    for _ in range(_TURNS):
        started_ns = timer_ns()
        run()
        times_ns.append(timer_ns() - started_ns)
    if min(times_ns) <= 0:
        raise MeasurementError(
            f"the clock stood still or went backwards: a turn took {min(times_ns)} ns",
            hint="do not measure on this machine before its clock is repaired: nas devices check",
        )
    return min(times_ns)
