"""Trains single architectures from scratch until longer training no longer pays; several processes can share the work.

The rate rises in one epoch, stays constant, and falls linearly to zero over the last quarter (warm-up, stable, decay:
Hu et al., arXiv 2404.06395; Haegele et al., arXiv 2405.18392). All lengths of one training share the constant part:
length 16 goes on where length 8 began to decay, so that trying 8, 16 and 32 epochs costs 38 and not 56.
"""

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hardware.files import JSON, read_json, write_json
from nas.accuracy import predict_classes
from nas.data import DataSplits, Examples, Preprocessing
from nas.training.augmentation import augment
from nas.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from nas.training.distillation import label_loss
from nas.training.finished import finished_checkpoints
from nas.training.optimizer import make_optimizer
from nas.training.schedules import shard_batches
from searchspaces import Architecture, SearchSpace

SPLITS = ("search", "verify", "report")
_KINDS = ("resolution", "depth", "kernel", "expand")
_POLL_SECONDS = 10.0
_SELECTION = 7  # keeps the choice of subnets independent of other uses of the seed


@dataclass(frozen=True, slots=True, kw_only=True)
class AloneSettings:
    """How every architecture is trained; the supernet's own optimiser and augmentation.

    Attributes:
        batch_size: images a step.
        learning_rate: the constant rate of SGD with Nesterov momentum .9.
        weight_decay: on convolution and linear weights only.
        label_smoothing: of the loss.
        gradient_clip: largest norm of the gradient.
        lengths: numbers of epochs that are tried, ascending multiples of 4.
    """

    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 3e-5
    label_smoothing: float = 0.1
    gradient_clip: float = 5.0
    lengths: tuple[int, ...] = (8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """One finished training.

    Attributes:
        seed: of weights, order and augmentation.
        epochs: length of the training.
        correct: correctly classified images of each split.
        seconds: computing time of this length, without the epochs shared with the length before.
    """

    seed: int
    epochs: int
    correct: Mapping[str, int]
    seconds: float


def rate_at(step: int, *, peak: float, warmup_steps: int, decay_from: int, num_steps: int) -> float:
    """Learning rate of `step` (from 0): linear warm-up, constant, then linear to zero from step `decay_from` on."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return peak * min(1.0, (num_steps - step) / (num_steps - decay_from + 1))


def fresh_network(space: SearchSpace, arch: Architecture, *, num_classes: int, seed: int) -> nn.Module:
    """The plain network of `arch`, initialised by itself: convolutions by He's rule for fan-out, as in the supernet."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = space.build_supernet(num_classes=num_classes).extract(arch)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def choose_subnets(
    space: SearchSpace, *, num: int, band: tuple[float, float], beside: tuple[float, float], seed: int
) -> list[Architecture]:
    """Pick `num` architectures, the first half with MACs inside `band`, the rest at steps of equal ratio over `beside`.

    Out of 20,000 drawn ones, each pick is the one whose shape differs most from those before. Shape is the mean
    position of the resolution, depth, kernel and expand genes among their values, 0 to 1.
    """
    genomes_NG = space.sample_many(20_000, np.random.default_rng((seed, _SELECTION)))
    macs_N = space.op_table(genomes_NG).macs.sum(axis=1)
    shapes_NK = _shapes(space, genomes_NG)
    inside = num - num // 2
    limits = [band] * inside + [(0.97 * m, 1.03 * m) for m in np.geomspace(*beside, num - inside)]
    chosen: list[int] = []
    nearest_N = np.abs(shapes_NK - 0.5).sum(axis=1)
    for low, high in limits:
        allowed_N = (macs_N >= low) & (macs_N <= high)
        chosen.append(int(np.where(allowed_N, nearest_N, -1.0).argmax()))
        distance_N = np.linalg.norm(shapes_NK - shapes_NK[chosen[-1]], axis=1)
        nearest_N = distance_N if len(chosen) == 1 else np.minimum(nearest_N, distance_N)
    return space.architectures(genomes_NG[chosen])


def _shapes(space: SearchSpace, genomes_NG: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    columns = []
    for kind in _KINDS:
        genes = [g for g, choice in enumerate(space.choices) if choice.kind == kind]
        tops = np.array([len(space.choices[g].values) - 1 for g in genes])
        active = genomes_NG[:, genes] >= 0
        columns.append((genomes_NG[:, genes] / tops * active).sum(axis=1) / active.sum(axis=1))
    return np.stack(columns, axis=1)


def count_correct(
    network: nn.Module, examples: Examples, *, preprocessing: Preprocessing, shape: tuple[int, ...]
) -> int:
    """Correct top-1 answers of a network that takes inputs of `shape`."""
    with torch.inference_mode():
        classes_N = predict_classes(lambda raw: network(preprocessing.batch(raw, shape=shape)), examples)
    return int((classes_N == examples.labels_N.numpy()).sum())


class AloneTrainings:
    """All trainings of one benchmark, kept as one JSON file each in a directory.

    Args:
        directory: where results and the states between two lengths are kept.
        space: the search space.
        data: the splits; `search` decides whether longer trainings are tried.
        settings: how to train.
    """

    def __init__(self, directory: Path, *, space: SearchSpace, data: DataSplits, settings: AloneSettings) -> None:
        self._directory, self._space, self._data, self._settings = directory, space, data, settings

    def find(self, arch: Architecture, *, seed: int, epochs: int) -> Alone | None:
        """The result of a finished training, None if there is none that was made in the same way."""
        path = self._place(arch, f"seed{seed}-epochs{epochs:03d}.json")
        if not path.exists():
            return None
        content = read_json(path)
        assert isinstance(content, dict)
        if content["identity"] != self._identity(arch):
            return None
        return Alone(**content["result"])

    def mean_gain_points(self, archs: Sequence[Architecture], *, seeds: Sequence[int], index: int) -> float | None:
        """What length number `index` gains over the one before on `search`: mean over all trainings, in points.

        None while a training of either length is missing.
        """
        longer, shorter = self._settings.lengths[index], self._settings.lengths[index - 1]
        gains = []
        for arch in archs:
            for seed in seeds:
                new, old = self.find(arch, seed=seed, epochs=longer), self.find(arch, seed=seed, epochs=shorter)
                if new is None or old is None:
                    return None
                gains.append((new.correct["search"] - old.correct["search"]) / len(self._data.search))
        return 100.0 * sum(gains) / len(gains)

    def work(
        self,
        archs: Sequence[Architecture],
        *,
        seeds: Sequence[int],
        least_gain: float,
        say: Callable[[str], None],
        wait: Callable[[], None] = lambda: time.sleep(_POLL_SECONDS),
    ) -> None:
        """Train what is missing, length by length, until all is done.

        A length is begun when all trainings of the length before are there, and only if that one gained `least_gain`
        points in the mean over its own predecessor.

        Args:
            archs: what to train.
            seeds: how often, with which weights.
            least_gain: in points of accuracy on `search`.
            say: told about every finished training.
            wait: called while all missing trainings are in other processes' hands.
        """
        for index, epochs in enumerate(self._settings.lengths):
            if index > 1:
                gain = self.mean_gain_points(archs, seeds=seeds, index=index - 1)
                if gain is not None and gain < least_gain:
                    return
            pairs = [(arch, seed) for seed in seeds for arch in archs]
            while missing := [pair for pair in pairs if self.find(pair[0], seed=pair[1], epochs=epochs) is None]:
                if not any(self._train_if_free(arch, seed=seed, epochs=epochs, say=say) for arch, seed in missing):
                    wait()

    def _train_if_free(self, arch: Architecture, *, seed: int, epochs: int, say: Callable[[str], None]) -> bool:
        """Whether the training was there or is done now; False if another process is at it."""
        with self._claim(arch, seed=seed) as mine:
            if mine and self.find(arch, seed=seed, epochs=epochs) is None:
                result = self._train(arch, seed=seed, epochs=epochs)
                share = result.correct["search"] / len(self._data.search)
                say(f"{arch.arch_id} seed {seed}, {epochs} epochs: {share:.2%} of search, {result.seconds:.0f} s")
            return mine

    @contextmanager
    def _claim(self, arch: Architecture, *, seed: int) -> Iterator[bool]:
        """Whether this process alone may train (arch, seed) now; the system frees the lock if it dies."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._place(arch, f"seed{seed}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _identity(self, arch: Architecture) -> dict[str, JSON]:
        """What makes a result reusable: the network, the data and the way of training, not the space's name."""
        train = self._data.train
        digest = hashlib.sha256(train.indices_N.numpy().tobytes() + train.labels_N.numpy().tobytes())
        shared = {key: value for key, value in asdict(self._settings).items() if key != "lengths"}
        return {
            "genes": dict(arch.genes),
            "macs": int(self._space.op_table(self._space.genomes([arch])).macs.sum()),
            "train_sha256": digest.hexdigest(),
            "augmentation": self._data.augmentation,
            "settings": shared,
        }

    def _place(self, arch: Architecture, name: str) -> Path:
        genes = json.dumps(dict(arch.genes), sort_keys=True)
        return self._directory / f"{hashlib.sha256(genes.encode()).hexdigest()[:12]}-{name}"

    def _train(self, arch: Architecture, *, seed: int, epochs: int) -> Alone:
        started = time.process_time()
        stable = self._place(arch, f"seed{seed}")
        training = _Training(arch, space=self._space, data=self._data, settings=self._settings, seed=seed)
        details: dict[str, JSON] = {"identity": self._identity(arch), "training_seed": seed}
        decay_from = epochs - epochs // 4
        if finished := finished_checkpoints(stable):
            checkpoint = load_checkpoint(finished[-1], expected=details)
            if checkpoint.epoch <= decay_from:
                training.restore(checkpoint)
        training.run(until=decay_from, length=epochs)
        save_checkpoint(stable, training.checkpoint(details), keep=1)
        training.run(until=epochs, length=epochs)
        correct = {split: training.count_correct(split) for split in SPLITS}
        seconds = round(time.process_time() - started, 1)
        result = Alone(seed=seed, epochs=epochs, correct=correct, seconds=seconds)
        path = self._place(arch, f"seed{seed}-epochs{epochs:03d}.json")
        write_json(path, {"result": asdict(result), "identity": self._identity(arch)})
        return result


class _Training:
    """One network on its way."""

    def __init__(
        self, arch: Architecture, *, space: SearchSpace, data: DataSplits, settings: AloneSettings, seed: int
    ) -> None:
        self._data, self._settings, self._seed = data, settings, seed
        self._shape = space.input_shape(arch)
        self._network = fresh_network(space, arch, num_classes=data.num_classes, seed=seed)
        self._optimizer = make_optimizer(
            self._network, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._steps_an_epoch = len(data.train) // settings.batch_size
        self._epoch = 0

    def run(self, *, until: int, length: int) -> None:
        """Train up to the end of epoch `until` of a training of `length` epochs."""
        self._network.train()
        for epoch in range(self._epoch, until):
            batches = shard_batches(
                len(self._data.train),
                batch_size=self._settings.batch_size,
                seed=self._seed,
                epoch=epoch,
                rank=0,
                world_size=1,
            )
            for number, positions in enumerate(batches):
                self._step(positions, step=epoch * self._steps_an_epoch + number, length=length)
        self._epoch = max(self._epoch, until)

    def _step(self, positions: torch.Tensor, *, step: int, length: int) -> None:
        settings, data = self._settings, self._data
        rate = rate_at(
            step,
            peak=settings.learning_rate,
            warmup_steps=self._steps_an_epoch,
            decay_from=(length - length // 4) * self._steps_an_epoch,
            num_steps=length * self._steps_an_epoch,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        raw = augment(data.train.inputs[positions], name=data.augmentation, seed=self._seed, step=step, rank=0)
        x = data.preprocessing.batch(raw, shape=self._shape)
        self._optimizer.zero_grad(set_to_none=True)
        loss = label_loss(self._network(x), data.train.labels_N[positions], smoothing=settings.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), settings.gradient_clip)
        self._optimizer.step()

    def count_correct(self, split: str) -> int:
        """Correct answers of the network with its own running statistics."""
        return count_correct(
            self._network.eval(),
            getattr(self._data, split),
            preprocessing=self._data.preprocessing,
            shape=self._shape,
        )

    def checkpoint(self, details: Mapping[str, JSON]) -> Checkpoint:
        """The state, to go on from."""
        momentum = {
            name: self._optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self._network.named_parameters()
            if self._optimizer.state[parameter]
        }
        return Checkpoint(
            epoch=self._epoch,
            step=self._epoch * self._steps_an_epoch,
            weights=self._network.state_dict(),
            optimizer=momentum,
            details=details,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a state."""
        self._network.load_state_dict(dict(checkpoint.weights))
        for name, parameter in self._network.named_parameters():
            self._optimizer.state[parameter]["momentum_buffer"] = checkpoint.optimizer[name].clone()
        self._epoch = checkpoint.epoch
