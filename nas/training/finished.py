"""Which checkpoints a training has finished, told from their manifests: nothing here reads weights or needs torch."""

from pathlib import Path

from hardware.files import has_manifest, read_manifest

CHECKPOINTS = "checkpoints"
WEIGHTS_FILE = "weights.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RAW_FILE = "raw.safetensors"


def best_checkpoint(directory: Path) -> Path | None:
    """The checkpoint with the highest `score` of the final phase, the later one of equals; None without scores.

    It is kept for the user, to compare or to go back to; the stages after training use the newest one.
    """
    best: tuple[float, Path] | None = None
    for path in finished_checkpoints(directory):
        details = read_manifest(path, verify=False).details
        score = details.get("score")
        if details.get("final_phase") and isinstance(score, int | float) and (best is None or score >= best[0]):
            best = score, path
    return None if best is None else best[1]


def finished_checkpoints(directory: Path) -> list[Path]:
    """Directories of the checkpoints that have a manifest, oldest first; half-written ones are ignored."""
    # Longer names are later: epoch-10000 comes after epoch-9999.
    ordered = sorted(directory.glob("epoch-*"), key=lambda path: (len(path.name), path.name))
    return [path for path in ordered if has_manifest(path)]


def start_of(checkpoint: Path) -> str | None:
    """Checksum of the weights that a checkpoint's training started from, or that were taken over; None: fresh ones."""
    settings = read_manifest(checkpoint, verify=False).details.get("settings")
    found = settings.get("start_sha256") if isinstance(settings, dict) else None
    return found if isinstance(found, str) else None
