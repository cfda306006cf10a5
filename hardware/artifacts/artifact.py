"""The description of a file that a runtime can run."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from hardware.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A network as one file, bound to its content by a checksum.

    Attributes:
        path: the file.
        format: for example "onnx"; a backend runs one format.
        sha256: of the file; a backend refuses a file of another content.
        size_bytes: of the file.
        input_shape: shape of the one input, batch first, all fixed.
        input_dtype: numpy name of its element type, for example "float32".
        output_shape: shape of the first output; -1 where the file does not fix a dimension.
        precision: number format that the network computes in: "fp32", or "int8" (weights and activations; inputs and
            outputs stay float32).
    """

    path: Path
    format: str
    sha256: str
    size_bytes: int
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]
    precision: str = "fp32"

    def read_checked(self) -> bytes:
        """Return the file's content, read once, so that what was checked is what is run.

        Raises:
            StorageError: the file is missing, or is not the one that was described.
        """
        try:
            content = self.path.read_bytes()
        except OSError as e:
            raise StorageError(
                f"cannot read {self.path}: {e.strerror}", hint="build the artifact again with the device's backend"
            ) from e
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise StorageError(
                f"{self.path} is not the file that was described: its SHA-256 differs",
                hint="build the artifact again with the device's backend",
            )
        return content
