"""Turns modules into torch programs: the functions that the module calls on an example are written down."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hardware.artifacts.evaluating import evaluating
from hardware.artifacts.torch_functions import torch_functions
from hardware.artifacts.torch_program import Argument, Call, Constant, TargetDevice, TorchProgram, Value
from hardware.artifacts.torch_runner import TorchRunner
from hardware.errors import MeasurementError
from searchspaces.errors import Hinted

if TYPE_CHECKING:
    import torch

# Questions about a tensor whose answers depend on its shape and type only, which the file fixes.
_METADATA = """
__get__ __len__ dim element_size get_device is_complex is_contiguous is_floating_point is_signed ndimension nelement
numel size storage_offset stride
"""
_AGREEMENT = 1e-4


def record_program(module: "torch.nn.Module", *, example: "torch.Tensor") -> TorchProgram:
    """Return what `module` computes, in evaluation mode, on inputs of the shape of `example`.

    The program is run on another input and compared with the module, so that a module whose calls depend on the
    input's values, or that computes outside of torch, is refused.

    Args:
        module: takes one tensor, returns one; left as it was.
        example: an input; its shape, batch included, is fixed in the program.

    Raises:
        MeasurementError: the module fails on the example, calls a function that programs do not know (the message
            names it), or computes something else on another input.
    """
    import torch

    spelled = f"{type(module).__name__} cannot be written for torch for an input of shape {tuple(example.shape)}"
    with evaluating(module), torch.no_grad():
        try:
            calls, constants, output = _record(module, example=example)
        except Hinted:
            raise
        # The module's own forward may raise anything.
        except Exception as e:
            raise MeasurementError(
                f"{spelled}: {e}", hint="check that the module takes one tensor of this shape"
            ) from e
        if 0 not in {number for call in calls for number in call.values()}:
            raise MeasurementError(
                f"{spelled}: its output does not depend on its input through functions of torch",
                hint="compute in forward with functions of torch, on the tensor that is passed in",
            )
        other = _another(example)
        expected = module(other.clone()).cpu()
        program = TorchProgram(
            calls=calls,
            constants=constants,
            output=output,
            channels_last=example.ndim == 4,
            input_shape=tuple(example.shape),
            input_dtype=str(example.dtype).removeprefix("torch."),
            output_shape=tuple(expected.shape),
            precision="fp32",
        )
        if program.channels_last and not _agrees(program, x=other, expected=expected):
            # For example a `view` of what was an image, which only the standard layout allows.
            program = replace(program, channels_last=False)
        if not program.channels_last and not _agrees(program, x=other, expected=expected):
            raise MeasurementError(
                f"{spelled}: what it computes depends on the values of its input, or is computed outside of torch",
                hint="compute in forward with functions of torch only, the same ones whatever the values",
            )
    return program


def _agrees(program: TorchProgram, *, x: "torch.Tensor", expected: "torch.Tensor") -> bool:
    import torch

    runner = TorchRunner(program)
    try:
        found = runner(runner.place(x))
    except RuntimeError:
        return False
    if found.shape != expected.shape:
        return False
    largest = float(expected.abs().nan_to_num().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=_AGREEMENT, atol=_AGREEMENT * largest, equal_nan=True)


def _another(example: "torch.Tensor") -> "torch.Tensor":
    """An input of the same shape and type with other values."""
    import torch

    generator = torch.Generator().manual_seed(0)
    if example.is_floating_point():
        return torch.randn(example.shape, generator=generator).to(example)
    return torch.randint(0, 2, example.shape, generator=generator).to(example)


def _record(
    module: "torch.nn.Module", *, example: "torch.Tensor"
) -> "tuple[tuple[Call, ...], dict[str, torch.Tensor], int]":
    import torch
    from torch.overrides import TorchFunctionMode

    x = example.detach().clone()
    tape = _Tape(x, parameters=dict([*module.named_parameters(), *module.named_buffers()]))

    class Recorder(TorchFunctionMode):
        """Sees every call of a function of torch that the module makes; what those call in turn is not seen."""

        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Sequence[type],
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> Any:  # noqa: ANN401
            result = func(*args, **(kwargs or {}))
            tape.note(func, args=args, kwargs=kwargs or {}, result=result)
            return result

    with Recorder():
        output = module(x)
    if not isinstance(output, torch.Tensor):
        raise MeasurementError(
            f"{type(module).__name__} returns a {type(output).__name__}, only networks of one output can be measured",
            hint="wrap the network so that it returns one tensor",
        )
    return tape.needed(output)


class _Tape:
    """What has been recorded so far."""

    def __init__(self, x: "torch.Tensor", *, parameters: "Mapping[str, torch.Tensor]") -> None:
        self._names = {function: name for name, function in torch_functions().items()}
        self._parameters = {id(tensor): name for name, tensor in parameters.items()}
        self._calls: list[Call] = []
        self._values: dict[int, int] = {id(x): 0}
        self._constants: dict[int, str] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._num_values = 1
        # Tensors are told apart by id, so none may be freed while it is recorded.
        self._alive: list[torch.Tensor] = [x]

    def note(self, func: Callable[..., Any], *, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:  # noqa: ANN401
        """Record a call if it computes something from the input; everything else is a constant."""
        import torch

        if not any(id(part) in self._values for part in _leaves([*args, *kwargs.values()])):
            return
        name = self._names.get(func)
        results = list(result) if isinstance(result, list | tuple) else [result]
        if not results or not all(isinstance(part, torch.Tensor) for part in results):
            # Only a tensor's values can differ between two inputs of one shape.
            if getattr(func, "__name__", "") in _METADATA.split() and not isinstance(result, torch.Tensor):
                return
            name = None
        if name is None:
            raise MeasurementError(
                f"the network calls {torch.overrides.resolve_name(func) or func!r}, which torch programs do not know",
                hint="replace it by functions of hardware/artifacts/torch_functions.py, or use another runtime",
            )
        constants = {id(part) for part in _leaves([*args, *kwargs.values()]) if id(part) not in self._values}
        if any(id(part) in constants for part in results):
            if not name.endswith("_") and not kwargs.get("inplace"):
                return  # a constant that was asked to be what it is already
            raise MeasurementError(
                f"the network changes one of its own tensors with {name}: two runs would differ",
                hint="compute a new tensor instead",
            )
        call_args = tuple(self._argument(part) for part in args)
        call_kwargs = {key: self._argument(part) for key, part in kwargs.items()}
        numbers = tuple(range(self._num_values, self._num_values + len(results)))
        self._num_values += len(results)
        for number, tensor in zip(numbers, results, strict=True):
            self._values[id(tensor)] = number
            self._alive.append(tensor)
        self._calls.append(
            Call(
                function=name,
                args=call_args,
                kwargs=call_kwargs,
                results=numbers,
                unpacked=isinstance(result, list | tuple),
            )
        )

    def needed(self, output: "torch.Tensor") -> "tuple[tuple[Call, ...], dict[str, torch.Tensor], int]":
        """The calls, the constants that they take, and the number of the output."""
        number = self._values.get(id(output), -1)
        return tuple(self._calls) if number >= 0 else (), self._tensors, number

    def _argument(self, part: Any) -> Argument:  # noqa: ANN401
        import torch

        if isinstance(part, torch.Tensor):
            if id(part) in self._values:
                return Value(self._values[id(part)])
            return Constant(self._constant(part))
        if isinstance(part, torch.device):
            return TargetDevice()
        if isinstance(part, list | tuple):
            kind = list if isinstance(part, list) else tuple
            return kind(self._argument(inner) for inner in part)
        return part

    def _constant(self, tensor: "torch.Tensor") -> str:
        if id(tensor) not in self._constants:
            name = self._parameters.get(id(tensor), f"/constant/{len(self._constants)}")
            self._constants[id(tensor)] = name
            self._tensors[name] = tensor.detach()
            self._alive.append(tensor)
        return self._constants[id(tensor)]


def _leaves(arguments: Sequence[Any]) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, list | tuple):
            yield from _leaves(argument)
        else:
            yield argument
