"""Networks that backends are tested with, beside the small one of the contract."""

import numpy as np
import torch
from torch import nn

from nas.data import PreprocessedNetwork, Preprocessing
from searchspaces import get_space

RAW_SHAPE = (1, 28, 28)
_RAW = Preprocessing(mean=(72.9,), std=(90.0,))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = nn.functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.expand(weights))


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, *, activation: type[nn.Module]) -> None:
        super().__init__()
        wide = 4 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
            SqueezeExcite(wide),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.layers(x)
        return x + changed


def raw_images(num: int, *, seed: int = 0) -> torch.Tensor:
    """Images (num, 1, 28, 28) with values 0..255: smooth, as pictures are, and not noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (num, 1, 5, 5)).astype(np.float32))
    return nn.functional.interpolate(coarse, size=RAW_SHAPE[1:], mode="bicubic").clamp(0, 255).round()


def elaborate_network() -> nn.Module:
    """Normalisation, resizing, hard-swish, ReLU6, squeeze-excite, depthwise, shortcuts: all that our spaces have."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        InvertedResidual(16, activation=nn.Hardswish),
        InvertedResidual(16, activation=nn.ReLU6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 32),
        nn.ReLU(inplace=True),
        nn.Linear(32, 10),
    )
    return _warmed_up(PreprocessedNetwork(network, preprocessing=_RAW, shape=(1, 24, 24)))


def real_subnet() -> nn.Module:
    """A subnet of a shipped space with its preprocessing, batch norms fitted to the images, weights random."""
    space = get_space("mbconv-small")
    arch = space.sample(np.random.default_rng(3))
    torch.manual_seed(0)
    network = space.build_supernet(num_classes=10).extract(arch)
    return _warmed_up(PreprocessedNetwork(network, preprocessing=_RAW, shape=space.input_shape(arch)))


def _warmed_up(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for _ in range(20):
            network.train()(raw_images(32, seed=7))
    return network.eval()


def outputs(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = network(images).numpy()
    return found


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest output."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
