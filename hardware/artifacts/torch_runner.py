"""Runs torch programs: the calls of the file, one after the other, on real tensors."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hardware.artifacts.artifact import Artifact
from hardware.artifacts.torch_functions import TorchFunction, int8_functions, int8_layers, torch_functions
from hardware.artifacts.torch_program import (
    Argument,
    Call,
    Constant,
    TargetDevice,
    TorchProgram,
    Value,
    parse_program,
)
from hardware.errors import MeasurementError

if TYPE_CHECKING:
    import torch

Watch = Callable[[int, "torch.Tensor"], None]
_Step = tuple[Callable[[list[Any]], Any], tuple[int, ...], bool, tuple[int, ...]]


class TorchRunner:
    """A program with its constants on a device, ready to be called."""

    def __init__(self, program: TorchProgram, *, device: str = "cpu") -> None:
        self._device = device
        # GPUs compute in plain fp32, without tensor cores, in the standard layout.
        self._channels_last = program.channels_last and device == "cpu"
        self._output = program.output
        constants = {name: self.place(tensor) for name, tensor in program.constants.items()}
        functions = {**torch_functions(), **int8_functions()}
        last_use = {number: index for index, call in enumerate(program.calls) for number in call.values()}
        self._num_values = 1 + max([0, *(number for call in program.calls for number in call.results)])
        self._steps: list[_Step] = []
        for index, call in enumerate(program.calls):
            # Values are let go when they are used up, as in a module's forward: memory is reused while it is hot.
            done = tuple(n for n in call.values() if last_use[n] == index and n != program.output)
            run = _bound(call, functions=functions, constants=constants, device=device)
            self._steps.append((run, call.results, call.unpacked, done))

    def place(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Return a copy of a tensor where and how the program computes with it."""
        import torch

        placed = tensor.to(self._device)
        if self._channels_last and placed.ndim == 4:
            # `contiguous` would leave images of one channel as they are, and torch takes them for the slower layout.
            return placed.clone(memory_format=torch.channels_last)
        return placed.clone(memory_format=torch.contiguous_format)

    def __call__(self, x: "torch.Tensor", *, watch: Watch | None = None) -> "torch.Tensor":
        """Compute.

        Args:
            x: the input, from `place`.
            watch: called with the number of every value, the input's included, and the value.
        """
        values: list[Any] = [None] * self._num_values
        values[0] = x
        if watch is not None:
            watch(0, x)
        for run, results, unpacked, done in self._steps:
            found = run(values)
            if unpacked:
                for number, value in zip(results, found, strict=True):
                    values[number] = value
            else:
                values[results[0]] = found
            if watch is not None:
                for number in results:
                    watch(number, values[number])
            for number in done:
                values[number] = None
        output: torch.Tensor = values[self._output]
        return output


def load_runner(artifact: Artifact, *, device: str = "cpu") -> TorchRunner:
    """Return the program of an artifact, ready to run.

    Raises:
        StorageError: the file is missing, or is not the one that was described.
        MeasurementError: it is no program, or torch refuses its constants.
    """
    program = parse_program(artifact.read_checked(), path=artifact.path)
    try:
        return TorchRunner(program, device=device)
    # Packing int8 weights, or moving constants to a device that is full.
    except (RuntimeError, TypeError, ValueError) as e:
        raise MeasurementError(
            f"torch refuses {artifact.path}: {e}", hint="build the artifact again with the device's backend"
        ) from e


def _bound(
    call: Call, *, functions: Mapping[str, TorchFunction], constants: "Mapping[str, torch.Tensor]", device: str
) -> Callable[[list[Any]], Any]:
    """The call as a function of all values, with as little to do at run time as possible."""
    args = [_with_constants(argument, constants=constants, device=device) for argument in call.args]
    kwargs = {name: _with_constants(part, constants=constants, device=device) for name, part in call.kwargs.items()}
    layers = int8_layers()
    if call.function in layers:
        function, args = layers[call.function](*args[1:]), args[:1]
    else:
        function = functions[call.function]
    leading = 0
    while leading < len(args) and isinstance(args[leading], Value):
        leading += 1
    if leading in (1, 2) and not any(map(_holds_value, [*args[leading:], *kwargs.values()])):
        # Nearly all calls: one or two tensors, then constants.
        rest = args[leading:]
        first = args[0].number
        if leading == 1:
            return lambda values: function(values[first], *rest, **kwargs)
        second = args[1].number
        return lambda values: function(values[first], values[second], *rest, **kwargs)
    return lambda values: function(
        *[_with_values(part, values=values) for part in args],
        **{name: _with_values(part, values=values) for name, part in kwargs.items()},
    )


def _with_constants(argument: Argument, *, constants: "Mapping[str, torch.Tensor]", device: str) -> Argument:
    import torch

    if isinstance(argument, Constant):
        return constants[argument.name]
    if isinstance(argument, TargetDevice):
        return torch.device(device)
    if isinstance(argument, list | tuple):
        return type(argument)(_with_constants(part, constants=constants, device=device) for part in argument)
    return argument


def _with_values(argument: Argument, *, values: list[Any]) -> Argument:
    if isinstance(argument, Value):
        return values[argument.number]
    if isinstance(argument, list | tuple):
        return type(argument)(_with_values(part, values=values) for part in argument)
    return argument


def _holds_value(argument: Argument) -> bool:
    if isinstance(argument, list | tuple):
        return any(map(_holds_value, argument))
    return isinstance(argument, Value)
