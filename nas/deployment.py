"""The way of a network to its device: preprocessing inside, the file, its accuracy in the device's own runtime."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hardware.artifacts.artifact import Artifact
from hardware.device import Device
from nas.accuracy import Accuracy, predict_classes, score
from nas.data import DataSplits, Examples, PreprocessedNetwork

_CALIBRATION_IMAGES = 256


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

    def accuracy(self, artifact: Artifact, images: Examples) -> Accuracy:
        """Accuracy of an artifact in the device's runtime on this host."""
        session = self.device.backend.load(artifact, spec=self.device.spec)
        batch = self.device.spec.batch

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            missing = batch - len(inputs)
            padded = torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])]) if missing else inputs
            logits = session.predict(np.ascontiguousarray(padded.to(torch.float32).numpy()))
            return torch.from_numpy(logits)[: len(inputs)]

        try:
            predictions_N = predict_classes(predict, images, batch=batch)
        finally:
            session.close()
        return score(images.labels_N, predictions_N, num_classes=self.data.num_classes, metric=self.data.metric)

    def score_on_search(self, network: nn.Module, *, shape: tuple[int, ...]) -> Accuracy:
        """Accuracy on the search split of a network that takes prepared inputs, as the device would compute it."""
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            path = Path(folder) / f"network.{self.device.backend.artifact_format}"
            return self.accuracy(self.build(network, shape=shape, path=path), self.data.search)
