"""Makes a finished network faster without changing what it computes: for judging, never for keeping."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from nas.recalibration import Convolution, Norm


def fold_norms(network: nn.Module) -> None:
    """Fold normalisations into the convolution before them and let activations overwrite their input; in place.

    Layers are neighbours where an `nn.Sequential` lists them one after the other; all others are left alone.
    Logits stay equal up to rounding.

    Args:
        network: in eval mode, with its final statistics. Its convolutions get biases, its normalisations are lost.
    """
    for parent in list(network.modules()):
        if not isinstance(parent, nn.Sequential):
            continue
        convolution: Convolution | None = None
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Convolution):
                convolution = layer
            elif isinstance(layer, Norm) and convolution is not None:
                _fold(layer, into=convolution)
                setattr(parent, name, nn.Identity())
            else:
                if convolution is not None and hasattr(layer, "inplace"):
                    setattr(layer, "inplace", True)  # noqa: B010  # the types of nn.Module know tensors only
                convolution = None


def _fold(norm: Norm, *, into: Convolution) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        into.weight, into.bias = fuse_conv_bn_weights(
            into.weight, into.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
