"""Arm Ethos-U accelerators, estimated: int8 LiteRT files whose cycles Arm's compiler Vela tells."""

import csv
import logging
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.litert import FORMAT, quantize_litert
from hardware.backends.backend import (
    Count,
    Provenance,
    missing_packages,
    package_version,
    require_calibration,
    require_fit,
)
from hardware.backends.litert_cpu import BUILDING, LiteRtSession
from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import torch

    from hardware.device import DeviceSpec

logger = logging.getLogger(__name__)

# What Vela takes where nothing is said, said: another version may take something else. (system, memory mode)
_SYSTEMS = {
    "u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "u65": ("Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
    "u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
}
_MACS_PER_CYCLE = {"u55": (32, 64, 128, 256), "u65": (256, 512), "u85": (128, 256, 512, 1024, 2048)}
_TIMEOUT_S = 600
_NPU_OPERATOR = "ethos-u"
# Of the summary; memory is told in KiB.
_VALUE = "cycles_total"
_CYCLES = {
    "npu_cycles": "cycles_npu",
    "sram_access_cycles": "cycles_sram_access",
    "dram_access_cycles": "cycles_dram_access",
    "flash_access_cycles": "cycles_off_chip_flash_access",
    "macs": "nn_macs",
}
_MEMORY = {
    "sram_bytes": "sram_memory_used",
    "dram_bytes": "dram_memory_used",
    "flash_bytes": "off_chip_flash_memory_used",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EthosU:
    """One accelerator of the family, in the system that Vela takes for it by default.

    Cycles are the compiler's own estimate, for the accelerator's clock; nothing runs. Operators that the accelerator
    does not have are left to a CPU and cost nothing in the estimate: `Count.also` tells how many there are, and which.
    Two are always there, QUANTIZE and DEQUANTIZE between the float32 of the interface and the int8 of the network.
    Predictions are computed on this machine from the same int8 file, with LiteRT's own kernels: XNNPACK rounds in
    another way than the accelerator, which follows LiteRT.
    """

    name: str
    accelerator: str
    artifact_format: str = FORMAT
    precisions: tuple[str, ...] = ("int8",)
    requirement: str = "ethos-u-vela ai-edge-litert litert-torch ai-edge-quantizer"
    provenance: Provenance = "estimated"

    def missing(self) -> str | None:
        """Name the packages that are not installed, or None."""
        return missing_packages((*BUILDING, "ethosu"))

    def versions(self) -> dict[str, str]:
        """Versions of Vela, of LiteRT, of the converter and of the quantiser."""
        names = ("ethos-u-vela", "ai-edge-litert", "litert-torch", "ai-edge-quantizer")
        return {name: package_version(name) for name in names}

    def build(
        self,
        module: "torch.nn.Module",
        *,
        example: "torch.Tensor",
        path: Path,
        precision: str = "int8",
        calibration: "torch.Tensor | None" = None,
    ) -> Artifact:
        """Convert to LiteRT in int8, resizing by convolutions; see `hardware.artifacts.litert`."""
        inputs = require_calibration(self.name, precision=precision, calibration=calibration)
        return quantize_litert(module, example=example, calibration=inputs, path=path, for_accelerators=True)

    def load(self, artifact: Artifact, *, spec: "DeviceSpec") -> "EthosUSession":
        """Load a LiteRT file; see `DeviceBackend.load` for what is refused."""
        require_fit(self, artifact, spec=spec)
        return EthosUSession(artifact, accelerator=self.accelerator, threads=spec.threads)


class EthosUSession(LiteRtSession):
    """One int8 file: computed on this machine, counted by Vela."""

    def __init__(self, artifact: Artifact, *, accelerator: str, threads: int) -> None:
        """Load `artifact`; see `LiteRtSession`."""
        super().__init__(artifact, threads=threads, xnnpack=False)
        self._accelerator = accelerator

    def count(self) -> Count:
        """Cycles of one inference as Vela estimates them, its memory, and the operators that are left to a CPU.

        Raises:
            MeasurementError: Vela refuses the network, leaves all of it to the CPU, or its report is another than that
                of the versions this was written for.
        """
        path = self._artifact.path
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            network = Path(folder) / "network.tflite"
            network.write_bytes(self._artifact.read_checked())
            said = _run_vela(network, accelerator=self._accelerator, path=path)
            summary = _summary(Path(folder), path=path)
            operators = _operators((Path(folder) / "network_vela.tflite").read_bytes())
        on_cpu = Counter({name: number for name, number in operators.items() if name != _NPU_OPERATOR})
        if not operators[_NPU_OPERATOR] or not summary[_VALUE] > 0:
            raise MeasurementError(
                f"{path}: {self._accelerator} has none of the operators {sorted(on_cpu)}, Vela leaves all to a CPU: "
                f"{said[-500:]}",
                hint="look for the reasons that Vela gives, and change those operators, or choose another device",
            )
        also = {name: summary[column] for name, column in _CYCLES.items()}
        also |= {name: summary[column] * 1024 for name, column in _MEMORY.items()}
        also["cpu_operators"] = on_cpu.total()
        also |= {f"cpu_{name.lower()}_operators": number for name, number in sorted(on_cpu.items())}
        return Count(quantity="cycles", unit="cycles", value=summary[_VALUE], also=also)


def _run_vela(network: Path, *, accelerator: str, path: Path) -> str:
    """Compile beside `network` and return what Vela said; `path` is for the message."""
    system, memory_mode = _SYSTEMS[accelerator.split("-")[1]]
    command = [sys.executable, "-m", "ethosu.vela", "--accelerator-config", accelerator, "--config", "Arm/vela.ini"]
    command += ["--system-config", system, "--memory-mode", memory_mode]
    command += ["--output-dir", str(network.parent), str(network)]
    try:
        done = subprocess.run(
            command,
            cwd=network.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise MeasurementError(
            f"{path}: Vela was not done after {_TIMEOUT_S} s", hint="try a smaller network, or a quieter machine"
        ) from e
    if done.returncode != 0:
        # Its words come after a stack of its own.
        words = " ".join(done.stdout.rpartition("RuntimeError: ")[2].split())
        raise MeasurementError(
            f"{path}: Vela refuses the network for {accelerator}: {words[-1000:]}",
            hint="change the operator that Vela names, or choose another device",
        )
    logger.debug("Vela on %s: %s", path, done.stdout)
    return done.stdout.strip()


def _summary(folder: Path, *, path: Path) -> dict[str, float]:
    """The numbers of the one line in Vela's summary."""
    found = sorted(folder.glob("network_summary_*.csv"))
    rows: list[dict[str, str]] = []
    if len(found) == 1:
        with found[0].open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    columns = (_VALUE, *_CYCLES.values(), *_MEMORY.values())
    absent = [column for column in columns if len(rows) != 1 or column not in rows[0]]
    if absent:
        raise MeasurementError(
            f"{path}: the summary of Vela {package_version('ethos-u-vela')} lacks {', '.join(absent)} "
            f"({len(found)} summaries with {len(rows)} lines)",
            hint='install the version this was written for: pip install "ethos-u-vela>=5.2,<6"',
        )
    return {column: float(rows[0][column]) for column in columns}


def _operators(content: bytes) -> Counter[str]:
    """How many operators of which kind a LiteRT file has; what the accelerator does is one kind."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.Model.GetRootAs(content, 0)
    found: Counter[str] = Counter()
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for i in range(graph.OperatorsLength()):
            code = model.OperatorCodes(graph.Operators(i).OpcodeIndex())
            custom = code.CustomCode()
            found[names[code.BuiltinCode()] if custom is None else custom.decode()] += 1
    return found


BACKENDS = tuple(
    EthosU(name=f"ethos-{family}-{macs}", accelerator=f"ethos-{family}-{macs}")
    for family, sizes in _MACS_PER_CYCLE.items()
    for macs in sizes
)
