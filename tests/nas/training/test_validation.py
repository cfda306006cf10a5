"""The quick look after every epoch."""

import math
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
    assert (found.loss_largest, found.loss_smallest) == (0.0, 0.0)


def test_an_answer_that_says_nothing_has_the_loss_of_guessing(digits: DataSplits) -> None:
    supernet = fresh_supernet(space=SMALL)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if name.startswith("classifier"):
                tensor.zero_()
    found = QuickValidation(digits, settings=SETTINGS, device=CPU)(supernet, phases_of(SMALL, SETTINGS)[-1])
    assert found.loss_largest == pytest.approx(math.log(10), rel=1e-5)
    assert found.loss_smallest == pytest.approx(math.log(10), rel=1e-5)


def test_losses_of_the_extremes_are_logged_where_the_steps_have_none(tmp_path: Path, digits: DataSplits) -> None:
    trained = train(tmp_path, data=digits, settings=SETTINGS)
    rows = [row for row in TrainHistory(tmp_path / "history.jsonl").rows() if "score" in row]
    assert len(rows) == SETTINGS.epochs
    assert all("loss_largest" in row and "loss_smallest" in row for row in rows)
    found = QuickValidation(digits, settings=SETTINGS, device=CPU)(trained, phases_of(SMALL, SETTINGS)[-1])
    assert (rows[-1]["loss_largest"], rows[-1]["loss_smallest"]) == (found.loss_largest, found.loss_smallest)


def test_the_sandwich_rule_keeps_its_own_losses_of_the_extremes(tmp_path: Path, digits: DataSplits) -> None:
    for images in (0, 60):
        train(tmp_path / str(images), data=digits, settings=replace(ONE_EPOCH, validation_images=images))
    without, looked = (TrainHistory(tmp_path / name / "history.jsonl").rows()[-1] for name in ("0", "60"))
    assert "score" in looked
    assert [looked[f"loss_{extreme}"] for extreme in ("largest", "smallest")] == [
        without[f"loss_{extreme}"] for extreme in ("largest", "smallest")
    ]


def test_every_epoch_has_its_accuracies_in_the_log(tmp_path: Path, digits: DataSplits) -> None:
    """They are those of the checkpoint's weights: the average where there is one."""
    settings = replace(ONE_EPOCH, epochs=2, validation_images=60, ema_decay=0.9)
    trained = train(tmp_path, data=digits, settings=settings)
    row = TrainHistory(tmp_path / "history.jsonl").rows()[-1]
    look = QuickValidation(digits, settings=settings, device=CPU)
    found = look(trained, phases_of(SMALL, settings)[-1])
    assert (row["accuracy_largest"], row["accuracy_smallest"]) == (found.largest, found.smallest)
    assert row["score"] == found.score
