"""Early stopping with two objectives: a candidate ends when, with stated confidence, it cannot reach the front.

It cannot if an evaluated candidate that is no slower, its *rival*, stays more accurate. Optuna's pruners want one
objective. What is stopped costs less, counts as evaluated, and is on no front.

Two kinds of work are stopped: judging on a growing part of the search split, where both are compared image by image,
and fine-tuning, where the accuracy so far is compared with the gains that finished candidates still made.

Letters: N images of the search split, n of them judged.
"""

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]

LOOKS = (0.1, 0.2, 0.4)
"""Shares of the search split after which a candidate may be stopped; the allowed error is divided among them."""

# Of a look's error, what may go wrong in bounding how many images the two answer differently (Berger and Boos 1994).
_NUISANCE_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """The evaluated candidate that another one has to beat.

    Attributes:
        arch_id: its architecture.
        answers: which images of the search split it classifies correctly, see `pack_answers`.
    """

    arch_id: str
    answers: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """What travels with a task: the rival of each of its candidates (None: there is none) and the confidence."""

    confidence: float
    rivals: tuple[Rival | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Why a candidate was not judged to the end.

    Attributes:
        rival: architecture that is no slower and stays more accurate.
        accuracy: the candidate's on the whole search split as it is estimated: below the rival's. What the study is
            told, so that samplers learn from it and no sampler takes it for a point of the front.
        of_images: images that it would have been judged on.
        epoch, of_epochs: of a fine-tuning that was stopped: after which epoch of how many; 0 if it is none.
    """

    rival: str
    accuracy: float
    of_images: int
    epoch: int = 0
    of_epochs: int = 0


class Rivals:
    """Everybody's rival: of the evaluated candidates that are certainly no slower the most accurate one.

    Latencies are predicted, so the slow end of the rival's interval is compared with the fast end of the candidate's.
    """

    def __init__(self) -> None:
        # By latency, each more accurate than those before it: only they can be somebody's rival.
        self._latencies: list[float] = []
        self._rivals: list[tuple[float, Rival]] = []

    def add(self, rival: Rival, *, accuracy: float, slowest_ms: float) -> None:
        """Add an evaluated candidate that takes so long at most."""
        place = bisect.bisect_right(self._latencies, slowest_ms)
        if place and self._rivals[place - 1][0] >= accuracy:
            return
        while place and self._latencies[place - 1] == slowest_ms:
            place -= 1
        end = place
        while end < len(self._rivals) and self._rivals[end][0] <= accuracy:
            end += 1
        self._latencies[place:end] = [slowest_ms]
        self._rivals[place:end] = [(accuracy, rival)]

    def of(self, *, fastest_ms: float) -> Rival | None:
        """The rival of a candidate that takes so long at least; None if all evaluated ones may be slower."""
        place = bisect.bisect_right(self._latencies, fastest_ms)
        return self._rivals[place - 1][1] if place else None


def pack_answers(correct_N: Bools) -> bytes:
    """Which images are classified correctly, in an eighth of the bytes."""
    return np.packbits(correct_N).tobytes()


def unpack_answers(answers: bytes, *, num_images: int) -> Bools:
    """What `pack_answers` packed."""
    return np.unpackbits(np.frombuffer(answers, dtype=np.uint8), count=num_images).astype(np.bool_)


def judge_until_beaten(
    batches: Iterable[Bools], *, num_images: int, rival: Rival | None, confidence: float
) -> tuple[Bools, Stopped | None]:
    """Take a candidate's answers batch by batch until it is certain enough that it cannot beat its rival.

    The images must be in an order that is random and the same for both. The probability that a candidate is stopped
    which would have been more accurate than its rival on the whole split is at most 1 - confidence.

    Args:
        batches: which images of each batch are classified correctly, evaluated lazily.
        num_images: of the whole split.
        rival: with its answers on the whole split; None: all batches are taken.
        confidence: above 0, below 1.

    Returns:
        The answers that were taken, (n), and why no more were, or None: then n is `num_images`.
    """
    error = (1.0 - confidence) / len(LOOKS)
    looks = [math.ceil(share * num_images) for share in LOOKS] if rival is not None else []
    rival_N = None if rival is None else unpack_answers(rival.answers, num_images=num_images)
    parts: list[Bools] = []
    n = 0
    for part in batches:
        parts.append(part)
        n += len(part)
        if rival_N is None or not looks or n < looks[0] or n >= num_images:
            continue
        while looks and n >= looks[0]:
            looks.pop(0)
        own_n = np.concatenate(parts)
        lost, won = _differences(own_n, rival_N[:n])
        if chance_to_win(lost=lost, won=won, n=n, num_images=num_images, error=error) <= error:
            assert rival is not None
            estimated = float(rival_N.mean()) - (lost - won) / n
            return own_n, Stopped(rival=rival.arch_id, accuracy=max(0.0, estimated), of_images=num_images)
    return np.concatenate(parts), None


def _differences(own_n: Bools, rival_n: Bools) -> tuple[int, int]:
    """Images that only the rival answers correctly, and those that only the candidate does."""
    return int((rival_n & ~own_n).sum()), int((own_n & ~rival_n).sum())


def chance_to_win(*, lost: int, won: int, n: int, num_images: int, error: float) -> float:
    """Largest probability of such a bad start, given that the candidate beats its rival on the whole split.

    Only images count that exactly one of the two answers correctly (McNemar, Psychometrika 1947, doi
    10.1007/BF02295996). Of D such images a winner loses at most (D - 1) / 2, and those met so far are drawn from the D
    without replacement, so the number of lost ones is hypergeometric. D itself is bounded by the same kind of argument,
    and the bound's own error is added (Berger and Boos, JASA 1994, doi 10.1080/01621459.1994.10476836).

    Args:
        lost: images so far that only the rival answers correctly.
        won: images so far that only the candidate does.
        n: images so far.
        num_images: of the whole split.
        error: the probability that the result will be compared with; a share of it goes into the bound of D.
    """
    # Here, because it takes a second to import, in every worker, and few searches stop early.
    from scipy.stats import hypergeom

    met = lost + won
    if lost <= won:
        return 1.0
    # Odd: then the winner may have lost one image fewer than half of them, and not less.
    most = most_differences(met, n=n, num_images=num_images, error=_NUISANCE_SHARE * error) | 1
    return float(hypergeom.sf(lost - 1, most, (most - 1) // 2, met)) + _NUISANCE_SHARE * error


@lru_cache(maxsize=4096)
def most_differences(met: int, *, n: int, num_images: int, error: float) -> int:
    """The most images of all that two candidates can answer differently, wrong with a probability of `error`.

    Args:
        met: differences among the `n` images so far, drawn without replacement.
        n: images so far.
        num_images: of the whole split.
        error: allowed probability that there are more.
    """
    from scipy.stats import hypergeom

    low, high = met, num_images - n + met
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.cdf(met, num_images, middle, n) > error:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """The accuracy that a fine-tuning will end with: by the median gain, and at most, with the stated confidence."""

    expected: float
    most: float


class FineTuningGains:
    """What finished fine-tunings of a search still gained after each epoch: how far another one may yet come.

    If candidates come in no particular order, the next one gains at most the k-th smallest of m known gains with a
    probability of k / (m + 1) (a conformal bound; Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World,
    2005). So m must reach confidence / (1 - confidence) before anything is stopped: 19 for .95, 9 for .9. The statement
    holds for each epoch by itself; and candidates that were stopped have no gain, so it leans on those that finished.
    """

    def __init__(self, *, confidence: float) -> None:
        self._confidence = confidence
        self._curves: dict[str, tuple[float, ...]] = {}

    def add(self, arch_id: str, curve: Sequence[float]) -> None:
        """Add a finished candidate.

        Args:
            arch_id: of the candidate.
            curve: accuracy after each epoch, the last one included.
        """
        self._curves[arch_id] = tuple(curve)

    def outlook(self, epoch: int, *, accuracy: float) -> Outlook | None:
        """Where a candidate ends that has this accuracy after epoch `epoch` (from 1); None: too few have finished."""
        gains = sorted(curve[-1] - curve[epoch - 1] for curve in self._curves.values() if len(curve) > epoch)
        # A little less: .95 * 20 is not quite 19 in binary.
        k = math.ceil(self._confidence * (len(gains) + 1) - 1e-9)
        if not 1 <= k <= len(gains):
            return None
        return Outlook(expected=accuracy + gains[(len(gains) - 1) // 2], most=accuracy + gains[k - 1])


def beaten_by(front: Mapping[str, tuple[float, float]], *, accuracy: float, fastest_ms: float) -> str | None:
    """Who is no slower and at least as accurate; of several the most accurate, None if nobody is.

    Args:
        front: of evaluated candidates by architecture the accuracy, and the latency in ms that they have at most.
        accuracy: a bound.
        fastest_ms: latency that the candidate that is asked about has at least.
    """
    better = [(value, arch_id) for arch_id, (value, cost) in front.items() if cost <= fastest_ms and value >= accuracy]
    return max(better)[1] if better else None
