"""Mixed precision: which parts of a step run in bfloat16."""

from contextlib import AbstractContextManager

import torch

from nas.errors import TrainingError

FP32, BF16, AUTO = "fp32", "bf16", "auto"


def resolve_precision(wanted: str, *, device: torch.device) -> str:
    """Replace "auto" by what pays off: bf16 on a GPU that has it, fp32 elsewhere (bf16 trains slower on CPUs).

    Raises:
        TrainingError: an unknown name, or bf16 on a GPU without it.
    """
    if wanted not in (FP32, BF16, AUTO):
        raise TrainingError(f"unknown precision {wanted!r}", hint=f"train.precision is {FP32}, {BF16} or {AUTO}")
    on_gpu = device.type == "cuda"
    able = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == AUTO:
        return BF16 if able else FP32
    if wanted == BF16 and on_gpu and not able:
        raise TrainingError(
            f"train.precision is bf16, which {torch.cuda.get_device_name(device)} does not have",
            hint="set train.precision to auto or fp32",
        )
    return wanted


def forward_context(precision: str, *, device: torch.device) -> AbstractContextManager[object]:
    """Entered around forward passes: weights stay float32, bf16 needs no scaling of the loss."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == BF16)
