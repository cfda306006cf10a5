"""The accuracy predictor of a run: stored once, used while it is that of the evaluations, made again otherwise."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.errors import RunError
from nas.run import Run
from nas.run_accuracy import run_accuracy_predictor
from predictors import AccuracyPredictor
from tests.nas.predicted_run import empty_run, everything, predicted_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return predicted_run(tmp_path / "run")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every fit."""
    from predictors import fit_accuracy_predictor

    done: list[int] = []

    def fit(genomes_NG: np.ndarray, accuracy_N: np.ndarray, **options: object) -> AccuracyPredictor:
        done.append(len(genomes_NG))
        return fit_accuracy_predictor(genomes_NG, accuracy_N, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("nas.run_accuracy.fit_accuracy_predictor", fit)
    return done


def test_a_second_call_takes_what_is_stored_and_says_the_same(run: Run, fits: list[int]) -> None:
    fitted, stored = run_accuracy_predictor(run), run_accuracy_predictor(run)
    assert len(fits) == 1
    # As text, because a NaN is not equal to itself.
    assert str(stored.left_out) == str(fitted.left_out)
    some_NG = everything(run)[:200]
    for name in ("mean", "lower", "upper", "in_range"):
        assert (getattr(stored.predict(some_NG), name) == getattr(fitted.predict(some_NG), name)).all()


def test_more_evaluations_mean_another_fit(run: Run, fits: list[int]) -> None:
    run_accuracy_predictor(run)
    row = {str(name): value for name, value in run.evaluations().iloc[0].items()}
    run.evaluations_table.append([{**row, "accuracy": row["accuracy"] / 2}])
    run_accuracy_predictor(run)
    assert len(fits) == 2
    run_accuracy_predictor(run)
    assert len(fits) == 2


@pytest.mark.parametrize("name", ["fitted_to.json", "card.json", "model.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_one_is_made_again(run: Run, fits: list[int], name: str, damage: str) -> None:
    run_accuracy_predictor(run)
    path = run.path / "accuracy_predictor" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run_accuracy_predictor(run)
    run_accuracy_predictor(run)
    assert len(fits) == 2


def test_one_of_another_task_is_made_again(run: Run, fits: list[int]) -> None:
    predictor = run_accuracy_predictor(run)
    replace(predictor, task="another data set").save(run.path / "accuracy_predictor")
    assert run_accuracy_predictor(run).task == predictor.task
    assert len(fits) == 2


def test_where_nothing_can_be_written_it_is_fitted_each_time(run: Run, fits: list[int]) -> None:
    (run.path / "accuracy_predictor").write_text("in the way")
    assert str(run_accuracy_predictor(run).left_out) == str(run_accuracy_predictor(run).left_out)
    assert len(fits) == 2


def test_too_few_evaluations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="0 architectures are too few") as caught:
        run_accuracy_predictor(empty_run(tmp_path / "nothing"))
    assert "nas search" in caught.value.hint


def test_a_copied_run_takes_its_predictor_along(run: Run, fits: list[int], tmp_path: Path) -> None:
    from nas.run import open_run

    run_accuracy_predictor(run)
    shutil.copytree(run.path, tmp_path / "copy")
    run_accuracy_predictor(open_run(tmp_path / "copy"))
    assert len(fits) == 1
