"""The optimiser of every training: supernets, their phases, and refinement."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import nn

from nas.errors import TrainingError
from nas.training.settings import OptimizerName

MOMENTUM = 0.9
# Adam counts its updates for every parameter, in main memory wherever the parameter is.
_COUNTER = "step"


def make_optimizer(
    network: nn.Module, *, name: OptimizerName = "sgd", learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimiser of a network's parameters, without a state yet.

    Args:
        network: what is trained.
        name: "sgd", with Nesterov momentum .9; or "adamw", Adam (betas .9 and .999) with decoupled weight decay
            (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101).
        learning_rate: of the first step.
        weight_decay: not on norms and biases. With "sgd" it is added to the gradient, with "adamw" a step takes the
            share learning_rate x weight_decay off the weights: useful values are about a hundred times larger.

    Raises:
        TrainingError: unknown name.
    """
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate)
    known = ", ".join(get_args(OptimizerName))
    raise TrainingError(f"unknown optimizer {name!r}", hint=f"train.optimizer is one of {known}")


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The state of an optimiser, for checkpoints.

    Args:
        optimizer: from `make_optimizer`.
        parameters: its parameters by name.

    Returns:
        The optimiser's own tensors, not copies, as "KIND/NAME": "momentum_buffer/NAME" of SGD; "exp_avg/NAME",
        "exp_avg_sq/NAME" and "step/NAME" of AdamW. Parameters that had no gradient so far have none.
    """
    return {
        f"{kind}/{name}": tensor
        for name, parameter in parameters.items()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
        if tensor is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Give a fresh optimiser the state of another one, copied to where its parameters are.

    Args:
        optimizer: a new one from `make_optimizer`.
        parameters: its parameters by name.
        tensors: what `optimizer_tensors` returned.
    """
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        # In the parameter's memory layout, as the optimiser itself makes them: layouts can differ in the last bit.
        copied = tensor.cpu().clone() if kind == _COUNTER else torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][kind] = copied
