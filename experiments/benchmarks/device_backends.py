"""Does a network stay the same on every device, and what does it take? One trained subnet on all device backends.

For every device variant that is available: how long its file takes to build (the second time, when runtime and
converter are loaded), how large it is, how far its outputs on test images are from PyTorch's (largest difference of a
logit, relative to PyTorch's largest), for how many images both give the same answer, the accuracy in the device's own
runtime beside PyTorch's in fp32, and what an inference costs: measured, simulated or estimated, as its unit says.

The subnet is that in the middle of the space of a trained run (--supernet), recalibrated; without one a supernet is
trained for an epoch of 2,000 images, enough for answers that differ between images. int8 files are calibrated with
256 training images. A device that cannot run the network is skipped with its reason.

    python -m experiments.benchmarks.device_backends --supernet RUN --out device_backends.json
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from experiments.benchmarks.supernet_step import subnets
from experiments.datasets import load_dataset
from experiments.recipe import load_recipe
from experiments.session import new_run
from experiments.workload import Workload, load_workload
from hardware.artifacts.artifact import Artifact
from hardware.device import Device, get_device, list_devices
from hardware.errors import DeviceError
from hardware.lease import UnitLock
from hardware.measurement import CostMeasurement
from hardware.measuring import measure
from hardware.protocol import PROTOCOLS
from nas.data import Examples, PreprocessedNetwork
from nas.deployment import Deployment
from nas.evaluation import SubnetJudge
from nas.training.context import LocalContext
from searchspaces.errors import Hinted

NAME = "device_backends"
RECIPE = Path(__file__).parents[1] / "recipes" / "fashion_mnist.yaml"
LARGEST_DIFFERENCE = 1e-4
FEWEST_SAME_ANSWERS = 0.8
_TRAIN_IMAGES, _TRAIN_BATCH = 2000, 32
_TORCH_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one device made of the network.

    Attributes:
        artifact: its file.
        first_build_s, build_s: seconds to write it, the first time and the second.
        relative_difference: largest difference of a logit from PyTorch's, over PyTorch's largest.
        same_answers: share of images for which both give the same class.
        accuracy: in the device's runtime.
        cost: of one inference.
    """

    artifact: Artifact
    first_build_s: float
    build_s: float
    relative_difference: float
    same_answers: float
    accuracy: float
    cost: CostMeasurement


def available_devices(asked: str | None, *, default: Sequence[str], report: BenchmarkReport) -> list[Device]:
    """The devices of a comma-separated list, or the default ones; those that are not available are skipped with a line.

    Raises:
        DeviceError: a device that nobody knows.
    """
    known = {status.device_id: status for status in list_devices()}
    devices = []
    for device_id in dict.fromkeys(default if asked is None else asked.split(",")):
        if device_id not in known:
            raise DeviceError(
                f"unknown device {device_id!r}, known are {', '.join(known)}", hint="name some of these in --devices"
            )
        if known[device_id].available:
            devices.append(get_device(device_id))
        else:
            report.skip(device_id, f"{known[device_id].reason}: {known[device_id].hint}")
    return devices


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = benchmark_parser(NAME, description=__doc__)
    parser.add_argument("--devices", metavar="A,B,...", help="[default: all of `nas devices list`]")
    parser.add_argument("--supernet", type=Path, metavar="RUN", help="a run with a trained supernet")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="trained a little without one [%(default)s]")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="test images [default: %(default)s]")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="standard", help="[default: %(default)s]")
    options, report = start(parser, argv)
    if options.images < 1:
        parser.error(f"--images is {options.images}, expected 1 or more")
    try:
        default = [status.device_id for status in list_devices()]
        devices = available_devices(options.devices, default=default, report=report)
        with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
            if options.supernet is None:
                workload = train_a_little(options.recipe, Path(folder) / "run", quick=options.quick)
            else:
                workload = load_workload(options.supernet)
            return _Comparison(workload, options=options, report=report, directory=Path(folder)).run(devices)
    except Hinted as e:
        parser.error(f"{e}; {e.hint}")


def train_a_little(recipe_path: Path, run_dir: Path, *, quick: bool) -> Workload:
    """Make the run of a recipe whose supernet has seen 2,000 images, or a quarter of them if `quick`.

    Where there are fewer they are shown several times.

    Raises:
        RecipeError, DataError, RunError, SpaceError: the recipe, its data or the directory are not as they must be.
    """
    num = _TRAIN_IMAGES // 4 if quick else _TRAIN_IMAGES
    recipe = load_recipe(recipe_path)
    data = load_dataset(recipe.data, seed=recipe.seed)
    epochs = math.ceil(num / len(data.train))
    short = (f"train.epochs={epochs}", "train.warmup_epochs=0", f"train.batch_size={_TRAIN_BATCH}")
    recipe = load_recipe(recipe_path, overrides=short)
    run = new_run(recipe, run_dir, num_classes=data.num_classes)
    workload = Workload(run=run, recipe=recipe, data=replace(data, train=data.train.first(num)))
    workload.train(LocalContext())
    return workload


class _Comparison:
    """One network, its test images and PyTorch's answers."""

    def __init__(
        self, workload: Workload, *, options: argparse.Namespace, report: BenchmarkReport, directory: Path
    ) -> None:
        self._report, self._directory = report, directory
        self._protocol = "quick" if options.quick else options.protocol
        self._data, space = workload.data, workload.run.space
        arch = subnets(space)["middle"]
        judge = SubnetJudge(
            workload.run.supernet(),
            data=workload.data,
            recalibration_images=workload.recipe.train.recalibration_images,
            seed=workload.recipe.seed,
        )
        self._network: nn.Module = judge.network(arch)
        self._shape = space.input_shape(arch)
        self._images: Examples = workload.data.report.first(100 if options.quick else options.images)
        report.note("architecture", arch.to_json())
        report.note("space_id", space.space_id)
        report.note("supernet", "trained a little" if options.supernet is None else str(options.supernet))
        report.note("checkpoint", workload.run.checkpoint_dir().name)
        report.note("protocol", self._protocol)
        report.note("images", len(self._images))
        report.add("subnet/macs", int(space.op_table(space.genomes([arch])).macs.sum()))

    def run(self, devices: Sequence[Device]) -> int:
        """Compare, device by device, and report."""
        report, labels_N = self._report, self._images.labels_N
        preprocessing = self._data.preprocessing
        network = PreprocessedNetwork(self._network, preprocessing=preprocessing, shape=self._shape).eval()
        with torch.inference_mode():
            torch_NC = torch.cat([network(x) for x in self._images.inputs.split(_TORCH_BATCH)])
        accuracy = float((torch_NC.argmax(dim=1) == labels_N).double().mean())
        report.add("pytorch/accuracy", accuracy)
        rows = [["PyTorch, fp32", "", "", f"{accuracy:.2%}", "", "", "", ""]]
        for device in devices:
            device_id = device.spec.device_id
            try:
                found = self._try(device, torch_NC=torch_NC)
            # One that cannot run this network does not take the others away.
            except Hinted as e:
                report.skip(device_id, f"{e}; {e.hint}")
                continue
            self._record(device_id, found)
            rows.append(_row(device_id, found))
            report.say(f"{device_id}: done")
            report.save()
        headings = [
            *("device", "difference", "same answers", "accuracy"),
            *("KiB", "build s", "cost", "provenance"),
        ]
        report.show(f"One subnet on {len(rows) - 1} devices, {len(labels_N)} images", headings=headings, rows=rows)
        return report.finish()

    def _try(self, device: Device, *, torch_NC: torch.Tensor) -> Found:
        deployment = Deployment(device, data=self._data)
        path = self._directory / f"{device.spec.device_id}.{device.backend.artifact_format}"
        build_s = []
        with UnitLock(device.spec.physical_unit()).computing(owner=f"{NAME} on {device.spec.device_id}"):
            for _ in range(2):
                started_s = time.perf_counter()
                artifact = deployment.build(self._network, shape=self._shape, path=path)
                build_s.append(time.perf_counter() - started_s)
            found_NC = logits(device, artifact, self._images.inputs)
        answers_N = found_NC.argmax(dim=1)
        return Found(
            artifact=artifact,
            first_build_s=build_s[0],
            build_s=build_s[1],
            relative_difference=float((found_NC - torch_NC).abs().max() / torch_NC.abs().max()),
            same_answers=float((answers_N == torch_NC.argmax(dim=1)).double().mean()),
            accuracy=float((answers_N == self._images.labels_N).double().mean()),
            cost=measure(device, artifact, protocol=self._protocol, owner=f"{NAME} on {device.spec.device_id}"),
        )

    def _record(self, device_id: str, found: Found) -> None:
        add, cost, is_exact = self._report.add, found.cost, found.artifact.precision == "fp32"
        add(
            f"{device_id}/relative_difference",
            found.relative_difference,
            at_most=LARGEST_DIFFERENCE if is_exact else None,
        )
        add(f"{device_id}/same_answers", found.same_answers, at_least=None if is_exact else FEWEST_SAME_ANSWERS)
        add(f"{device_id}/accuracy", found.accuracy)
        add(f"{device_id}/size_bytes", found.artifact.size_bytes)
        add(f"{device_id}/first_build_s", found.first_build_s)
        add(f"{device_id}/build_s", found.build_s)
        add(f"{device_id}/cost/{cost.quantity}", cost.reported)
        add(f"{device_id}/cost/low", cost.low)
        add(f"{device_id}/cost/high", cost.high)
        add(f"{device_id}/cost/unit", cost.unit)
        add(f"{device_id}/cost/provenance", cost.provenance)
        add(f"{device_id}/cost/suspect", cost.suspect_reason if cost.suspect else "no")
        for name, value in cost.also.items():
            add(f"{device_id}/cost/{name}", value)


def logits(device: Device, artifact: Artifact, inputs: torch.Tensor) -> torch.Tensor:
    """Outputs (N, classes) of an artifact in the device's runtime on this host.

    Args:
        device: runs it.
        artifact: takes raw inputs.
        inputs: (N, ...) raw, any N >= 1: a last batch that is short is filled up.
    """
    session, batch = device.backend.load(artifact, spec=device.spec), device.spec.batch
    found = []
    try:
        for part in inputs.split(batch):
            filled = torch.cat([part, part[-1:].expand(batch - len(part), *part.shape[1:])])
            output = session.predict(np.ascontiguousarray(filled.to(torch.float32).numpy()))
            found.append(torch.from_numpy(output[: len(part)].copy()))
    finally:
        session.close()
    return torch.cat(found)


def _row(device_id: str, found: Found) -> list[str]:
    cost = found.cost
    is_time = cost.provenance == "measured"
    shown = f"{cost.p50:.4f} ({cost.low:.4f} - {cost.high:.4f}) ms" if is_time else f"{cost.p50:,.0f} {cost.unit}"
    return [
        device_id,
        f"{found.relative_difference:.1e}",
        f"{found.same_answers:.2%}",
        f"{found.accuracy:.2%}",
        f"{found.artifact.size_bytes / 1024:,.0f}",
        f"{found.build_s:.2f}",
        shown,
        cost.provenance + (" (suspect)" if cost.suspect else ""),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
