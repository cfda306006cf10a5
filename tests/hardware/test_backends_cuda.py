import dataclasses
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from hardware import get_device, list_devices
from hardware.artifacts.torch_recording import record_program
from hardware.artifacts.torch_runner import TorchRunner
from hardware.backends import onnxruntime_cuda, torch_cuda
from hardware.backends.backend import DeviceBackend
from hardware.device import DeviceSpec
from hardware.errors import DeviceError, MeasurementError
from hardware.gpu import gpu_versions, missing_gpu
from hardware.testing import INPUT_SHAPE, DeviceBackendContract, example_network
from tests.hardware.networks import elaborate_network, outputs, raw_images, relative_difference

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = torch.zeros(1, *INPUT_SHAPE)
BACKENDS: dict[str, DeviceBackend] = {
    backend.name: backend for backend in (torch_cuda.BACKEND, onnxruntime_cuda.BACKEND)
}
TORCH_MISSING, ONNX_MISSING = torch_cuda.BACKEND.missing(), onnxruntime_cuda.BACKEND.missing()


@pytest.mark.gpu
@pytest.mark.skipif(TORCH_MISSING is not None, reason=str(TORCH_MISSING))
class TestTorchCuda(DeviceBackendContract):
    device_id = "torch-cuda"


@pytest.mark.gpu
@pytest.mark.skipif(ONNX_MISSING is not None, reason=str(ONNX_MISSING))
class TestOnnxRuntimeCuda(DeviceBackendContract):
    device_id = "onnxruntime-cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("name", BACKENDS)
def test_a_network_with_everything_in_it_computes_what_torch_computes(name: str, tmp_path: Path) -> None:
    reason = BACKENDS[name].missing()
    if reason is not None:
        pytest.skip(reason)
    device, network, images = get_device(name), elaborate_network(), raw_images(20)
    artifact = device.backend.build(network, example=images[:1], path=tmp_path / "m")
    session = device.backend.load(artifact, spec=device.spec)
    found = np.concatenate([session.predict(image[None].numpy()) for image in images])
    # TF32 would differ by more.
    assert relative_difference(found, outputs(network, images)) < 1e-4


def test_a_machine_without_gpu_says_so_in_one_line(tmp_path: Path) -> None:
    reason = missing_gpu(tmp_path)
    assert reason is not None
    assert "no NVIDIA GPU" in reason
    assert "\n" not in reason
    (tmp_path / "nvidia0").touch()
    assert missing_gpu(tmp_path) is None


def test_only_the_driver_is_not_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    assert missing_gpu(tmp_path) is not None


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_missing(hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert "CUDA_VISIBLE_DEVICES" in str(missing_gpu(tmp_path))


def test_a_build_without_cuda_is_missing_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cuda, "missing_gpu", lambda: None)
    monkeypatch.setattr(torch_cuda, "package_version", lambda name: "2.13.0+cpu")
    assert "2.13.0+cpu is a build without CUDA" in str(torch_cuda.BACKEND.missing())
    monkeypatch.setattr(torch_cuda, "package_version", lambda name: "2.13.0")
    assert torch_cuda.BACKEND.missing() is None
    monkeypatch.setattr(onnxruntime_cuda, "missing_gpu", lambda: None)
    for found in (True, False):
        monkeypatch.setattr(onnxruntime_cuda, "_has_library", lambda provider, found=found: found)
        assert (onnxruntime_cuda.BACKEND.missing() is None) == found


def test_looking_for_gpus_imports_nothing_heavy() -> None:
    script = (
        "import sys; from hardware import list_devices; list_devices();"
        "print([name for name in ('torch', 'onnxruntime', 'openvino', 'nncf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", BACKENDS)
def test_the_list_of_devices_has_it_with_the_reason(name: str) -> None:
    status = next(status for status in list_devices() if status.device_id == name)
    assert status.available == (BACKENDS[name].missing() is None)
    assert status.reason == (BACKENDS[name].missing() or "")


def fake_nvidia_smi(folder: Path, *, answer: str, code: int = 0) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho \"$@\" >> {folder}/asked\nprintf '%s\\n' '{answer}'\nexit {code}\n")
    program.chmod(0o755)


def test_versions_tell_the_gpu_its_driver_and_its_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path, answer="NVIDIA H100, 570.86.15, 1980, 2619, [N/A]")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    found = gpu_versions()
    assert found == {
        "gpu": "NVIDIA H100",
        "nvidia-driver": "570.86.15",
        "gpu-max-clock-mhz": "1980",
        "gpu-max-memory-clock-mhz": "2619",
    }
    assert gpu_versions() == found
    assert torch_cuda.BACKEND.versions() == {"torch": str(torch.__version__), **found}
    assert onnxruntime_cuda.BACKEND.versions()["provider"] == "CUDAExecutionProvider"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 1, "it is asked once a process"
    assert "--id=2" in asked[0]


@pytest.mark.parametrize(("answer", "code"), [("No devices were found", 6), ("", 0)])
def test_what_the_driver_does_not_tell_is_left_out(
    answer: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path, answer=answer, code=code)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu_versions() == {}
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpu_versions() == {}


def test_tensorrt_is_used_only_where_it_cannot_compute_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "_has_library", lambda provider: True)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert onnxruntime_cuda.BACKEND.versions()["provider"] == "CUDAExecutionProvider"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert onnxruntime_cuda.BACKEND.versions()["provider"] == "TensorrtExecutionProvider"


@pytest.mark.skipif(TORCH_MISSING is None or torch.cuda.is_available(), reason="this torch has a GPU")
def test_torch_without_gpu_refuses_to_load(tmp_path: Path) -> None:
    artifact = torch_cuda.BACKEND.build(example_network(), example=EXAMPLE, path=tmp_path / "m")
    with pytest.raises(DeviceError, match="cannot use the GPU") as caught:
        torch_cuda.BACKEND.load(artifact, spec=DeviceSpec(device_id="torch-cuda", backend="torch-cuda"))
    assert caught.value.hint


@pytest.mark.skipif(ONNX_MISSING is None, reason="this ONNX Runtime has a GPU")
def test_a_silent_fall_back_to_the_cpu_is_refused(tmp_path: Path) -> None:
    artifact = onnxruntime_cuda.BACKEND.build(example_network(), example=EXAMPLE, path=tmp_path / "m.onnx")
    with pytest.raises(DeviceError, match="CPUExecutionProvider instead of CUDAExecutionProvider") as caught:
        onnxruntime_cuda.BACKEND.load(
            artifact, spec=DeviceSpec(device_id="onnxruntime-cuda", backend="onnxruntime-cuda")
        )
    assert caught.value.hint


def test_a_session_with_bound_memory_computes_what_torch_computes(tmp_path: Path) -> None:
    """On the memory of the CPU, which every ONNX Runtime has: all but the copies is the same as on a GPU."""
    import onnxruntime

    artifact = onnxruntime_cuda.BACKEND.build(example_network(), example=EXAMPLE, path=tmp_path / "m.onnx")
    inner = onnxruntime.InferenceSession(artifact.path.read_bytes(), providers=["CPUExecutionProvider"])
    session = onnxruntime_cuda.OnnxRuntimeBoundSession(inner, artifact, memory="cpu")
    x = np.random.default_rng(0).standard_normal((1, *INPUT_SHAPE)).astype(np.float32)
    expected = outputs(example_network(), torch.from_numpy(x))
    found = session.predict(x)
    assert relative_difference(found, expected) < 1e-4
    session.set_input(-x)
    session.run()
    assert not np.array_equal(session.predict(-x), found)
    assert np.array_equal(session.predict(x), found)
    held = x.copy()
    session.set_input(held)
    held[:] = 7
    session.run()
    with pytest.raises(MeasurementError):
        session.predict(x[0])
    session.close()
    session.close()


@pytest.mark.parametrize("before", ["highest", "high"])
def test_a_run_is_in_true_fp32_and_leaves_the_settings_as_they_were(before: str) -> None:
    tf32 = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(before)
    try:
        with suppress(KeyError), torch_cuda.true_fp32():
            assert not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
            raise KeyError
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_program_is_wholly_on_the_device_where_it_is_loaded() -> None:
    """`meta` stands for a GPU: everything has to be there, or a call fails."""

    class Creating(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(device=x.device, dtype=torch.float64) + torch.ones(3, device=x.device)

    for network, example in ((Creating(), torch.zeros(1, 2, 3, 3)), (elaborate_network(), raw_images(1))):
        program = record_program(network, example=example)
        runner = TorchRunner(program, device="meta")
        x = runner.place(example)
        assert x.is_contiguous()
        output = runner(x)
        assert output.device.type == "meta"
        assert tuple(output.shape) == program.output_shape


def test_a_file_of_another_backend_is_refused_before_the_gpu_is_looked_for(tmp_path: Path) -> None:
    artifact = torch_cuda.BACKEND.build(example_network(), example=EXAMPLE, path=tmp_path / "m")
    spec = DeviceSpec(device_id="torch-cuda", backend="torch-cuda")
    with pytest.raises(MeasurementError, match="batch 7"):
        torch_cuda.BACKEND.load(artifact, spec=dataclasses.replace(spec, batch=7))
    with pytest.raises(DeviceError, match=r"torch\.safetensors"):
        onnxruntime_cuda.BACKEND.load(artifact, spec=dataclasses.replace(spec, backend="onnxruntime-cuda"))
