"""The description of a file that a runtime can run."""

from dataclasses import dataclass
from pathlib import Path


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
    """

    path: Path
    format: str
    sha256: str
    size_bytes: int
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]
