"""Model soups: the weights of several fine-tuned copies of one subnet, averaged where that helps.

Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time, 2022 (arXiv 2203.05482). Copies differ in the order and augmentation of their images, so they end near
one another, and their mean is a network too. Statistics of batch normalisation are no weights: they are recalibrated.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from hardware.files import JSON, read_json
from nas.accuracy import Accuracy, accuracy_row
from nas.candidate import Candidate
from nas.candidate_store import CandidateStore
from nas.errors import CheckpointError
from nas.evaluation import SubnetJudge
from nas.recalibration import recalibrate
from nas.refine import Refined, RefineSettings
from nas.run import Run

SOUP_FILE = "soup.json"
_COPY = ".copy-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Soup:
    """What averaging the copies of one subnet came to. Accuracies are on the search split.

    Attributes:
        copies: candidate ids, the most accurate copy first.
        best_copy: accuracy of the first one.
        uniform: of the mean of all.
        greedy: of the mean of `members`; a copy joins as long as the mean gets no worse by it.
        members: candidate ids of the copies in the greedy soup.
        candidate: the greedy soup, which is stored; None if it is no better than the best copy.
        seconds: of averaging, recalibrating and evaluating.
    """

    copies: tuple[str, ...]
    best_copy: Accuracy
    uniform: Accuracy
    greedy: Accuracy
    members: tuple[str, ...]
    candidate: Candidate | None
    seconds: float

    def to_json(self) -> dict[str, JSON]:
        """Plain JSON values."""
        accuracies = {"best_copy": self.best_copy, "uniform": self.uniform, "greedy": self.greedy}
        return {
            "copies": list(self.copies),
            "members": list(self.members),
            "candidate": None if self.candidate is None else dict(self.candidate.row()),
            "seconds": self.seconds,
            **{name: accuracy_row(accuracy) for name, accuracy in accuracies.items()},
        }


def copy_dir(run: Run, arch_id: str, number: int) -> Path:
    """Directory of a copy's fine-tuning; the first copy, 0, is the ordinary fine-tuned candidate."""
    directory = run.refine_dir(arch_id)
    return directory if number == 0 else directory.with_name(f"{arch_id}{_COPY}{number}")


def copy_settings(settings: RefineSettings, directory: Path) -> RefineSettings:
    """The settings of the copy that is fine-tuned in a directory of `copy_dir`: a seed of its own."""
    _, sign, number = directory.name.rpartition(_COPY)
    return replace(settings, seed=settings.seed + int(number)) if sign else settings


def make_soup(copies: Sequence[Refined], *, judge: SubnetJudge, store: CandidateStore, shape: tuple[int, ...]) -> Soup:
    """Average the copies of one subnet, greedily and all of them, and store the greedy mean if it beats every copy.

    Args:
        copies: two or more, of one architecture and precision.
        judge: recalibrates and scores on the search split.
        store: has the copies' weights.
        shape: of the subnet's prepared inputs.

    Raises:
        CheckpointError: the weights of a copy are missing or damaged.
    """
    start = time.perf_counter()
    ordered = sorted(copies, key=lambda one: (-one.accuracy.value, one.candidate.candidate_id))
    networks = [store.load(one.candidate) for one in ordered]
    best = ordered[0]

    def averaged(chosen: Sequence[nn.Module]) -> tuple[nn.Module, Accuracy]:
        network = average(chosen)
        recalibrate(network, judge.recalibration_batches(shape))
        return network, judge.score_network(network, shape=shape)

    members, soup, accuracy = [0], networks[0], best.accuracy
    for number in range(1, len(networks)):
        tried, found = averaged([networks[n] for n in (*members, number)])
        if found.value >= accuracy.value:
            members, soup, accuracy = [*members, number], tried, found
    _, uniform = averaged(networks)
    candidate = None
    if accuracy.value > best.accuracy.value:
        arch, precision = best.candidate.architecture, best.candidate.precision
        candidate = store.save_trained(arch, soup, precision=precision, kind="averaged")
    return Soup(
        copies=tuple(one.candidate.candidate_id for one in ordered),
        best_copy=best.accuracy,
        uniform=uniform,
        greedy=accuracy,
        members=tuple(ordered[n].candidate.candidate_id for n in members),
        candidate=candidate,
        seconds=time.perf_counter() - start,
    )


def average(networks: Sequence[nn.Module]) -> nn.Module:
    """A network of the same layers whose floating-point tensors are the means of those of `networks`."""
    states = [network.state_dict() for network in networks]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if tensor.is_floating_point() else tensor
        for name, tensor in states[0].items()
    }
    network = copy.deepcopy(networks[0])
    network.load_state_dict(mean)
    return network.eval()


def read_soup(directory: Path) -> Soup | None:
    """The soup of a subnet, from the directory of its first copy; None if there is none yet.

    Raises:
        CheckpointError: it is damaged.
    """
    path = directory / SOUP_FILE
    if not path.exists():
        return None
    content = read_json(path)
    try:
        assert isinstance(content, Mapping)
        found = {name: Accuracy.from_row(_mapping(content[name])) for name in ("best_copy", "uniform", "greedy")}
        row = content["candidate"]
        return Soup(
            copies=_texts(content["copies"]),
            members=_texts(content["members"]),
            candidate=None if row is None else Candidate.from_row(_mapping(row)),
            seconds=float(str(content["seconds"])),
            **found,
        )
    except (AssertionError, KeyError, ValueError) as e:
        raise CheckpointError(f"{path} is damaged: {e!r}", hint=f"delete {path} and run the same command again") from e


def _mapping(value: JSON) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value


def _texts(value: JSON) -> tuple[str, ...]:
    assert isinstance(value, Sequence)
    return tuple(str(one) for one in value)
