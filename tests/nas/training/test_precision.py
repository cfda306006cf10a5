"""Which arithmetic training uses where, and training on a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.errors import TrainingError
from nas.training.checkpoints import load_checkpoint
from nas.training.context import LocalContext
from nas.training.loop import train_supernet
from nas.training.precision import forward_context, resolve_precision
from tests.nas.tiny_run import fresh_supernet
from tests.nas.training.gloo_child import PROGRESSIVE, SMALL, noise_images

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "instructions", "found"),
    [
        ("auto", {"avx2": True, "avx512_bf16": False}, "fp32"),
        ("auto", {}, "fp32"),
        ("auto", {"avx512_bf16": True}, "bf16"),
        ("auto", {"amx_bf16": True}, "bf16"),
        ("fp32", {"avx512_bf16": True}, "fp32"),
        ("bf16", {"avx512_bf16": False}, "bf16"),
    ],
)
def test_a_cpu_uses_bf16_where_it_has_instructions_for_it_or_is_told_to(
    monkeypatch: pytest.MonkeyPatch, wanted: str, instructions: dict[str, bool], found: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert resolve_precision(wanted, device=CPU) == found


@pytest.mark.parametrize(
    ("wanted", "able", "found"), [("auto", True, "bf16"), ("auto", False, "fp32"), ("fp32", True, "fp32")]
)
def test_a_gpu_uses_bf16_where_it_has_it(monkeypatch: pytest.MonkeyPatch, wanted: str, able: bool, found: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert resolve_precision(wanted, device=torch.device("cuda")) == found


def test_what_a_gpu_does_not_have_and_names_that_do_not_exist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1080")
    with pytest.raises(TrainingError, match="bf16, which GTX 1080 does not have"):
        resolve_precision("bf16", device=torch.device("cuda"))
    with pytest.raises(TrainingError, match="unknown precision 'fp16'") as caught:
        resolve_precision("fp16", device=CPU)
    assert "auto" in caught.value.hint


def test_fp32_leaves_the_forward_pass_alone() -> None:
    a = torch.randn(4, 4)
    with forward_context("fp32", device=CPU):
        assert torch.equal(a @ a, a @ a)
        assert (a @ a).dtype == torch.float32
    with forward_context("bf16", device=CPU):
        assert (a @ a).dtype == torch.bfloat16


def test_the_only_worker_computes_where_it_is_told() -> None:
    assert LocalContext().device == CPU
    assert LocalContext(device="cuda").device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_all_phases_train_on_a_gpu_and_leave_checkpoints_for_any_machine(tmp_path: Path) -> None:
    supernet = fresh_supernet(space=SMALL)
    settings = replace(PROGRESSIVE, precision="auto", ema_decay=0.9, validation_images=20)
    train_supernet(
        supernet, data=noise_images(), settings=settings, directory=tmp_path, context=LocalContext(device="cuda")
    )
    assert {parameter.device.type for parameter in supernet.parameters()} == {"cuda"}
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "epoch-0005", expected={})
    assert {tensor.device.type for tensor in checkpoint.weights.values()} == {"cpu"}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in checkpoint.weights.values())
