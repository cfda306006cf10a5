"""Stand-ins for a measured cost, and what is lost by trusting them: rank correlations and front regret.

Letters: N subnets, D bootstrap draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from hardware.cost import analytic_costs
from hardware.device import Device
from hardware.roofline import Peaks, roofline_ms
from nas.pareto import hypervolume, pareto_mask
from searchspaces import OpTable

Floats = npt.NDArray[np.float64]

PROXIES = ("macs", "params", "bytes_moved", "roofline", "operators")
LEVEL = 0.95
_DRAWS = 1000

# Int8 kernels of CPUs handle four times the numbers of fp32 ones in a register, and a number has a quarter of the
# bytes: ranks of the roofline time are those of fp32.
_INT8_SPEEDUP = 4
# (multiply-accumulates, bytes) in what the device counts. Ethos-U, a cycle: the MACs in its name, and the width of its
# SRAM ports in the systems that the backend takes (Vela's vela.ini: 4 GB/s at .5 GHz, 16 and 32 GB/s at 1 GHz).
# Cortex-M, an instruction: two MACs of 16 bits (SMLAD) and a load of 4 bytes; with MVE a vector of 16.
_ETHOS_BYTES = {"u55": 8, "u65": 16, "u85": 32}
_CORTEX = {"cortex-m4": (2, 4), "cortex-m7": (2, 4), "cortex-m55": (16, 16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """A rank correlation, -1 ... 1.

    Attributes:
        value: of all subnets; NaN where one side is constant.
        low, high: percentile-bootstrap interval over the choice of subnets, see `LEVEL`.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """What a search with a proxy loses.

    Attributes:
        value: 1 - hypervolume of the subnets on the proxy's front / hypervolume of the true front, both by accuracy
            and measured cost; NaN where the true front dominates nothing.
        num_chosen: subnets on the proxy's front.
        num_true: subnets on the true front.
        reference: (accuracy, cost) up to which hypervolume is counted: the lowest and the highest of all subnets.
    """

    value: float
    num_chosen: int
    num_true: int
    reference: tuple[float, float]


def peaks_of(device: Device, *, host_peaks: Peaks | None) -> Peaks | None:
    """The peaks that a device's roofline is made of; None where they are not known.

    Counts have no time: their peaks are those of an imaginary clock of 1 GHz, a step of what is counted a tick.

    Args:
        device: any.
        host_peaks: this machine's, measured in fp32.
    """
    name, precision = device.backend.name, device.spec.precision
    step: tuple[int, int] | None = _CORTEX.get(name)
    if name.startswith("ethos-"):
        _, family, macs = name.split("-")
        step = (int(macs), _ETHOS_BYTES[family])
    if step is not None:
        return Peaks(macs_per_s=1e9 * step[0], bytes_per_s=1e9 * step[1], precision="int8")
    if host_peaks is None or device.host is not None or not name.endswith("-cpu"):
        return None
    if precision == "int8":
        macs_per_s = _INT8_SPEEDUP * host_peaks.macs_per_s
        return Peaks(macs_per_s=macs_per_s, bytes_per_s=host_peaks.bytes_per_s, precision="int8")
    return host_peaks


def proxy_costs(table: OpTable, *, peaks: Peaks | None) -> dict[str, Floats]:
    """Every proxy's costs (N,), by its name in `PROXIES`; without the roofline time where the peaks are not known.

    `operators` is the number of operators that run, a network's depth: the least that a proxy has to beat.

    Args:
        table: operators of N architectures.
        peaks: of the device.
    """
    costs = analytic_costs(table)
    counts = {
        "macs": costs.macs_N,
        "params": costs.params_N,
        "bytes_moved": costs.bytes_moved_N,
        "operators": table.present().sum(axis=1),
    }
    found = {name: values_N.astype(np.float64) for name, values_N in counts.items()}
    if peaks is not None:
        found["roofline"] = roofline_ms(table, peaks=peaks)
    return {name: found[name] for name in PROXIES if name in found}


def rank_correlations(proxy_N: Floats, cost_N: Floats) -> Mapping[str, Correlation]:
    """Spearman's rho and Kendall's tau-b between a proxy and what was measured, with their intervals.

    The interval is the percentile bootstrap over subnets (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 13), its draws the same in every call with as many subnets.

    Args:
        proxy_N: finite.
        cost_N: finite, of the same subnets; at least three.
    """
    draws_DN = np.random.default_rng(0).integers(len(cost_N), size=(_DRAWS, len(cost_N)))
    everything_1N = np.arange(len(cost_N))[None]
    found = {}
    for name, compute in (("spearman", _spearmans), ("kendall", _kendalls)):
        samples_D = compute(proxy_N, cost_N, draws_DN)
        samples_D = samples_D[np.isfinite(samples_D)]
        ends = np.quantile(samples_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(samples_D) else (np.nan, np.nan)
        value = float(compute(proxy_N, cost_N, everything_1N)[0])
        found[name] = Correlation(value=value, low=float(ends[0]), high=float(ends[1]))
    return found


def front_regret(accuracy_N: Floats, proxy_N: Floats, cost_N: Floats) -> Regret:
    """What is lost if the front is looked for by accuracy and a proxy, and its subnets then cost what they cost.

    Args:
        accuracy_N: fractions, finite.
        proxy_N: finite.
        cost_N: measured, finite; at least one.
    """
    reference = (float(accuracy_N.min()), float(cost_N.max()))
    chosen_N, true_N = pareto_mask(accuracy_N, proxy_N), pareto_mask(accuracy_N, cost_N)
    kept, best = (hypervolume(accuracy_N[mask_N], cost_N[mask_N], reference=reference) for mask_N in (chosen_N, true_N))
    return Regret(
        value=1.0 - kept / best if best > 0 else float("nan"),
        num_chosen=int(chosen_N.sum()),
        num_true=int(true_N.sum()),
        reference=reference,
    )


def _spearmans(a_N: Floats, b_N: Floats, draws_DN: npt.NDArray[np.int64]) -> Floats:
    """Spearman's rho of every draw: Pearson's correlation of the mean ranks."""
    ranks_DN = [stats.rankdata(values_N[draws_DN], axis=1) - (draws_DN.shape[1] + 1) / 2 for values_N in (a_N, b_N)]
    products_DN, squares_DN = ranks_DN[0] * ranks_DN[1], [rank_DN**2 for rank_DN in ranks_DN]
    return _ratio(products_DN.sum(axis=1), squares_DN[0].sum(axis=1), squares_DN[1].sum(axis=1))


def _kendalls(a_N: Floats, b_N: Floats, draws_DN: npt.NDArray[np.int64]) -> Floats:
    """Kendall's tau-b of every draw: pairs of subnets counted as often as they were drawn together."""
    num = len(a_N)
    counts_DN = np.stack([np.bincount(draw_N, minlength=num) for draw_N in draws_DN]).astype(np.float64)
    signs_NN = [np.sign(values_N[:, None] - values_N[None, :]) for values_N in (a_N, b_N)]
    # A subnet drawn twice is tied with itself: its sign is zero.
    sums_D = [
        ((counts_DN @ pairs_NN) * counts_DN).sum(axis=1)
        for pairs_NN in (signs_NN[0] * signs_NN[1], signs_NN[0] ** 2, signs_NN[1] ** 2)
    ]
    return _ratio(*sums_D)


def _ratio(product_D: Floats, square_D: Floats, other_D: Floats) -> Floats:
    scale_D = np.sqrt(square_D * other_D)
    ratios_D = np.full_like(product_D, np.nan)
    np.divide(product_D, scale_D, out=ratios_D, where=scale_D > 0)
    return ratios_D
