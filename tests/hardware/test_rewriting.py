"""What is changed in modules before they are converted: resizing becomes convolutions, batch norms are folded."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hardware.artifacts.folding import with_folded_batch_norms
from hardware.artifacts.resizing import LARGEST_SIZE, resizes_as_convolutions


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every convolution that is computed."""
    called: list[str] = []
    real = functional.conv2d

    def counted(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        called.append("conv2d")
        return real(x, kernel)

    monkeypatch.setattr(functional, "conv2d", counted)
    return called


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (2, 3, 28, 20), (1, 4, 1, 7)])
@pytest.mark.parametrize("size", [(20, 20), (56, 31), 9])
def test_images_are_resized_by_two_convolutions(
    shape: tuple[int, ...], size: int | tuple[int, int], convolutions: list[str]
) -> None:
    x = noise(*shape)
    expected = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    with resizes_as_convolutions():
        found = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)
    assert len(convolutions) == 2


@pytest.mark.parametrize("size", [7, 50])
def test_series_are_resized_by_one_convolution(size: int, convolutions: list[str]) -> None:
    x = noise(2, 3, 33)
    with resizes_as_convolutions():
        found = functional.interpolate(x, size=size, mode="linear", align_corners=False)
    assert torch.allclose(found, functional.interpolate(x, size=size, mode="linear"), atol=1e-5)
    assert len(convolutions) == 1


@pytest.mark.parametrize(
    ("length", "choice"),
    [
        (28, {"size": (20, 20), "mode": "nearest"}),
        (28, {"size": (20, 20), "mode": "bilinear", "align_corners": True}),
        (28, {"size": (20, 20), "mode": "bilinear", "antialias": True}),
        (28, {"scale_factor": 0.5, "mode": "bilinear"}),
        (LARGEST_SIZE + 1, {"size": (20, 20), "mode": "bilinear"}),
    ],
)
def test_other_resizing_stays_as_it_is(length: int, choice: dict[str, object], convolutions: list[str]) -> None:
    x = noise(1, 1, length, length)
    with resizes_as_convolutions():
        found = functional.interpolate(x, **choice)  # type: ignore[arg-type]
    assert torch.equal(found, functional.interpolate(x, **choice))  # type: ignore[arg-type]
    assert not convolutions


class Doubled(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def fitted(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        network.train()(3 * noise(64, 2, 9, 9) + 1)
    return network


def num_batch_norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_batch_norms_after_convolutions_are_folded_into_a_copy() -> None:
    shared = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4))
    network = fitted(nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), shared, shared))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = with_folded_batch_norms(network)
    assert network.training
    assert not folded.training
    assert num_batch_norms(folded) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    x = noise(3, 2, 9, 9)
    assert torch.allclose(folded(x), network.eval()(x), atol=1e-5)


def test_only_pairs_that_are_known_to_be_linear_are_folded() -> None:
    network = fitted(
        nn.Sequential(
            nn.BatchNorm2d(2),
            Doubled(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4, track_running_stats=False),
        )
    )
    folded = with_folded_batch_norms(network)
    assert num_batch_norms(folded) == 4
    x = noise(3, 2, 9, 9)
    assert torch.allclose(folded(x), network.eval()(x), atol=1e-6)
