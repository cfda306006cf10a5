"""The way of a network to its device: preprocessing inside, the file, its accuracy in the device's own runtime."""

import math
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from hardware.formats import onnx_importer
from nas.accuracy import Accuracy, predict_classes, score
from nas.data import DataSplits, Examples, PreprocessedNetwork
from nas.errors import ExportError

_CALIBRATION_IMAGES = 256
_COMPARED_IMAGES = 256
_TORCH_BATCH = 64
_LARGEST_DIFFERENCE = 1e-4
_FEWEST_SAME_ANSWERS = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far a file's outputs in its runtime are from the PyTorch network's, on real inputs.

    Attributes:
        num_images: compared inputs.
        max_difference: largest absolute difference of a logit.
        max_relative_difference: that, divided by the largest absolute logit of PyTorch's.
        same_answers: share of inputs that both give the same class, 0 ... 1.
    """

    num_images: int
    max_difference: float
    max_relative_difference: float
    same_answers: float


class Deployment:
    """Makes artifacts of a data set's networks for one device, and judges them there.

    Accuracy belongs to the very file whose cost is measured: an int8 device gets int8 accuracies.

    Attributes:
        device: builds and runs artifacts.
        data: the splits; the first training images are what int8 files are calibrated with.
    """

    def __init__(self, device: Device, *, data: DataSplits) -> None:
        self.device, self.data = device, data

    def deployable(self, network: nn.Module, *, shape: tuple[int, ...]) -> nn.Module:
        """A network of prepared inputs of `shape`, made to take raw inputs of the data set's native size."""
        return PreprocessedNetwork(network, preprocessing=self.data.preprocessing, shape=shape).eval()

    def build(self, network: nn.Module, *, shape: tuple[int, ...], path: Path) -> Artifact:
        """Write the artifact of a network that takes prepared inputs of `shape`.

        Raises:
            MeasurementError: the format does not know an operator; it is named.
            StorageError: the file cannot be written.
        """
        spec, inputs = self.device.spec, self.data.train.inputs
        return self.device.backend.build(
            self.deployable(network, shape=shape),
            example=inputs[: spec.batch].float(),
            path=path,
            precision=spec.precision,
            calibration=inputs[:_CALIBRATION_IMAGES].float() if spec.precision != "fp32" else None,
        )

    def adopt(self, source: Artifact, *, path: Path) -> Artifact:
        """Make an ONNX file of somebody else into the device's artifact, which is written to `path` if it is another.

        Args:
            source: takes raw inputs as `deployable` networks do; made int8 if the device computes so and it does not.
            path: of the artifact.

        Raises:
            DeviceError: the device's files cannot be made from ONNX.
            MeasurementError: the format does not know an operator; it is named.
        """
        precision, inputs = self.device.spec.precision, self.data.train.inputs
        return onnx_importer(self.device).import_onnx(
            source,
            path=path,
            precision=precision,
            calibration=inputs[:_CALIBRATION_IMAGES].float() if source.precision != precision else None,
        )

    def accuracy(self, artifact: Artifact, images: Examples) -> Accuracy:
        """Accuracy of an artifact in the device's runtime on this host."""
        with self._opened(artifact) as predict:
            predictions_N = predict_classes(predict, images, batch=self.device.spec.batch)
        return score(images.labels_N, predictions_N, num_classes=self.data.num_classes, metric=self.data.metric)

    def compare(
        self, artifact: Artifact, network: nn.Module, *, shape: tuple[int, ...], images: Examples
    ) -> Comparison:
        """Run the file in the device's runtime and the network in PyTorch on the same, the first 256 of `images`.

        Args:
            artifact: the network's file.
            network: takes prepared inputs of `shape`.
            shape: channels and size of those.
            images: raw inputs.

        Raises:
            ExportError: outputs that are no numbers; of an fp32 file, outputs that differ by more than 1e-4 of the
                largest; of any other, less than 80 % equal answers.
        """
        inputs, batch = images.inputs[:_COMPARED_IMAGES], self.device.spec.batch
        with self._opened(artifact) as predict:
            found_NC = torch.cat([predict(x) for x in inputs.split(batch)])
        with torch.no_grad():
            expected_NC = torch.cat([self.deployable(network, shape=shape)(x) for x in inputs.split(_TORCH_BATCH)])
        difference = float((found_NC - expected_NC).abs().max())
        comparison = Comparison(
            num_images=len(inputs),
            max_difference=difference,
            max_relative_difference=difference / float(expected_NC.abs().max()),
            same_answers=float((found_NC.argmax(dim=1) == expected_NC.argmax(dim=1)).double().mean()),
        )
        _require_alike(comparison, artifact=artifact)
        return comparison

    def classes(self, network: nn.Module, *, shape: tuple[int, ...], images: Examples) -> Generator[NDArray[np.int64]]:
        """Predicted classes batch by batch, as the device would compute them, of a network that takes prepared inputs.

        Whoever stops early closes the iterator.
        """
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            path = Path(folder) / f"network.{self.device.backend.artifact_format}"
            with self._opened(self.build(network, shape=shape, path=path)) as predict:
                for inputs in images.inputs.split(self.device.spec.batch):
                    yield predict(inputs).argmax(dim=1).numpy()

    @contextmanager
    def _opened(self, artifact: Artifact) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """Yield what computes the logits of raw inputs, at most a batch of them; a short batch is filled up."""
        session = self.device.backend.load(artifact, spec=self.device.spec)
        batch = self.device.spec.batch

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            missing = batch - len(inputs)
            padded = torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])]) if missing else inputs
            logits = session.predict(np.ascontiguousarray(padded.to(torch.float32).numpy()))
            return torch.from_numpy(logits)[: len(inputs)]

        try:
            yield predict
        finally:
            session.close()


def _require_alike(comparison: Comparison, *, artifact: Artifact) -> None:
    relative, same = comparison.max_relative_difference, comparison.same_answers
    far = f"differ from PyTorch's by {comparison.max_difference:.3g} (relative {relative:.3g}"
    if artifact.precision == "fp32":
        if relative <= _LARGEST_DIFFERENCE:
            return
        found = f"the outputs of {artifact.path} {far}, allowed {_LARGEST_DIFFERENCE:g})"
        hint = "do not deploy the file; report the architecture and the runtime's version"
    else:
        # Rounding moves every output; what must survive it are the answers.
        if math.isfinite(relative) and same >= _FEWEST_SAME_ANSWERS:
            return
        found = (
            f"{artifact.path} computes in {artifact.precision} and gives PyTorch's answer for {same:.1%} of "
            f"{comparison.num_images} inputs, at least {_FEWEST_SAME_ANSWERS:.0%} are asked for; its outputs {far})"
        )
        hint = "deploy the fp32 file, or another architecture: this one does not survive the rounding"
    raise ExportError(found, hint=hint)
