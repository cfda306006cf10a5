"""Candidates made real: weights on disk, and the very file that is measured, verified and exported."""

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from hardware.lease import UnitLock
from nas.accuracy import Accuracy
from nas.baselines import BASELINE
from nas.candidate import Candidate, inherited_candidate
from nas.data import DataSplits, Examples
from nas.deployment import Comparison, Deployment
from nas.errors import CheckpointError
from nas.evaluation import SubnetJudge
from nas.run import Run
from searchspaces import Architecture


class Workbench:
    """Everything that turns an architecture of a trained run into a candidate, a network and an artifact.

    Attributes:
        run: the run whose supernet is used.
        device: where artifacts run.
        data: the splits.
        judge: recalibrates and scores inherited subnets.
        deployment: builds and judges the files of the device.
    """

    def __init__(
        self,
        run: Run,
        *,
        device: Device,
        data: DataSplits,
        judge: SubnetJudge,
        recalibration: str,
        stored_precision: str | None = None,
    ) -> None:
        """Make a workbench.

        Args:
            run: the run whose supernet is used.
            device: where artifacts run.
            data: the splits.
            judge: recalibrates and scores inherited subnets.
            recalibration: how it recalibrates, in words.
            stored_precision: of the candidates under whose names the run stores weights; the device's if None.
        """
        self.run, self.device, self.data, self.judge = run, device, data, judge
        self.deployment = Deployment(device, data=data)
        self._recalibration = recalibration
        self._stored_precision = stored_precision or device.spec.precision
        self._artifacts: dict[str, Artifact] = {}
        self._checkpoint_sha256 = run.checkpoint_sha256()

    def on(self, device: Device) -> "Workbench":
        """A workbench for the same run, data and weights on another device."""
        return Workbench(
            self.run,
            device=device,
            data=self.data,
            judge=self.judge,
            recalibration=self._recalibration,
            stored_precision=self._stored_precision,
        )

    def twin(self, candidate: Candidate) -> Candidate:
        """The same architecture with the same weights in the precision of this workbench's device."""
        return replace(candidate, precision=self.device.spec.precision)

    def inherit(self, arch: Architecture) -> Candidate:
        """The candidate with the supernet's weights."""
        return inherited_candidate(
            arch,
            checkpoint_sha256=self._checkpoint_sha256,
            recalibration=self._recalibration,
            precision=self.device.spec.precision,
        )

    def computing(self) -> AbstractContextManager[object]:
        """Hold this host's compute lock: nobody measures meanwhile."""
        return UnitLock(self.device.spec.physical_unit()).computing(owner=f"nas {self.run.info.name}")

    def network(self, candidate: Candidate) -> nn.Module:
        """The candidate's network, taking prepared images; inherited weights are stored, recalibrated, at first use."""
        store = self.run.candidates
        # Weights are stored once, in fp32, whatever precisions they are deployed in.
        stored = replace(candidate, precision=self._stored_precision)
        if not store.has(stored) and candidate.weights_kind == "inherited":
            if self.twin(candidate) != self.inherit(candidate.architecture):
                raise CheckpointError(
                    f"candidate {candidate.candidate_id} has the weights of an earlier supernet, which are gone",
                    hint=f"nas search {self.run.path} evaluates with the present one",
                )
            store.save(stored, self.judge.network(candidate.architecture))
        return store.load(stored)

    def deployable(self, candidate: Candidate) -> nn.Module:
        """The candidate's network, taking raw images of the data set's native size."""
        return self.deployment.deployable(self.network(candidate), shape=self._shape(candidate))

    def build(self, candidate: Candidate, path: Path) -> Artifact:
        """Write the candidate's artifact for the device to `path`; a baseline's file may be run from where it is."""
        if candidate.weights_kind == BASELINE:
            return self.deployment.adopt(self.run.baselines.open(candidate), path=path)
        return self.deployment.build(self.network(candidate), shape=self._shape(candidate), path=path)

    def artifact(self, candidate: Candidate) -> Artifact:
        """The candidate's artifact among the run's artifacts; built once a workbench, some 20 ms."""
        key = candidate.candidate_id
        if key not in self._artifacts:
            name = f"{key}-b{self.device.spec.batch}.{self.device.backend.artifact_format}"
            self._artifacts[key] = self.build(candidate, self.run.artifacts_dir / name)
        return self._artifacts[key]

    def accuracy(self, artifact: Artifact, images: Examples) -> Accuracy:
        """Accuracy of an artifact in the device's runtime, so that it belongs to the cost measured there."""
        return self.deployment.accuracy(artifact, images)

    def compare(self, candidate: Candidate, artifact: Artifact, images: Examples) -> Comparison:
        """The candidate's artifact beside its network in PyTorch; see `Deployment.compare` for what is refused."""
        return self.deployment.compare(artifact, self.network(candidate), shape=self._shape(candidate), images=images)

    def _shape(self, candidate: Candidate) -> tuple[int, ...]:
        return self.run.space.input_shape(candidate.architecture)
