"""BN recalibration: an extracted subnet gets the statistics of its own activations."""

import itertools
from collections.abc import Iterable

import torch
from torch import nn

from nas.errors import TrainingError

Norm = nn.BatchNorm1d | nn.BatchNorm2d
Convolution = nn.Conv1d | nn.Conv2d


def recalibrate(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Give a network's batch normalisations the statistics of its own activations; leaves it in eval mode.

    Every layer normalises by the batch while mean and biased variance are collected, averaged over the batches
    weighted by their size; all other layers work as in eval mode (Cai et al., Once-for-All, ICLR 2020, and its
    published code). Inherited statistics would belong to other subnets. If a batch fails, nothing is changed.

    Args:
        network: a network with `nn.BatchNorm1d` or `nn.BatchNorm2d` layers, for inputs (N, C), (N, C, T), (N, C, H, W).
        batches: prepared training inputs, at least one batch.

    Raises:
        TrainingError: no batch; nothing is changed.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise TrainingError(
            "recalibration got no batch of training inputs", hint="give it at least one, prepared at the network's size"
        )
    network.eval()
    # A holder, so that every layer is a child of something, even where the network itself is one layer.
    holder = nn.Sequential(network)
    collectors: dict[Norm, _CollectingNorm] = {}
    places: list[tuple[nn.Module, str, Norm]] = []
    for parent in holder.modules():
        before: nn.Module | None = None
        for name, layer in parent.named_children():
            if isinstance(layer, Norm):
                collector = collectors.setdefault(layer, _CollectingNorm(layer))
                # The output of a convolution in a row of layers is nobody else's input.
                collector.in_place &= isinstance(parent, nn.Sequential) and isinstance(before, Convolution)
                places.append((parent, name, layer))
            before = layer
    try:
        for parent, name, norm in places:
            setattr(parent, name, collectors[norm])
        with torch.no_grad():
            for x in itertools.chain([first], batches):
                holder(x)
    finally:
        for parent, name, norm in places:
            setattr(parent, name, norm)
    for norm, collector in collectors.items():
        collector.write(norm)


class _CollectingNorm(nn.Module):
    """Stands in for a batch normalisation: normalises by the batch and adds up the batches' statistics."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.in_place = True
        assert norm.running_mean is not None
        self._eps = norm.eps
        self._images = 0
        self._mean = torch.zeros_like(norm.running_mean)
        self._var = torch.zeros_like(norm.running_mean)
        self._weight = norm.weight.detach() if norm.affine else torch.ones_like(norm.running_mean)
        self._bias = norm.bias.detach() if norm.affine else torch.zeros_like(norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, ...) by its own mean and biased variance."""
        # Mean and biased variance in one call that reads the memory in any layout at full speed; torch.var does not.
        mean_C, var_C = torch.batch_norm_update_stats(x, None, None, 0.0)
        self._images += len(x)
        self._mean += len(x) * mean_C
        self._var += len(x) * var_C
        scale_C = self._weight * torch.rsqrt(var_C + self._eps)
        shift_C = self._bias - mean_C * scale_C
        per_channel = (1, -1, *(1 for _ in x.shape[2:]))
        scale, shift = scale_C.view(per_channel), shift_C.view(per_channel)
        return torch.addcmul(shift, x, scale, out=x) if self.in_place else torch.addcmul(shift, x, scale)

    def write(self, norm: Norm) -> None:
        """Give `norm` the averages."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(self._mean / self._images)
        norm.running_var.copy_(self._var / self._images)
