"""A candidate: one architecture with one set of weights at one precision; what is evaluated, measured and exported."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from searchspaces import Architecture

WeightsKind = Literal["inherited", "fine-tuned", "averaged", "baseline"]
"""Sliced from the supernet; trained further; the mean of fine-tuned copies, see `nas.soup`; those of an ONNX file from
elsewhere, see `nas.baselines`."""

HASH_LENGTH = 16
"""Hexadecimal digits of the weights' hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The key under which accuracy and cost belong together.

    Attributes:
        architecture: what network.
        weights: hash of its weights; for inherited ones, of the supernet's checkpoint and the recalibration.
        weights_kind: where the weights come from.
        precision: number format, for example "fp32".
    """

    architecture: Architecture
    weights: str
    weights_kind: WeightsKind
    precision: str = "fp32"

    @property
    def candidate_id(self) -> str:
        """Readable key: architecture id, first digits of the weights' hash, precision."""
        return f"{self.architecture.arch_id}-{self.weights[:8]}-{self.precision}"

    def row(self) -> Mapping[str, str]:
        """The columns that identify a candidate in every table."""
        return {
            "candidate_id": self.candidate_id,
            "arch_id": self.architecture.arch_id,
            "architecture": self.architecture.to_json(),
            "weights": self.weights,
            "weights_kind": self.weights_kind,
            "precision": self.precision,
        }

    @classmethod
    def from_row(cls, row: Mapping[Any, object]) -> "Candidate":
        """Read what `row` wrote; other columns of a table's row are ignored."""
        kind = row["weights_kind"]
        assert kind in get_args(WeightsKind), kind
        return cls(
            architecture=Architecture.from_json(str(row["architecture"])),
            weights=str(row["weights"]),
            weights_kind=cast(WeightsKind, kind),
            precision=str(row["precision"]),
        )


def inherited_candidate(
    arch: Architecture, *, checkpoint_sha256: str, recalibration: str, precision: str = "fp32"
) -> Candidate:
    """The candidate that slices the supernet; its hash names the checkpoint and how statistics were recalibrated."""
    digest = hashlib.sha256(f"{checkpoint_sha256} {recalibration}".encode()).hexdigest()[:HASH_LENGTH]
    return Candidate(architecture=arch, weights=digest, weights_kind="inherited", precision=precision)
