import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hardware.artifacts.cmsis import CmsisNetwork, build_cmsis, open_cmsis, read_cmsis
from hardware.artifacts.cmsis_capture import simplified, widest_inputs
from hardware.errors import MeasurementError, StorageError
from hardware.testing import INPUT_SHAPE, calibration_inputs, example_network

pytest.importorskip("bakenn")


class Normalised(nn.Module):
    """Raw values in, scaled by channel and resized before the network."""

    def __init__(self, network: nn.Module, *, size: tuple[int, ...] | None) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor((100.0, 120.0, 140.0)).view(1, -1, *([1] * (x.ndim - 2)))
        std = torch.tensor((40.0, 50.0, 60.0)).view(1, -1, *([1] * (x.ndim - 2)))
        x = (x.to(torch.float32) - mean) / std
        if self.size is not None:
            x = functional.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        y: torch.Tensor = self.network(x)
        return y


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = functional.hardsigmoid(self.expand(functional.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * scale


def image_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU6(),
        SqueezeExcite(8),
        nn.Conv2d(8, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


def series_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


def raw(*shape: int) -> torch.Tensor:
    """Raw values 0..255, both ends reached."""
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape).astype(np.float32))
    x[:, 0].view(len(x), -1)[:, :2] = torch.tensor([0.0, 255.0])
    return x


def built(module: nn.Module, x: torch.Tensor, path: Path) -> CmsisNetwork:
    artifact = build_cmsis(module, example=x[:1], calibration=x, path=path)
    return read_cmsis(artifact.read_checked(), path=path)


def assert_close(network: CmsisNetwork, module: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        expected = module(x).numpy()
    found = network.dequantized(network.infer_in_python(network.quantized(x.numpy())))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("size", [None, (6, 6)])
def test_normalisation_resizing_and_squeeze_excite_are_part_of_the_network(
    tmp_path: Path, size: tuple[int, ...] | None
) -> None:
    module = Normalised(image_network(), size=size).eval()
    x = raw(3, 3, 8, 8)
    network = built(module, x, tmp_path / "n.cmsis")
    assert network.input_shape == (1, 3, 8, 8)
    assert_close(network, module, x[2:])
    # Raw bytes are exact: the input's scale is 1.
    values = np.frombuffer(network.quantized(x[:1].numpy()), dtype=np.int8).reshape(1, 8, 8, 3)
    assert np.array_equal(values.astype(int) + 128, np.moveaxis(x[:1].numpy(), 1, -1))


def test_a_network_of_series_is_compiled(tmp_path: Path) -> None:
    module = Normalised(series_network(), size=None).eval()
    x = raw(3, 3, 40)
    network = built(module, x, tmp_path / "n.cmsis")
    assert network.input_shape == (1, 3, 40)
    assert_close(network, module, x[2:])


def test_the_simplified_module_computes_the_same_and_the_module_stays_as_it_was() -> None:
    module = Normalised(image_network(), size=(6, 6)).train()
    x = raw(1, 3, 8, 8)
    graph_module = simplified(module, example=x)
    assert all(part.training for part in module.modules() if not isinstance(part, nn.Sequential) or part.training)
    assert module.training
    with torch.no_grad():
        (found,) = graph_module(x)
        assert torch.allclose(found, module.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: 3.0 - x,
        lambda x: (x + 1.0) * torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1),
        lambda x: torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1) * x / 7.0 - 1.0,
    ],
    ids=["reversed", "per-channel", "chain"],
)
def test_every_chain_of_shifts_and_scales_becomes_one_convolution(forward: object) -> None:
    class Chain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = functional.relu(forward(x))  # type: ignore[operator]
            return y

    x = raw(1, 3, 8, 8)
    graph_module = simplified(Chain(), example=x)
    targets = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]
    assert targets == ["aten.conv2d.default", "aten.relu.default"]
    with torch.no_grad():
        assert torch.allclose(graph_module(x)[0], Chain()(x), rtol=1e-5, atol=1e-4)


def test_unknown_operators_are_all_named(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Conv2d(2, 2, 3), nn.ELU(), nn.Flatten(), nn.Linear(128, 2))
    x = torch.rand(1, 1, 12, 12)
    with pytest.raises(MeasurementError, match=r"aten\.elu\.default, aten\.gelu\.default") as caught:
        build_cmsis(module, example=x, calibration=x, path=tmp_path / "n.cmsis")
    assert "aten.hardswish.default" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_constant_that_differs_within_a_channel_is_not_folded_but_refused(tmp_path: Path) -> None:
    class Mask(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (torch.arange(12.0) + 1)

    x = torch.rand(1, 1, 12, 12)
    with pytest.raises(MeasurementError, match=r"aten\.div\.Tensor"):
        build_cmsis(Mask(), example=x, calibration=x, path=tmp_path / "n.cmsis")


def test_what_bakenn_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    module = nn.Sequential(nn.AvgPool2d(3, padding=1), nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(1, 1, 12, 12)
    with pytest.raises(MeasurementError, match="count_include_pad"):
        build_cmsis(module, example=x, calibration=x, path=tmp_path / "n.cmsis")


def test_another_batch_than_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="one float32 input at a time"):
        build_cmsis(
            example_network(),
            example=torch.zeros(2, *INPUT_SHAPE),
            calibration=calibration_inputs(),
            path=tmp_path / "n.cmsis",
        )


def test_the_same_module_gives_the_same_file_and_its_sources_are_inside(tmp_path: Path) -> None:
    x = calibration_inputs()[:1]
    files = [build_cmsis(example_network(), example=x, calibration=x, path=tmp_path / f"{name}.cmsis") for name in "ab"]
    assert files[0].sha256 == files[1].sha256
    with zipfile.ZipFile(files[0].path) as archive:
        names = archive.namelist()
    assert "c/bknn_network.c" in names
    assert any(name.endswith("arm_convolve_s8.c") for name in names)
    assert any(name.endswith("LICENSE.txt") for name in names)
    again = open_cmsis(files[0].path)
    assert again == files[0]
    with pytest.raises(StorageError):
        open_cmsis(tmp_path / "none.cmsis")


def test_the_widest_inputs_are_chosen() -> None:
    calibration = calibration_inputs() * 0.1
    calibration[17] *= 50
    calibration[40] *= 20
    graph_module = simplified(example_network(), example=calibration[:1])
    chosen = widest_inputs(graph_module, calibration=calibration, num=2)
    assert torch.equal(chosen[0], calibration[17])
    assert len(chosen) == 2
    assert not torch.equal(chosen[0], chosen[1])
    assert torch.equal(widest_inputs(graph_module, calibration=calibration[:2], num=4), calibration[:2])


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    x = calibration_inputs()[:1]
    build_cmsis(example_network(), example=x, calibration=x, path=tmp_path / "n.cmsis")
    assert capfd.readouterr() == ("", "")


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    x = calibration_inputs()[:1]
    network = built(example_network(), x, tmp_path / "n.cmsis")
    with pytest.raises(MeasurementError, match="NaN or infinity"):
        network.quantized(np.full((1, *INPUT_SHAPE), np.nan, dtype=np.float32))
