"""Fine-tunings that only write what real ones leave: results with curves, or nothing."""

from pathlib import Path

from hardware.files import write_json
from nas.accuracy import Accuracy, accuracy_row
from nas.candidate import Candidate
from searchspaces import Architecture

NUM_IMAGES = 1000


def accuracy_of(value: float) -> Accuracy:
    correct = round(value * NUM_IMAGES)
    exact = correct / NUM_IMAGES
    return Accuracy(metric="top1", value=exact, interval=(exact, exact), num_correct=correct, num_images=NUM_IMAGES)


def metrics_after(epoch: int, value: float) -> dict[str, float]:
    """What `nas.refine.FineTuning` reports."""
    numbers = {name: found for name, found in accuracy_row(accuracy_of(value)).items() if not isinstance(found, str)}
    return {"epoch": epoch, "loss": 1.0, "seconds": 2.0 * epoch, **numbers}


def write_result(directory: Path, arch: Architecture, *, curve: list[float]) -> None:
    candidate = Candidate(architecture=arch, weights="0123456789abcdef", weights_kind="fine-tuned")
    write_json(
        directory / "result.json",
        {
            "candidate": dict(candidate.row()),
            "accuracy": accuracy_row(accuracy_of(curve[-1])),
            "seconds": 8.0,
            "curve": [*curve],
        },
    )
