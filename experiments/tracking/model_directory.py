"""An exported model as a directory that MLflow loads: the ONNX file byte for byte, its signature, no pickles."""

import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from experiments.errors import TrackingError
from hardware.artifacts.onnx import open_onnx
from hardware.files import has_manifest, read_manifest

MODEL_FILE = "model.onnx"
_ENVIRONMENT_FILE = "python_env.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDirectory:
    """A model in MLflow's layout; `sha256` is that of the ONNX file."""

    directory: Path
    sha256: str


_MODEL_FILES = ("model.onnx", "model.fp32.onnx")


@contextmanager
def assemble_model(export_dir: Path) -> Iterator[ModelDirectory]:
    """Lay out an exported model as MLflow does, in a temporary directory that goes when the block ends.

    `mlflow.onnx.save_model` would parse the model and write it again (other bytes, weights in a second file), and
    start a process to guess requirements; the flavour itself is a few lines of YAML, written here with MLflow's own
    classes. Files beside the ONNX file (card, weights) go along in `export/`.

    Raises:
        TrackingError: `export_dir` does not hold exactly one ONNX file.
        StorageError: a file is damaged. MeasurementError: not a model with one input of fixed shape.
    """
    if has_manifest(export_dir):
        read_manifest(export_dir)
    # Hidden files are what a killed writer left.
    found = sorted(path for path in export_dir.glob("*.onnx") if not path.name.startswith("."))
    # An export may have other formats, too: the device's own file counts, then ONNX as it is without quantisation.
    found = next(([path] for name in _MODEL_FILES for path in found if path.name == name), found)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise TrackingError(
            f"{export_dir} must hold exactly one .onnx file, found: {names}", hint="Export again: `nas export RUN`."
        )
    artifact = open_onnx(found[0])
    with tempfile.TemporaryDirectory(prefix="archsmith-model-") as temporary:
        directory = Path(temporary)
        shutil.copyfile(found[0], directory / MODEL_FILE)
        for path in sorted(export_dir.iterdir()):
            if path.is_file() and path != found[0] and not path.name.startswith("."):
                (directory / "export").mkdir(exist_ok=True)
                shutil.copyfile(path, directory / "export" / path.name)
        _write_description(
            directory,
            input_shape=artifact.input_shape,
            input_dtype=artifact.input_dtype,
            output_shape=artifact.output_shape,
        )
        yield ModelDirectory(directory=directory, sha256=artifact.sha256)


def _write_description(
    directory: Path, *, input_shape: tuple[int, ...], input_dtype: str, output_shape: tuple[int, ...]
) -> None:
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    model = Model()
    model.signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(input_dtype), input_shape)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), output_shape)]),
    )
    pyfunc.add_to_model(model, loader_module="mlflow.onnx", data=MODEL_FILE, python_env=_ENVIRONMENT_FILE)
    model.add_flavor(
        "onnx",
        onnx_version=version("onnx"),
        data=MODEL_FILE,
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    requirements = [f"{name}=={version(name)}" for name in ("mlflow", "onnx", "onnxruntime", "numpy")]
    (directory / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    (directory / _ENVIRONMENT_FILE).write_text(
        f"python: {platform.python_version()}\nbuild_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n",
        encoding="utf-8",
    )
    model.save(str(directory / "MLmodel"))
