"""What a network was seen to cost while it ran: the independent side of `cost_models`, without any of the analysis.

An FX interpreter runs the traced network and notes of every tensor its size, the step that wrote it and the last step
that read it; torch's own counter (`torch.utils.flop_counter`, two operations a MAC) counts beside it.

The analysis counts a convolution, its batch normalisation and its activation as one operator, FX has a node for each.
So nodes are fused into steps: a normalisation, activation, dropout or flattening that is the only reader of what it
reads belongs to the step that wrote it, and only the last tensor of such a chain exists (all of them are equally large,
which is checked). Everything else is a step of its own. A squeeze-excite unit is one operator of the analysis and four
steps here (pool, two convolutions, product), so what counts for it is the largest of the four. Inputs and outputs of a
step exist side by side, and the network's input is a tensor like any other.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from searchspaces.elastic.blocks import SqueezeExcite

_FUSED = (
    *(nn.BatchNorm1d, nn.BatchNorm2d),
    *(nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid),
    *(nn.Dropout, nn.Flatten),
)


@dataclass(slots=True, kw_only=True)
class Lifetime:
    """One tensor: its size, the step that wrote it (0 for the network's input) and the last one that read it."""

    name: str
    num_bytes: int
    birth: int
    last_use: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a network was seen to do with one input.

    Attributes:
        macs: half of what torch's counter counts.
        params: learnable parameters.
        lifetimes: of all tensors, in the order in which they were written.
        units: one entry a step: the path of the squeeze-excite unit that it belongs to, or "".
    """

    macs: int
    params: int
    lifetimes: tuple[Lifetime, ...]
    units: tuple[str, ...]

    def alive_bytes(self, step: int) -> int:
        """Bytes of the tensors that exist during a step."""
        return sum(tensor.num_bytes for tensor in self.lifetimes if tensor.birth <= step <= tensor.last_use)

    @property
    def peak_bytes(self) -> int:
        """The most bytes that exist during a step."""
        return max(self.alive_bytes(step) for step in range(len(self.units)))

    @property
    def bytes_by_operator(self) -> list[int]:
        """Bytes that exist during each operator; of the steps of a squeeze-excite unit the most."""
        steps = itertools.groupby(enumerate(self.units), key=lambda step: step[1] or step[0])
        return [max(self.alive_bytes(step) for step, _ in group) for _, group in steps]


def observe(network: nn.Module, example: torch.Tensor, *, leaves: tuple[type[nn.Module], ...] = ()) -> Observation:
    """Run a network of plain torch layers once and note what it does.

    Args:
        network: takes one tensor, returns one; it is set to evaluation mode.
        example: a batch of one input.
        leaves: modules that count as one step, whatever is inside.

    Raises:
        TypeError: the network has a node that gives no tensor.
        ValueError: it has one of the fused layers where its output is of another size than its input.
    """
    recorder = _Recorder(fx.GraphModule(network.eval(), _Tracer(leaves).trace(network)))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        recorder.run(example)
    flops = counter.get_total_flops()
    assert flops % 2 == 0, "two operations a MAC"
    return Observation(
        macs=flops // 2,
        params=sum(parameter.numel() for parameter in network.parameters()),
        lifetimes=recorder.lifetimes,
        units=tuple(recorder.units),
    )


class _Tracer(fx.Tracer):
    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)


class _Recorder(fx.Interpreter):
    """Runs a traced network and writes down the life of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.units: list[str] = []
        self._lifetime: dict[fx.Node, Lifetime] = {}

    @property
    def lifetimes(self) -> tuple[Lifetime, ...]:
        """Fused nodes share theirs, so each is taken once."""
        return tuple({id(tensor): tensor for tensor in self._lifetime.values()}.values())

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as in the base class
        result = super().run_node(n)
        if n.op == "output":
            return result
        if not isinstance(result, torch.Tensor):
            raise TypeError(f"{n.format_node()} gives a {type(result).__name__}, only tensors have a size")
        if self._is_fused(n):
            tensor = self._lifetime[n] = self._lifetime[n.all_input_nodes[0]]
            if tensor.num_bytes != result.nbytes:
                raise ValueError(f"{n.format_node()} changes the size of its input, it cannot be fused")
            return result
        step = len(self.units)
        for source in n.all_input_nodes:
            self._lifetime[source].last_use = step
        if n.op == "placeholder":
            # There before the first step, for as long as it is read.
            self._lifetime[n] = Lifetime(name=n.name, num_bytes=result.nbytes, birth=0, last_use=-1)
        else:
            self._lifetime[n] = Lifetime(name=n.name, num_bytes=result.nbytes, birth=step, last_use=step)
            self.units.append(_unit(n))
        return result

    def _is_fused(self, n: fx.Node) -> bool:
        if n.op != "call_module" or not isinstance(self.fetch_attr(str(n.target)), _FUSED):
            return False
        (source,) = n.all_input_nodes
        return len(source.users) == 1


def _unit(n: fx.Node) -> str:
    """Path of the squeeze-excite unit that a node belongs to, or ""."""
    stack: Mapping[str, tuple[str, type]] = n.meta.get("nn_module_stack", {})
    return next((path for path, kind in stack.values() if issubclass(kind, SqueezeExcite)), "")
