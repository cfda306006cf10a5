"""The recipe's section `train`: what it accepts, and what training makes of it."""

import threading
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import RecipeError
from experiments.recipe import Recipe, load_recipe
from experiments.training_progress import following, progress_text
from experiments.workload import refine_settings, train_settings
from nas.errors import CheckpointError
from nas.supernet_files import save_supernet
from nas.training.history import HistoryReader, TrainHistory
from nas.training.phases import phases_of
from nas.training.settings import PhaseSettings
from nas.training.starting import start_sha256
from searchspaces import get_space

SPACE: dict[str, Any] = {"resolutions": [8, 12], "width": 0.25, "stem_stride": 1}
RECIPE = f"""
name: small
data: {{dataset: digits, search: 300, verify: 400, report: 300}}
space: {{name: mbconv-small, settings: {SPACE}}}
"""
BY_HAND = """
train:
  method: progressive
  epochs: 7
  phases:
    - {open: {}, epochs: 3, learning_rate: 0.1, warmup_epochs: 1}
    - {open: kernel, epochs: 1, learning_rate: 0.05}
    - {open: {depth: 3, expand: 3}, epochs: 3, learning_rate: 0.02, subnets: 4}
"""


def loaded(folder: Path, train: str = "", *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE + train, encoding="utf-8")
    return load_recipe(path, overrides=overrides)


def test_the_default_is_the_sandwich_rule_from_fresh_weights(tmp_path: Path) -> None:
    settings = train_settings(loaded(tmp_path))
    assert (settings.method, settings.phases, settings.start_sha256) == ("sandwich", (), None)
    assert (settings.precision, settings.ema_decay, settings.validation_images) == ("auto", None, 500)


def test_training_and_refinement_have_the_same_optimizer(tmp_path: Path) -> None:
    default = loaded(tmp_path)
    assert (train_settings(default).optimizer, refine_settings(default).optimizer) == ("sgd", "sgd")
    recipe = loaded(tmp_path, "", "train.optimizer=adamw", "train.weight_decay=0.02")
    assert (train_settings(recipe).optimizer, refine_settings(recipe).optimizer) == ("adamw", "adamw")
    assert (train_settings(recipe).weight_decay, refine_settings(recipe).weight_decay) == (0.02, 0.02)


def test_phases_by_hand_reach_the_training_and_survive_the_recipes_own_yaml(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, BY_HAND)
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    again = load_recipe(tmp_path / "again.yaml")
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()
    settings = train_settings(recipe)
    assert settings.phases[2] == PhaseSettings(
        open={"depth": 3, "expand": 3}, epochs=3, learning_rate=0.02, warmup_epochs=0.0, subnets=4
    )
    phases = phases_of(get_space("mbconv-small", **SPACE), settings)
    assert [(phase.name, phase.epochs) for phase in phases] == [("teacher", 3), ("kernel", 1), ("depth 3, expand 3", 3)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.method=greedy", "train.method: got 'greedy', expected one of 'sandwich', 'progressive'"),
        ("train.method=sandwich", "train.phases: got 3 phases, but method sandwich has none"),
        ("train.epochs=8", "train.epochs: got 8, expected 7, the sum of train.phases"),
        ("train.phases=[{open: {}, epochs: 7}]", "learning_rate: missing, expected a number > 0"),
        ("train.phases=[{open: {kernel: 0}, epochs: 7, learning_rate: 1}]", "train.phases"),
        ("train.phases=[{open: 3, epochs: 7, learning_rate: 1}]", "expected a mapping such as {kernel: 3}"),
        ("train.optimizer=adam", "train.optimizer: got 'adam', expected one of 'sgd', 'adamw'"),
        ("train.precision=fp16", "train.precision: got 'fp16', expected one of 'fp32', 'bf16', 'auto'"),
        ("train.ema_decay=1", "train.ema_decay: got 1, expected a number > 0 and < 1 or null"),
        ("train.validation_images=1001", "train.validation_images: got 1001, expected an integer >= 0 and <= 1,000"),
        ("train.use_gpu=yes please", "train.use_gpu: got 'yes please'"),
        ("train.workers=5", "train.workers: got 5, expected a divisor of batch_size 64"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, BY_HAND, override)
    assert message in str(caught.value)


def test_a_gpu_may_come_and_go_but_the_method_stays(tmp_path: Path) -> None:
    recipe = loaded(tmp_path)
    assert loaded(tmp_path, "", "train.use_gpu=true").fingerprint() == recipe.fingerprint()
    assert loaded(tmp_path, "", "train.from_checkpoint=start").fingerprint() == recipe.fingerprint()
    for other in ("train.method=progressive", "train.precision=bf16", "train.ema_decay=0.99", "train.optimizer=adamw"):
        assert loaded(tmp_path, "", other).fingerprint() != recipe.fingerprint()


def test_a_start_is_an_absolute_place_and_its_checksum_reaches_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = get_space("mbconv-small", **SPACE)
    supernet = space.build_supernet(num_classes=5)
    save_supernet(tmp_path / "start", supernet, space="mbconv-small", space_settings=SPACE, provenance={})
    monkeypatch.chdir(tmp_path)
    recipe = loaded(tmp_path, "", "train.from_checkpoint=start")
    assert recipe.train.from_checkpoint == str(tmp_path / "start")
    assert train_settings(recipe).start_sha256 == start_sha256(tmp_path / "start")
    with pytest.raises(CheckpointError, match="cannot start from"):
        train_settings(loaded(tmp_path, "", "train.from_checkpoint=elsewhere"))


def test_the_bar_says_the_phase(tmp_path: Path) -> None:
    row = {"phase": 2, "epoch": 4, "loss": 1.23456, "images_per_second": 321.7, "eta_seconds": 1.0}
    phases = phases_of(get_space("mbconv-small", **SPACE), train_settings(loaded(tmp_path, BY_HAND)))
    text = progress_text(row, extremes=None, phases=phases)
    assert text == "kernel, epoch 4, loss 1.235, 322 images/s"


def test_the_bar_says_the_losses_of_both_extremes_and_where_they_are_from(tmp_path: Path) -> None:
    row = {"phase": 1, "epoch": 4, "loss": 1.23456, "images_per_second": 321.7, "eta_seconds": 1.0}
    both = {**row, "loss_largest": 0.98765, "loss_smallest": 2.0}
    space = get_space("mbconv-small", **SPACE)
    sandwich = phases_of(space, train_settings(loaded(tmp_path)))
    for extremes in (both, {**both, "score": 0.5}):
        text = progress_text(both, extremes=extremes, phases=sandwich)
        assert text == "epoch 4, loss 1.235 (largest 0.988, smallest 2.000), 322 images/s"
    progressive = phases_of(space, train_settings(loaded(tmp_path, BY_HAND)))
    text = progress_text(row, extremes=both, phases=progressive)
    assert "loss 1.235 (largest 0.988, smallest 2.000), 322" in text
    text = progress_text(row, extremes={**both, "score": 0.5}, phases=progressive)
    assert "loss 1.235 (validation: largest 0.988, smallest 2.000), 322" in text


class Heard:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.messages: list[str] = []
        self.seconds_left: float | None = None
        self.changed = threading.Event()

    def stage(self, name: str, *, text: str) -> None: ...

    def done(self, text: str) -> None: ...

    def progress(self, done: float, total: float, *, text: str = "", seconds_left: float | None = None) -> None:
        self.texts.append(text)
        self.seconds_left = seconds_left
        self.changed.set()

    def message(self, text: str) -> None:
        self.messages.append(text)

    def next_text(self) -> str:
        assert self.changed.wait(20)
        self.changed.clear()
        return self.texts[-1]


def test_the_bar_keeps_the_extremes_of_the_last_epoch(tmp_path: Path) -> None:
    phases = phases_of(get_space("mbconv-small", **SPACE), train_settings(loaded(tmp_path, BY_HAND)))
    row = {"step": 1, "num_steps": 9, "phase": 1, "epoch": 1, "loss": 3.0, "images_per_second": 1.0, "eta_seconds": 1.0}
    path = tmp_path / "history.jsonl"
    history, heard = TrainHistory(path), Heard()
    with following(HistoryReader(path), phases=phases, reporter=heard):
        history.append({**row, "rollbacks": 0})
        assert "loss 3.000, " in heard.next_text()
        assert heard.seconds_left == 1.0
        history.append({**row, "rollbacks": 0, "loss_largest": 1.5, "loss_smallest": 2.5, "score": 0.5})
        assert "largest 1.500, smallest 2.500" in heard.next_text()
        history.append({**row, "rollbacks": 1, "loss": 2.0})
        assert "loss 2.000 (validation: largest 1.500, smallest 2.500)" in heard.next_text()
    assert len(heard.messages) == 1
