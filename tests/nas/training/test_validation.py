"""The quick look after every epoch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nas.data import DataSplits, Examples
from nas.training.history import TrainHistory
from nas.training.phases import phases_of, smallest_open
from nas.training.validation import QuickValidation
from searchspaces import Architecture
from tests.nas.tiny_run import fresh_supernet
from tests.nas.training.tiny_training import ONE_EPOCH, PROGRESSIVE, SMALL, few_digits, train

SETTINGS = replace(PROGRESSIVE, validation_images=60)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return few_digits(64)


def test_the_supernet_is_not_changed_and_a_second_look_sees_the_same(digits: DataSplits) -> None:
    supernet = fresh_supernet(space=SMALL).train()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    look = QuickValidation(digits, settings=SETTINGS, device=CPU)
    first = look(supernet, phases_of(SMALL, SETTINGS)[-1])
    assert look(supernet, phases_of(SMALL, SETTINGS)[-1]) == first
    assert QuickValidation(digits, settings=SETTINGS, device=CPU)(supernet, phases_of(SMALL, SETTINGS)[-1]) == first
    assert supernet.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    assert first.score == (first.largest + first.smallest) / 2


def test_the_extremes_are_those_that_the_phase_trains(digits: DataSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = fresh_supernet(space=SMALL)
    seen: list[Architecture] = []
    extract = supernet.extract

    def watched(arch: Architecture) -> nn.Module:
        seen.append(arch)
        return extract(arch)

    monkeypatch.setattr(supernet, "extract", watched)
    look = QuickValidation(digits, settings=SETTINGS, device=CPU)
    for phase in phases_of(SMALL, SETTINGS):
        seen.clear()
        look(supernet, phase)
        assert seen == [SMALL.largest, smallest_open(SMALL, phase.opened)]
    assert seen[-1] == SMALL.smallest


def test_an_answer_that_is_always_right_has_accuracy_one(digits: DataSplits) -> None:
    """All classes are one class."""
    search = digits.search
    one_class = Examples(
        inputs=search.inputs, labels_N=torch.full_like(search.labels_N, 3), indices_N=search.indices_N, part=search.part
    )
    supernet = fresh_supernet(space=SMALL)
    with torch.no_grad():
        supernet.state_dict()["classifier.layer.bias"][3] = 1e6
    found = QuickValidation(replace(digits, search=one_class), settings=SETTINGS, device=CPU)(
        supernet, phases_of(SMALL, SETTINGS)[-1]
    )
    assert (found.largest, found.smallest, found.score) == (1.0, 1.0, 1.0)


def test_every_epoch_has_its_accuracies_in_the_log(tmp_path: Path, digits: DataSplits) -> None:
    """They are those of the checkpoint's weights: the average where there is one."""
    settings = replace(ONE_EPOCH, epochs=2, validation_images=60, ema_decay=0.9)
    trained = train(tmp_path, data=digits, settings=settings)
    row = TrainHistory(tmp_path / "history.jsonl").rows()[-1]
    look = QuickValidation(digits, settings=settings, device=CPU)
    found = look(trained, phases_of(SMALL, settings)[-1])
    assert (row["accuracy_largest"], row["accuracy_smallest"]) == (found.largest, found.smallest)
    assert row["score"] == found.score
