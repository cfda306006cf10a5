"""Runs under an interpreter that has the once-for-all reference package: random networks and what they answer.

Usage: PYTHON ofa_reference.py REQUEST.json DIRECTORY. The request names our space, a seed, the resolutions, the
batch and how many subnets to draw. The directory receives checkpoint.pth (the layout of the published
files), subnets.json (the settings of each subnet and the package's version) and answers.npz (images_R of shape
(N, 3, R, R) for each resolution R, and logits of shape (subnets, N, classes)).
"""

import importlib
import json
import random
import sys
import types
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

_CALIBRATION_IMAGES = 8

_MBCONV_CHOICES = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
_RESNET_CHOICES = {
    "depth_list": [0, 1, 2],
    "expand_ratio_list": [0.2, 0.25, 0.35],
    "width_mult_list": [0.65, 0.8, 1.0],
}
# Class of the reference package for each of our spaces, with the arguments of its own model zoo.
NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ofa-mobilenetv3-w1.0": ("OFAMobileNetV3", {"dropout_rate": 0.0, "width_mult": 1.0, **_MBCONV_CHOICES}),
    "ofa-mobilenetv3-w1.2": ("OFAMobileNetV3", {"dropout_rate": 0.0, "width_mult": 1.2, **_MBCONV_CHOICES}),
    "ofa-proxyless-w1.3": ("OFAProxylessNASNets", {"dropout_rate": 0.0, "width_mult": 1.3, **_MBCONV_CHOICES}),
    "ofa-resnet50d": ("OFAResNets", {"dropout_rate": 0.0, **_RESNET_CHOICES}),
}


def reference_network(space_id: str, **arguments: object) -> Any:  # noqa: ANN401 - a foreign class without types
    """A new network of the reference package; `arguments` are added to those of `NETWORKS`."""
    # The package imports torchvision for its data loaders, which are not used here: empty modules are enough.
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: types.ModuleType(name) for name in names}
    vars(modules["torchvision.transforms"])["RandomResizedCrop"] = object
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    sys.modules.update(modules)
    networks = importlib.import_module("ofa.imagenet_classification.elastic_nn.networks")
    name, usual = NETWORKS[space_id]
    return getattr(networks, name)(**usual, **arguments)


def _images(number: int, *, resolution: int, generator: torch.Generator) -> torch.Tensor:
    """Coarse and fine noise, (N, 3, R, R): fine noise alone looks the same to a network, whatever the image."""
    coarse_NCHW = torch.randn(number, 3, 4, 4, generator=generator)
    fine_NCHW = torch.randn(number, 3, resolution, resolution, generator=generator)
    return nn.functional.interpolate(coarse_NCHW, size=resolution) + 0.5 * fine_NCHW


def _randomise(network: Any, *, resolution: int, generator: torch.Generator) -> None:  # noqa: ANN401
    """Make everything that a wrong import could confuse distinct: kernel transforms, normalisations, biases.

    The running statistics are those of the largest subnet, disturbed: with statistics that fit nothing, the signal
    would die on its way and the answers would hardly depend on the images.
    """

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator).clamp(-1.5, 1.5)

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("_matrix"):
                # A smaller kernel sums fewer numbers: scaled so, all are equally loud and no subnet blows up or fades.
                large, small = (int(size) for size in name.rpartition(".")[2].removesuffix("_matrix").split("to"))
                parameter.add_(0.1 * noise(parameter)).mul_(large / small)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise(parameter))
        for norm in norms:
            norm.weight.copy_(1.0 + 0.3 * noise(norm.weight))
            norm.momentum = 1.0
        network.set_active_subnet(**subnet_settings(network, number=0))
        network.train()(_images(_CALIBRATION_IMAGES, resolution=resolution, generator=generator))
        for norm in norms:
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            mean.add_(0.1 * variance.sqrt() * noise(mean))
            variance.mul_(1.0 + 0.2 * noise(variance))
    network.eval()


def subnet_settings(network: Any, *, number: int) -> dict[str, list[Any]]:  # noqa: ANN401
    """The largest subnet, then the smallest, then random ones."""
    settings: dict[str, list[Any]] = network.sample_active_subnet()
    if number > 1:
        return settings
    pick = min if number else max
    choices = {
        "ks": getattr(network, "ks_list", None),
        "e": network.expand_ratio_list,
        "d": network.depth_list,
        "w": range(len(getattr(network, "width_mult_list", [0]))),
    }
    return {name: [pick(choices[name])] * len(values) for name, values in settings.items()}


def _run(request: Mapping[str, Any], directory: Path) -> None:
    random.seed(request["seed"])
    torch.manual_seed(request["seed"])
    torch.set_num_threads(request["threads"])
    generator = torch.Generator().manual_seed(request["seed"])
    network = reference_network(request["space"])
    resolutions = request["resolutions"]
    images = {r: _images(request["batch"], resolution=r, generator=generator) for r in resolutions}
    _randomise(network, resolution=resolutions[0], generator=generator)
    subnets, logits = [], []
    for number in range(request["subnets"]):
        settings = subnet_settings(network, number=number)
        network.set_active_subnet(**settings)
        resolution = resolutions[number % len(resolutions)]
        with torch.no_grad():
            logits.append(network(images[resolution]).numpy())
        subnets.append({"settings": settings, "resolution": resolution})
    torch.save({"state_dict": network.state_dict()}, directory / "checkpoint.pth")
    arrays: dict[str, Any] = {f"images_{r}": image.numpy() for r, image in images.items()}
    np.savez(directory / "answers.npz", logits=np.stack(logits), **arrays)
    facts = {"subnets": subnets, "versions": {"ofa": version("ofa"), "torch": torch.__version__}}
    (directory / "subnets.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    _run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
