"""Simulated Cortex-M boards: a network's C sources are compiled for one and run on it in QEMU, once.

QEMU executes instructions, it knows nothing of pipelines, caches or wait states: what it tells is how many
instructions an inference takes, exactly and alike in every run, and never cycles or milliseconds.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware.errors import MeasurementError
from hardware.firmware.tools import firmware_file, run_tool

COMPILER = "arm-none-eabi-gcc"
SIZE = "arm-none-eabi-size"
EMULATOR = "qemu-system-arm"
COMPILE_SECONDS = 300.0
EMULATE_SECONDS = 600.0
# One instruction is 2**6 ns of the emulator's clock: longer than a SysTick tick, so that every instruction shows.
_SHIFT = 6
_PICOSECONDS = 1000 << _SHIFT


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One board that QEMU knows.

    Attributes:
        core: for messages, for example "Cortex-M4".
        machine: QEMU's name of the board.
        flags: what tells the compiler the core.
        linker_script: file of this package with the board's memories.
        tick_picoseconds: of SysTick, as QEMU clocks the core.
        flash_bytes: what its linker script has for code and constants.
        vectors: whether the core has the vector extension (MVE), whose kernels need scratch memory of another size.
    """

    core: str
    machine: str
    flags: tuple[str, ...]
    linker_script: str
    tick_picoseconds: int
    flash_bytes: int
    vectors: bool = False


CORTEX_M4 = Board(
    core="Cortex-M4",
    machine="mps2-an386",
    flags=("-mcpu=cortex-m4", "-mfloat-abi=soft"),
    linker_script="mps2.ld",
    tick_picoseconds=40_000,
    flash_bytes=(4 << 20) - 1024,
)
CORTEX_M7 = Board(
    core="Cortex-M7",
    machine="mps2-an500",
    flags=("-mcpu=cortex-m7", "-mfloat-abi=soft"),
    linker_script="mps2.ld",
    tick_picoseconds=40_000,
    flash_bytes=(4 << 20) - 1024,
)
CORTEX_M55 = Board(
    core="Cortex-M55",
    machine="mps3-an547",
    flags=("-mcpu=cortex-m55", "-mfloat-abi=hard"),
    linker_script="mps3.ld",
    tick_picoseconds=31_250,
    flash_bytes=4 << 20,
    vectors=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """A network in C, in a directory of its own.

    Attributes:
        files: the files to compile.
        include_dirs: where their headers lie; among them bknn_network.h.
        arena_bytes: working memory to give to the network on the board at hand.
    """

    files: tuple[Path, ...]
    include_dirs: tuple[Path, ...]
    arena_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRun:
    """One inference on a board.

    Attributes:
        output: the network's output bytes.
        instructions: executed by the inference.
        flash_bytes: code, constants and initial values of the whole program; the frame around the network is about
            one KiB of it.
        static_ram_bytes: input, output, arena and variables.
        stack_bytes: the deepest stack, the frame around the network included.
    """

    output: bytes
    instructions: int
    flash_bytes: int
    static_ram_bytes: int
    stack_bytes: int


def run_on_board(board: Board, sources: Sources, *, input_bytes: bytes) -> BoardRun:
    """Compile a network with -O2, run it once on `board`, and tell output, instructions and memory.

    Args:
        board: where it runs.
        sources: the network, with the arena that it needs there.
        input_bytes: the quantised input.

    Raises:
        MeasurementError: the network does not compile or does not fit into the board's memory, or the run fails;
            the tool's words are in the text.
    """
    input_room = -(-len(input_bytes) // 16) * 16
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        program = Path(folder) / "network.elf"
        data = Path(folder) / "input.bin"
        data.write_bytes(input_bytes)
        run_tool(
            _compile_command(board, sources, program=program, input_room=input_room),
            purpose=f"compile the network for {board.core}",
            timeout_s=COMPILE_SECONDS,
            hint="choose a smaller network if it does not fit; otherwise check that arm-none-eabi-gcc and newlib work",
        )
        sections = _sections(program)
        input_address = sum(sections[".stack"])
        said = run_tool(
            _emulate_command(board, program=program, data=data, address=input_address),
            purpose=f"run the network on {board.machine}",
            timeout_s=EMULATE_SECONDS,
            hint="check that qemu-system-arm works, and report the network if it does",
        )
    values = dict(line.partition(" ")[::2] for line in said.splitlines())
    if not {"ticks", "nothing", "stack", "overflow", "output"} <= values.keys():
        raise MeasurementError(
            f"the network does not come to its end on {board.machine}, it says {said[-500:]!r}",
            hint="report the network: its code crashes on the simulated core",
        )
    if int(values["overflow"], 16):
        raise MeasurementError(
            f"the network writes beyond its arena of {sources.arena_bytes} bytes on {board.machine}",
            hint="report the network: the scratch memory of one of its kernels was planned too small",
        )
    ticks = int(values["ticks"], 16) - int(values["nothing"], 16)
    return BoardRun(
        output=bytes.fromhex(values["output"]),
        instructions=round(ticks * board.tick_picoseconds / _PICOSECONDS),
        flash_bytes=sum(sections[name][0] for name in (".vectors", ".text", ".ARM.exidx", ".data") if name in sections),
        static_ram_bytes=input_room + sum(sections[name][0] for name in (".data", ".bss", ".arena")),
        stack_bytes=int(values["stack"], 16),
    )


def _compile_command(board: Board, sources: Sources, *, program: Path, input_room: int) -> list[str]:
    script = firmware_file(board.linker_script)
    return [
        COMPILER,
        *board.flags,
        *("-mthumb", "-O2", "-std=gnu11", "-w", "-ffunction-sections", "-fdata-sections"),
        f"-DARENA_BYTES={sources.arena_bytes}",
        *(f"-I{path}" for path in sources.include_dirs),
        *map(str, sources.files),
        str(firmware_file("board.c")),
        *("-nostartfiles", f"-T{script}", f"-L{script.parent}", "-Wl,--gc-sections"),
        f"-Wl,--defsym=input_room={input_room}",
        *("-o", str(program)),
    ]


def _emulate_command(board: Board, *, program: Path, data: Path, address: int) -> Sequence[str]:
    return [
        EMULATOR,
        *("-M", board.machine, "-display", "none", "-monitor", "none", "-serial", "none", "-net", "none"),
        *("-icount", f"shift={_SHIFT},sleep=off"),
        *("-chardev", "stdio,id=host", "-semihosting-config", "enable=on,target=native,chardev=host"),
        *("-kernel", str(program)),
        # Commas separate QEMU's options; in a path they are doubled.
        *("-device", f"loader,file={str(data).replace(',', ',,')},addr={address:#x},force-raw=on"),
    ]


def _sections(program: Path) -> dict[str, tuple[int, int]]:
    """Size and address of the program's sections."""
    hint = f"check that {SIZE} works; it is part of binutils-arm-none-eabi"
    listing = run_tool([SIZE, "-A", "-d", str(program)], purpose="read the program's sizes", timeout_s=60, hint=hint)
    rows = (line.split() for line in listing.splitlines())
    return {row[0]: (int(row[1]), int(row[2])) for row in rows if len(row) == 3 and row[0].startswith(".")}
