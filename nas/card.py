"""The card of an exported model: what it is, what was promised, what was found, and how to check it."""

from dataclasses import dataclass

from hardware.files import JSON
from hardware.measurement import CostMeasurement
from nas.accuracy import LEVEL, Accuracy, metric_label
from nas.pareto import FrontPoint

CARD_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far the exported file's outputs are from the PyTorch network's, on real images.

    Attributes:
        num_images: compared images.
        max_difference: largest absolute difference of a logit.
        max_relative_difference: that, divided by the largest absolute logit.
    """

    num_images: int
    max_difference: float
    max_relative_difference: float


def latency_entry(measured: CostMeasurement) -> dict[str, JSON]:
    """What the card says about a measured latency."""
    return {
        "p50_ms": measured.p50,
        "p90_ms": measured.p90,
        "p99_ms": measured.p99,
        "interval_ms": [measured.low, measured.high],
        "level": measured.level,
        "provenance": measured.provenance,
        "protocol": measured.protocol,
        "rounds": measured.num_rounds,
        "suspect": measured.suspect,
        "suspect_reason": measured.suspect_reason,
        "threads": measured.threads,
        "batch": measured.batch,
        "runtime": dict(measured.versions),
        "processor": measured.cpu_model,
        "utc_time": measured.utc_time.isoformat(timespec="seconds"),
    }


def accuracy_entry(accuracy: Accuracy) -> dict[str, JSON]:
    """What the card says about an accuracy."""
    return {
        "metric": accuracy.metric,
        "value": accuracy.value,
        "interval": list(accuracy.interval),
        "level": LEVEL,
        "num_correct": accuracy.num_correct,
        "num_images": accuracy.num_images,
    }


def card_text(
    name: str,
    *,
    point: FrontPoint,
    report: Accuracy,
    exported: CostMeasurement,
    comparison: Comparison,
    slowdown: float,
) -> str:
    """The card for people, in Markdown: the winner's curse is the way from the first accuracy to the last."""
    low, high = point.latency_interval_ms
    verified = f"{low:.4f} ... {high:.4f} | {point.provenance}"
    again = f"{exported.low:.4f} ... {exported.high:.4f} | {exported.provenance}"
    return f"""# {name}: {point.candidate}

Architecture `{point.arch_id}`, {point.weights_kind} weights, {exported.precision}; {point.macs:,} MACs,
{point.params:,} parameters.

| {metric_label(report.metric)} on | value | 95 % interval |
|---|---|---|
| search (what the search saw) | {point.accuracy_search:.2%} | |
| verify (decided the front) | {point.accuracy:.2%} | {_percent(point.accuracy_interval)} |
| **report** (this card only) | **{report.value:.2%}** | {_percent(report.interval)} |

| latency on {exported.device_id} | p50 ms | interval | provenance |
|---|---|---|---|
| promised by the predictor | {point.latency_predicted_ms:.4f} | | predicted |
| verified | {point.latency_ms:.4f} | {verified} |
| **this file, measured again** | **{exported.p50:.4f}** | {again} |

The reference network ran {slowdown:.2f} times as long in the last session as in the one before: at the speed that the
host had then, this file takes {exported.p50 / slowdown:.4f} ms.

Outputs against PyTorch on {comparison.num_images} images: largest difference {comparison.max_difference:.2e}.

Input `image`: raw values as the data set stores them (float32, shape in `card.json`); resizing and normalisation are
inside the file. Output: `logits`. `report_split.json` lists the examples of the report split.
"""


def _percent(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%} ... {interval[1]:.2%}"
