"""The card of an exported model: what it is, what was promised, what was found, and how to check it."""

from collections.abc import Mapping
from typing import Any

from hardware.files import JSON
from hardware.measurement import CostMeasurement
from nas.accuracy import LEVEL, Accuracy, metric_label

CARD_SCHEMA = 1


def latency_entry(measured: CostMeasurement) -> dict[str, JSON]:
    """What the card says about the cost of the run's own file on the run's device."""
    return {
        "quantity": measured.quantity,
        "unit": measured.unit,
        "p50_ms": measured.p50,
        "p90_ms": measured.p90,
        "p99_ms": measured.p99,
        "interval_ms": [measured.low, measured.high],
        **_circumstances(measured),
        "runtime": dict(measured.versions),
    }


def cost_entry(measured: CostMeasurement) -> dict[str, JSON]:
    """What the card says about the cost of a further file: a latency, or the count of a simulator or a compiler."""
    return {
        "quantity": measured.quantity,
        "unit": measured.unit,
        "p50": measured.p50,
        "p90": measured.p90,
        "p99": measured.p99,
        "interval": [measured.low, measured.high],
        "also": dict(measured.also),
        **_circumstances(measured),
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


def card_text(card: Mapping[str, Any]) -> str:
    """The card for people, in Markdown: the winner's curse is the way from the first accuracy to the last.

    Args:
        card: content of card.json.
    """
    accuracy, comparison = card["accuracy"], card["comparison"]
    report, verify = accuracy["report"], accuracy["verify"]
    return f"""# {card["name"]}: {card["candidate"]}

Architecture `{card["arch_id"]}`, {card["weights_kind"]} weights, {card["precision"]}; {card["macs"]:,} MACs,
{card["params"]:,} parameters.

| {metric_label(report["metric"])} on | value | 95 % interval |
|---|---|---|
| search (what the search saw) | {_share(accuracy["search"])} | |
| verify (decided the front) | {_share(verify["value"])} | {_shares(verify["interval"])} |
| **report** (this card only) | **{_share(report["value"])}** | {_shares(report["interval"])} |

{_latency_text(card["device_id"], card["latency"])}

Outputs against PyTorch on {comparison["num_images"]} images: largest difference {comparison["max_difference"]:.2e}\
{_same_text(comparison)}.

Input `image`: raw values as the data set stores them (float32, shape in `card.json`); resizing and normalisation are
inside the file. Output: `logits`. `report_split.json` lists the examples of the report split.
{"".join(_format_text(key, entry) for key, entry in card.get("formats", {}).items())}"""


def _latency_text(device_id: str, latency: Mapping[str, Any]) -> str:
    verified, exported = latency["verified"], latency["exported"]
    quantity, unit = exported.get("quantity", "latency"), exported.get("unit", "ms")
    numbers, file = _numbers(exported["interval_ms"]), "this file, measured" + ("" if verified is None else " again")
    text = f"""| {quantity} on {device_id} | p50 {unit} | interval | provenance |
|---|---|---|---|
| promised by the predictor | {latency["predicted_ms"]:.4f} | | predicted |
{_verified_text(verified)}| **{file}** | **{exported["p50_ms"]:.4f}** | {numbers} | {exported["provenance"]} |"""
    for name, entry in (("verified", verified), ("this file", exported)):
        if entry is not None and entry.get("suspect"):
            text += f"\n\n**Suspect** ({name}): {entry.get('suspect_reason') or 'the measurement failed its checks'}."
    slowdown = latency["host_slowdown_since_verified"]
    if slowdown is None:
        return text
    return f"""{text}

The reference network ran {slowdown:.2f} times as long in the last session as in the one before: at the speed that the
host had then, this file takes {exported["p50_ms"] / slowdown:.4f} {unit}."""


def _verified_text(verified: Mapping[str, Any] | None) -> str:
    """The row of what was verified; none where only the accuracy was."""
    if verified is None:
        return ""
    interval, provenance = _numbers(verified["interval_ms"]), verified.get("provenance", "")
    return f"| verified | {verified['p50_ms']:.4f} | {interval} | {provenance} |\n"


def _format_text(key: str, entry: Mapping[str, Any]) -> str:
    """The section of a further file; `key` is its format and precision."""
    accuracy, comparison, cost = entry["accuracy"], entry["comparison"], entry["cost"]
    label, versions = metric_label(accuracy["metric"]), entry["versions"].items()
    num, unit = cost["p50"], "" if cost["unit"] == cost["quantity"] else f" {cost['unit']}"
    counted = [f"| {name} | {value:,.0f} |\n" for name, value in cost["also"].items()]
    suspect = f"; suspect: {cost['suspect_reason']}" if cost["suspect"] else ""
    return f"""
## {key}: `{entry["file"]}`

| in its own runtime | |
|---|---|
| **{label} on report** | **{_share(accuracy["value"])}** ({_shares(accuracy["interval"])}) |
| **{cost["quantity"]} on {entry["device"]}** | **{_number(num)}{unit}** ({_numbers(cost["interval"])}) |
| provenance | {cost["provenance"]}{suspect} |
{"".join(counted)}\
| outputs against PyTorch on {comparison["num_images"]} images | largest relative difference \
{comparison["max_relative_difference"]:.2e}{_same_text(comparison)} |
| size | {entry["size_bytes"]:,} bytes |
| runtime | {", ".join(f"{name} {version}" for name, version in versions)} |
"""


def _circumstances(measured: CostMeasurement) -> dict[str, JSON]:
    return {
        "level": measured.level,
        "provenance": measured.provenance,
        "protocol": measured.protocol,
        "rounds": measured.num_rounds,
        "suspect": measured.suspect,
        "suspect_reason": measured.suspect_reason,
        "threads": measured.threads,
        "batch": measured.batch,
        "processor": measured.cpu_model,
        "utc_time": measured.utc_time.isoformat(timespec="seconds"),
    }


def _same_text(comparison: Mapping[str, Any]) -> str:
    # Cards of earlier versions do not say it.
    return f", {comparison['same_answers']:.1%} equal answers" if "same_answers" in comparison else ""


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"


def _shares(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%} ... {interval[1]:.2%}"


def _number(value: float) -> str:
    return f"{value:.4f}" if value < 1000 else f"{value:,.0f}"


def _numbers(interval: tuple[float, float]) -> str:
    return f"{_number(interval[0])} ... {_number(interval[1])}"
