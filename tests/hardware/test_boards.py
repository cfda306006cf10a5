import subprocess
from pathlib import Path

import pytest

from hardware.backends.cortex_m import BACKENDS
from hardware.errors import MeasurementError
from hardware.firmware import boards
from hardware.firmware.boards import CORTEX_M4, CORTEX_M7, CORTEX_M55, Board, Sources, run_on_board
from hardware.firmware.host import HostProgram
from hardware.firmware.tools import run_tool

pytestmark = pytest.mark.skipif(BACKENDS[0].missing() is not None, reason=f"cortex-m4: {BACKENDS[0].missing()}")

HEADER = """
#include <stdint.h>
#define BKNN_NETWORK_INPUT_SIZE 4
#define BKNN_NETWORK_OUTPUT_SIZE 4
#define BKNN_NETWORK_ARENA_SIZE 64
void bknn_network_infer(uint8_t *arena, const int8_t *input, int8_t *output);
"""
DOUBLE = "for (int i = 0; i < 4; ++i) output[i] = (int8_t)(2 * input[i]);"


def network(folder: Path, body: str, *, before: str = "") -> Sources:
    """A network by hand, as bakenn would write it."""
    (folder / "bknn_network.h").write_text(HEADER)
    source = folder / "network.c"
    source.write_text(
        f'#include "bknn_network.h"\n{before}\n'
        f"void bknn_network_infer(uint8_t *arena, const int8_t *input, int8_t *output) {{\n{body}\n}}\n"
    )
    return Sources(files=(source,), include_dirs=(folder,), arena_bytes=64)


@pytest.mark.parametrize("board", [CORTEX_M4, CORTEX_M7, CORTEX_M55], ids=lambda board: board.core)
def test_instructions_are_counted_exactly_also_through_many_periods_of_the_24_bit_counter(
    tmp_path: Path, board: Board
) -> None:
    # A period of the counter is 10 million instructions on two of the boards, 8 million on the third.
    for rounds in (1_000, 1_000_000, 25_000_000):
        loop = f'uint32_t n = {rounds}; __asm__ volatile("1: subs %0, #1\\n bne 1b" : "+r"(n));'
        ran = run_on_board(board, network(tmp_path, f"{loop}\n{DOUBLE}"), input_bytes=bytes([1, 2, 3, 253]))
        assert ran.output == bytes([2, 4, 6, 250])
        # Besides the loop: the call, the four outputs, and the counter's own interrupt once a period.
        assert 0 < ran.instructions - 2 * rounds < 200


def test_memory_is_read_from_the_program_and_the_stack_from_what_was_written(tmp_path: Path) -> None:
    small = run_on_board(CORTEX_M4, network(tmp_path, DOUBLE), input_bytes=bytes(4))
    table = "static const int8_t table[10000] = {1}; static int8_t state[5000];"
    use = (
        "volatile uint8_t local[3000]; for (int i = 0; i < 3000; ++i) local[i] = 1; state[input[0]] += table[input[1]];"
    )
    large = run_on_board(CORTEX_M4, network(tmp_path, use + DOUBLE, before=table), input_bytes=bytes(4))
    assert 10_000 <= large.flash_bytes - small.flash_bytes < 10_200
    assert 5_000 <= large.static_ram_bytes - small.static_ram_bytes < 5_020
    # The deepest 64 bytes of the frame count as used either way.
    assert 2_900 <= large.stack_bytes - small.stack_bytes < 3_100
    # Input, output and arena are there, and what is not the network's own is small.
    assert 4 + 4 + 64 <= small.static_ram_bytes < 150
    assert small.flash_bytes < 1_500


def test_writing_beyond_the_arena_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="beyond its arena of 64 bytes"):
        run_on_board(CORTEX_M4, network(tmp_path, "arena[64] = 1;"), input_bytes=bytes(4))


def test_a_network_that_does_not_fit_says_which_memory_is_full(tmp_path: Path) -> None:
    constants = "extern const int8_t big[]; const int8_t big[5000000] = {1};"
    sources = network(tmp_path, "output[0] = big[input[0] + 128];", before=constants)
    with pytest.raises(MeasurementError, match="FLASH") as caught:
        run_on_board(CORTEX_M4, sources, input_bytes=bytes(4))
    assert "smaller network" in caught.value.hint
    variables = network(tmp_path, "big[input[0] + 128] = 1;", before="static volatile int8_t big[4000000];")
    with pytest.raises(MeasurementError, match="RAM"):
        run_on_board(CORTEX_M4, variables, input_bytes=bytes(1_000_000))


def test_the_words_of_the_compiler_are_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="no_such_thing"):
        run_on_board(CORTEX_M4, network(tmp_path, "no_such_thing = 1;"), input_bytes=bytes(4))


def test_a_crash_and_an_endless_loop_end_as_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasurementError, match="mps2-an386"):
        run_on_board(CORTEX_M4, network(tmp_path, '__asm__ volatile("udf #0");'), input_bytes=bytes(4))
    monkeypatch.setattr(boards, "EMULATE_SECONDS", 1.0)
    with pytest.raises(MeasurementError, match="not done after 1 s"):
        run_on_board(CORTEX_M4, network(tmp_path, 'for (;;) __asm__ volatile("");'), input_bytes=bytes(4))


def test_nothing_is_left_and_nothing_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sources = network(tmp_path, DOUBLE)
    temporary = tmp_path / "temporary, with a comma"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert run_on_board(CORTEX_M55, sources, input_bytes=bytes([1, 1, 1, 1])).output == bytes([2, 2, 2, 2])
    program = HostProgram(sources, output_bytes=4)
    assert program.infer(bytes([1, 2, 3, 4])) == bytes([2, 4, 6, 8])
    assert not list(temporary.iterdir())
    program.close()
    program.close()
    assert capfd.readouterr() == ("", "")


def test_a_network_that_dies_on_the_host_is_an_error(tmp_path: Path) -> None:
    program = HostProgram(network(tmp_path, "__builtin_trap();"), output_bytes=4)
    with pytest.raises(MeasurementError, match="has ended"):
        program.infer(bytes(4))
    program.close()
    with pytest.raises(MeasurementError, match="has ended"):
        program.infer(bytes(4))


def test_a_tool_that_is_absent_or_slow_is_named() -> None:
    with pytest.raises(MeasurementError, match="no-such-tool is not installed") as caught:
        run_tool(["no-such-tool"], purpose="do it", timeout_s=1, hint="install it")
    assert caught.value.hint == "install it"
    with pytest.raises(MeasurementError, match="not done after") as slow:
        run_tool(["sleep", "30"], purpose="sleep", timeout_s=0.2, hint="wake up")
    assert isinstance(slow.value.__cause__, subprocess.TimeoutExpired)
