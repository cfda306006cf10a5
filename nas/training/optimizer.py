"""The optimiser of every training: supernets, their phases, and refinement."""

import torch
from torch import nn

MOMENTUM = 0.9


def make_optimizer(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum .9; weight decay not on norms and biases."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)
