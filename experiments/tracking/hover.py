"""What a point of a figure says when somebody points at it: small HTML, everything from outside escaped."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from nas.accuracy import metric_label

Point = Mapping[str, object]


def front_hover(point: Point, *, details: Mapping[object, object]) -> str:
    """A point of the front; `details` is its row of the verifications table, if there is one."""
    low, high = pair(point.get("latency_interval_ms"))
    accuracy = "[{}, {}]".format(*(_percent(bound) for bound in pair(point.get("accuracy_interval"))))
    searched = details.get("accuracy_search", point.get("accuracy_search"))
    kind = details.get("weights_kind", point.get("weights_kind"))
    return _hover(
        arch_id=point.get("arch_id"),
        candidate=point.get("candidate"),
        kind=kind,
        lines=[
            f"{metric_label(point.get('metric'))} {_percent(point.get('accuracy'))}  {accuracy}",
            _searched(searched, inherited=point.get("accuracy_inherited")),
            f"latency {_ms(point.get('latency_ms'))}  [{_ms(low)}, {_ms(high)}]",
            _promise(point.get("latency_ms"), predicted=point.get("latency_predicted_ms")),
            f"on the front with a probability of {_percent(point.get('membership'))}",
            _counts(point.get("macs"), params=point.get("params")),
            f"provenance: {html.escape(str(point.get('provenance')))}" + _warning(details.get("suspect")),
        ],
    )


def baseline_hover(point: Point) -> str:
    """A baseline beside the front."""
    low, high = pair(point.get("latency_interval_ms"))
    accuracy = "[{}, {}]".format(*(_percent(bound) for bound in pair(point.get("accuracy_interval"))))
    return _hover(
        arch_id=point.get("name"),
        candidate=point.get("candidate"),
        kind=point.get("weights_kind"),
        lines=[
            f"{metric_label(point.get('metric'))} {_percent(point.get('accuracy'))}  {accuracy}",
            f"latency {_ms(point.get('latency_ms'))}  [{_ms(low)}, {_ms(high)}]",
            _counts(point.get("macs"), params=point.get("params")),
            f"provenance: {html.escape(str(point.get('provenance')))}" + _warning(point.get("suspect")),
        ],
    )


def joint_hover(point: Point) -> str:
    """A point of the joint front, with its latency on every device."""
    accuracy = "[{}, {}]".format(*(_percent(bound) for bound in pair(point.get("accuracy_interval"))))
    latencies, intervals = by_device(point.get("latency_ms")), by_device(point.get("latency_interval_ms"))
    provenance, suspect = by_device(point.get("provenance")), by_device(point.get("suspect"))
    lines = [
        f"{html.escape(device)} {_ms(latency)}  [{', '.join(_ms(bound) for bound in pair(intervals.get(device)))}] "
        f"{html.escape(str(provenance.get(device)))}{_warning(suspect.get(device))}"
        for device, latency in latencies.items()
    ]
    return _hover(
        arch_id=point.get("arch_id"),
        candidate=None,
        kind=point.get("weights_kind"),
        lines=[
            f"{metric_label(point.get('metric'))} {_percent(point.get('accuracy'))}  {accuracy}",
            *lines,
            _counts(point.get("macs"), params=point.get("params")),
        ],
    )


def verified_hover(row: Mapping[object, object]) -> str:
    """A row of the verifications table."""
    accuracy = f"[{_percent(row.get('accuracy_low'))}, {_percent(row.get('accuracy_high'))}]"
    return _hover(
        arch_id=row.get("arch_id"),
        candidate=row.get("candidate_id"),
        kind=row.get("weights_kind"),
        lines=[
            f"{metric_label(row.get('metric'))} {_percent(row.get('accuracy'))}  {accuracy}",
            _searched(row.get("accuracy_search"), inherited=row.get("accuracy_inherited")),
            f"latency {_ms(row.get('latency_ms'))}  {_measured_interval(row)}",
            _promise(row.get("latency_ms"), predicted=row.get("latency_predicted_ms")),
            f"on the front with a probability of {_percent(row.get('membership'))}",
            _counts(row.get("macs"), params=row.get("params")),
            f"provenance: {html.escape(str(row.get('provenance')))}" + _warning(row.get("suspect")),
        ],
    )


def evaluated_hover(row: Mapping[object, object]) -> str:
    """A row of the evaluations table."""
    accuracy = f"[{_percent(row.get('accuracy_low'))}, {_percent(row.get('accuracy_high'))}]"
    interval = f"[{_ms(row.get('latency_predicted_low_ms'))}, {_ms(row.get('latency_predicted_high_ms'))}]"
    outside = "" if row.get("in_range", True) else " (outside the range of the fit)"
    return _hover(
        arch_id=row.get("arch_id"),
        candidate=row.get("candidate_id"),
        kind=row.get("weights_kind"),
        lines=[
            f"{metric_label(row.get('metric'))} on the search split {_percent(row.get('accuracy'))}  {accuracy}",
            f"predicted latency {_ms(row.get('latency_predicted_ms'))}  {interval}{outside}",
            _counts(row.get("macs"), params=row.get("params")),
            "provenance: predicted",
        ],
    )


def predictor_hover(row: Mapping[object, object], *, label: str) -> str:
    """A measured subnet with its prediction; `label` says whether it was fitted on."""
    predicted = f"[{_ms(row.get('latency_predicted_low_ms'))}, {_ms(row.get('latency_predicted_high_ms'))}]"
    return _hover(
        arch_id=row.get("arch_id"),
        candidate=None,
        kind=label,
        lines=[
            f"measured {_ms(row.get('latency_ms'))}  {_measured_interval(row)}",
            f"predicted {_ms(row.get('latency_predicted_ms'))}  {predicted}",
            _promise(row.get("latency_ms"), predicted=row.get("latency_predicted_ms")),
        ],
    )


def _hover(*, arch_id: object, candidate: object, kind: object, lines: Sequence[str]) -> str:
    head = f"<b>{html.escape(str(arch_id))}</b>"
    head += f"  {html.escape(str(kind))}" if kind else ""
    tail = [f"candidate {html.escape(str(candidate))}"] if candidate else []
    return "<br>".join([head, *tail, *lines])


def _searched(accuracy: object, *, inherited: object) -> str:
    return f"on the search split {_percent(accuracy)}, inherited {_percent(inherited)}"


def _measured_interval(row: Mapping[object, object]) -> str:
    return f"[{_ms(row.get('latency_low_ms'))}, {_ms(row.get('latency_high_ms'))}]"


def _promise(measured: object, *, predicted: object) -> str:
    off = number(predicted) / number(measured) - 1 if number(measured) else float("nan")
    return f"predicted {_ms(predicted)}" + (f" ({off:+.1%} of measured)" if math.isfinite(off) else "")


def _counts(macs: object, *, params: object) -> str:
    return f"{number(macs) / 1e6:.2f} M MACs, {number(params) / 1e3:.1f} k params"


def _warning(suspect: object) -> str:
    return ", <b>suspect: the machine was disturbed</b>" if suspect is True or suspect is np.True_ else ""


def _percent(value: object) -> str:
    found = number(value)
    return f"{100 * found:.1f} %" if math.isfinite(found) else "-"


def _ms(value: object) -> str:
    found = number(value)
    return f"{found:.4g} ms" if math.isfinite(found) else "-"


def number(value: object) -> float:
    """`value` if it is a number, else NaN."""
    return float(value) if isinstance(value, int | float | np.number) else float("nan")


def by_device(value: object) -> Mapping[str, object]:
    """Values by device; empty if `value` is none."""
    return value if isinstance(value, Mapping) else {}


def pair(value: object) -> tuple[float, float]:
    """The bounds of an interval; NaN where there is none."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return number(value[0]), number(value[1])
    return float("nan"), float("nan")
