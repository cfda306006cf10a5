"""Mixed precision: which parts of a step run in bfloat16."""

from contextlib import AbstractContextManager

import torch

from nas.errors import TrainingError

FP32, BF16, AUTO = "fp32", "bf16", "auto"
# Names of torch.cpu.get_capabilities(): x86 and Arm.
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


def resolve_precision(wanted: str, *, device: torch.device) -> str:
    """Replace "auto" by what pays off: bf16 where the GPU or the CPU computes in it, fp32 elsewhere.

    On a CPU with AVX-512-BF16 a step of the middle and largest subnets took .53 to .73 of its time in fp32, of tiny
    ones 1.0 to 1.4 (`experiments.benchmarks.supernet_step`); a CPU without it emulates bf16 and is slower throughout.

    Raises:
        TrainingError: an unknown name, or bf16 on a GPU without it.
    """
    if wanted not in (FP32, BF16, AUTO):
        raise TrainingError(f"unknown precision {wanted!r}", hint=f"train.precision is {FP32}, {BF16} or {AUTO}")
    on_gpu = device.type == "cuda"
    able = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_computes_in_bf16()
    if wanted == AUTO:
        return BF16 if able else FP32
    if wanted == BF16 and on_gpu and not able:
        raise TrainingError(
            f"train.precision is bf16, which {torch.cuda.get_device_name(device)} does not have",
            hint="set train.precision to auto or fp32",
        )
    return wanted


def _cpu_computes_in_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in _BF16_INSTRUCTIONS)


def forward_context(precision: str, *, device: torch.device) -> AbstractContextManager[object]:
    """Entered around forward passes: weights stay float32, bf16 needs no scaling of the loss."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == BF16)
