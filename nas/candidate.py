"""A candidate: one architecture with one set of weights at one precision; what is evaluated, measured and exported."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from hardware.errors import StorageError
from hardware.files import JSON, has_manifest, read_manifest, write_manifest
from nas.errors import CheckpointError
from nas.training.checkpoints import WEIGHTS_FILE, load_tensors, save_tensors, tensors_to_bytes
from searchspaces import Architecture, SearchSpace

WeightsKind = Literal["inherited", "fine-tuned", "averaged", "baseline"]
"""Sliced from the supernet; trained further; the mean of fine-tuned copies, see `nas.soup`; those of an ONNX file from
elsewhere, see `nas.baselines`."""

_HASH_LENGTH = 16


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
    digest = hashlib.sha256(f"{checkpoint_sha256} {recalibration}".encode()).hexdigest()[:_HASH_LENGTH]
    return Candidate(architecture=arch, weights=digest, weights_kind="inherited", precision=precision)


class CandidateStore:
    """Weights of candidates: one directory each, with a manifest."""

    def __init__(self, directory: Path, *, space: SearchSpace, num_classes: int) -> None:
        self._directory = directory
        self._space = space
        self._num_classes = num_classes

    def path(self, candidate: Candidate) -> Path:
        """Directory of a candidate."""
        return self._directory / candidate.candidate_id

    def has(self, candidate: Candidate) -> bool:
        """Whether the candidate's weights are stored."""
        return has_manifest(self.path(candidate))

    def save(self, candidate: Candidate, network: nn.Module) -> None:
        """Store the weights of an inherited candidate's recalibrated network."""
        self._write(self.path(candidate), candidate.architecture, network, kind=candidate.weights_kind)

    def save_trained(
        self,
        arch: Architecture,
        network: nn.Module,
        *,
        precision: str = "fp32",
        kind: Literal["fine-tuned", "averaged"] = "fine-tuned",
    ) -> Candidate:
        """Store a network's own weights; the candidate's hash is that of the weights file.

        Args:
            arch: of the network.
            network: with its own, fp32 weights.
            precision: that the candidate is deployed and judged in.
            kind: where the weights come from.
        """
        digest = hashlib.sha256(tensors_to_bytes(network.state_dict())).hexdigest()[:_HASH_LENGTH]
        candidate = Candidate(architecture=arch, weights=digest, weights_kind=kind, precision=precision)
        self._write(self.path(candidate), arch, network, kind=kind)
        return candidate

    def _write(self, path: Path, arch: Architecture, network: nn.Module, *, kind: WeightsKind) -> None:
        save_tensors(path / WEIGHTS_FILE, network.state_dict())
        details: dict[str, JSON] = {"architecture": arch.to_json(), "weights_kind": kind}
        write_manifest(path, files=[WEIGHTS_FILE], details=details)

    def load(self, candidate: Candidate) -> nn.Module:
        """The candidate's network in eval mode, taking prepared images.

        Raises:
            CheckpointError: missing or damaged files, or tensors that do not fit the architecture.
        """
        path = self.path(candidate)
        try:
            read_manifest(path)
        except StorageError as e:
            raise CheckpointError(
                f"candidate {candidate.candidate_id} cannot be loaded: {e}", hint=_again(candidate, path)
            ) from e
        network = self._space.build_supernet(num_classes=self._num_classes).extract(candidate.architecture)
        tensors: dict[str, torch.Tensor] = load_tensors(path / WEIGHTS_FILE)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as e:
            raise CheckpointError(
                f"the weights in {path} do not fit architecture {candidate.architecture.arch_id}: {e}",
                hint=_again(candidate, path),
            ) from e
        return network.eval()


def _again(candidate: Candidate, path: Path) -> str:
    """How to get lost weights back: inherited ones are cut out anew, fine-tuned ones come from their checkpoint."""
    stage = "verify" if candidate.weights_kind == "inherited" else "refine"
    return f"delete {path} and run `nas {stage} {path.parents[1]}`"
