"""How many networks are fitted: as many as a table has enough others for."""

from collections.abc import Sequence

from experiments.benchmarks.harness import BenchmarkReport

_ENOUGH = 400


def fitting_sizes(report: BenchmarkReport, case: str, sizes: Sequence[int], *, num: int) -> Sequence[int]:
    """Those of `sizes` that leave as many of `num` networks to judge by as are fitted, or 400; the others are skipped.

    Args:
        report: says what is skipped.
        case: the data.
        sizes: numbers of networks to fit.
        num: how many there are.
    """
    fitting = [n for n in sizes if num - n >= min(n, _ENOUGH)]
    if skipped := [n for n in sizes if n not in fitting]:
        needed = min(n + min(n, _ENOUGH) for n in skipped)
        report.skip(
            f"{case}/{','.join(f'n{n}' for n in skipped)}",
            f"{num} networks are too few: {needed} or more are needed, to fit some and judge by the others",
        )
    return fitting
