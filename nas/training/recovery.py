"""The one way back of a training whose numbers overflowed: remembered in a file, so that a restart knows of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardware.files import read_json, write_json
from nas.errors import CheckpointError

RATE_AFTER_ROLLBACK = 0.5
_FILE = "rollback.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Numbers that overflowed once.

    Attributes:
        problem: what and where, for example "training loss is nan at step 7 of 90 (phase kernel)".
    """

    problem: str

    def save(self, directory: Path) -> None:
        """Write it into a training's directory."""
        write_json(directory / _FILE, {"problem": self.problem, "learning_rate_factor": RATE_AFTER_ROLLBACK})


def read_rollback(directory: Path) -> Rollback | None:
    """What `Rollback.save` wrote, or None if nothing overflowed.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = directory / _FILE
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("problem"), str):
        raise CheckpointError(f"{path} is damaged", hint=f"delete {directory} and train again")
    return Rollback(problem=str(content["problem"]))
