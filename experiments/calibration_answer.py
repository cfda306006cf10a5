"""What `nas devices calibrate` answers, as JSON or as text."""

from pathlib import Path
from typing import TYPE_CHECKING

from hardware.records import CalibrationSettings
from predictors.store import scores_to_card

if TYPE_CHECKING:
    from nas.calibrate import Calibration


def calibration_document(found: "Calibration", *, provenance: str) -> dict[str, object]:
    """Everything that is known of a calibration, as plain JSON values.

    Args:
        found: the calibration.
        provenance: of its measurements.
    """
    blend = found.predictor.model.blend
    document: dict[str, object] = {
        "device": found.predictor.device_id,
        "space": found.predictor.space_id,
        "quantity": found.predictor.quantity,
        "quantities": list(found.quantities),
        "unit": found.predictor.unit,
        "provenance": {"measurements": provenance, "predictions": "predicted"},
        "family": found.predictor.family,
        "weights": dict(blend.names),
        "loo_rms_percent": dict(blend.loo_rms_percent),
        "loo_mape_percent": found.predictor.loo_mape_percent,
        "settings": dict(found.predictor.context),
        "operators_of_no_use": found.ways.uncorrected,
        "sources": [source.device_id for source in found.ways.best.sources],
        "num_fit": found.num_fit,
        "num_held_out": found.num_held_out,
        "suspect": list(found.suspect),
        "uses_suspect": found.uses_suspect,
        "held_out": scores_to_card(found.scores),
        "predictor": str(found.directory),
    }
    lookup = found.ways.lookup
    if found.parts is not None and lookup is not None and lookup.correction is not None:
        document["operators"] = {
            "quantity": "latency",
            "num_parts": found.parts.num_parts,
            "num_suspect": found.parts.num_suspect,
            "correction": lookup.correction.numbers(),
            "loo_mape_percent": dict(found.ways.loo_mape_percent),
            "held_out": {way: scores_to_card(scores) for way, scores in found.ways.scores.items()},
            "chosen": found.ways.chosen,
        }
    return document


def calibration_text(found: "Calibration", *, provenance: str, table: Path | None) -> list[str]:
    """The same as lines to read.

    Args:
        found: the calibration.
        provenance: of its measurements.
        table: where the operator table was written besides, if it was.
    """
    scores, predictor = found.scores, found.predictor
    first = (
        f"{predictor.quantity} of {found.num_fit + found.num_held_out} subnets {provenance} in {predictor.unit}; "
        f"held-out error on {found.num_held_out} subnets {scores.mape_percent:.1f} % (mean), Spearman "
        f"{scores.spearman:.3f}, {scores.within_5_percent:.0%} within 5 %, {scores.within_10_percent:.0%} within 10 %, "
        f"{scores.coverage:.0%} inside their {100.0 * predictor.model.level:.0f} % intervals"
    )
    lines = [first]
    if found.suspect:
        what = "used nevertheless" if found.uses_suspect else "left out"
        lines.append(f"{what}    {len(found.suspect)} suspect measurements: {', '.join(found.suspect)}")
    if found.ways.uncorrected is not None:
        lines.append(f"operators   measured, but of no use: {found.ways.uncorrected}")
    lookup = found.ways.lookup
    if found.parts is not None and lookup is not None and lookup.correction is not None:
        own, unit = lookup.correction, lookup.unit
        lines.append(
            f"operators   {found.parts.num_parts} parts {provenance}, {found.parts.num_suspect} of them suspect; "
            f"a network takes {own.factor:.3g} x their sum {own.per_part:+.3g} {unit} a part {own.offset:+.3g} {unit}"
        )
        for way, one in found.ways.scores.items():
            left_out = found.ways.loo_mape_percent.get(way)
            lines.append(
                f"  {way:24} held-out error of latency {one.mape_percent:6.1f} %, Spearman {one.spearman:.3f}"
                + ("" if left_out is None else f", left-out error {left_out:.2f} %")
                + (": the smaller one, chosen" if way == found.ways.chosen else "")
            )
    settings = CalibrationSettings(**predictor.context)
    lines.append(f"predictor   {predictor.reasons}")
    lines.append(f"            fitted to {found.num_fit} subnets ({settings}), in {found.directory}")
    if table is not None:
        lines.append(f"table       {table}")
    return lines
