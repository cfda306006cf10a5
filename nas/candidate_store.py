"""Weights of candidates on disk."""

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from hardware.errors import StorageError
from hardware.files import JSON, has_manifest, read_manifest, write_manifest
from nas.candidate import HASH_LENGTH, Candidate, WeightsKind
from nas.errors import CheckpointError
from nas.training.checkpoints import load_tensors, save_tensors, tensors_to_bytes
from nas.training.finished import WEIGHTS_FILE
from searchspaces import Architecture, SearchSpace


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
        digest = hashlib.sha256(tensors_to_bytes(network.state_dict())).hexdigest()[:HASH_LENGTH]
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
