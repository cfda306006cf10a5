"""Two runs of one supernet: it is taken over, and what one has evaluated the other looks up."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import search_stage, stages
from experiments.errors import RecipeError
from experiments.recipe import load_recipe
from experiments.session import Session
from experiments.shared_supernet import reusable_accuracies
from nas.errors import CheckpointError, RunError
from nas.search.pool import SerialPool, SubnetScore
from nas.search.stopping import Stopping
from searchspaces import Architecture
from tests.experiments.conftest import InProcess
from tests.experiments.small_session import RECIPE, give_weights, open_untrained
from tests.fakes.reporters import Heard

SEARCH = "search: {sampler: random, evaluations: 6, subnets_per_task: 2}\n"


class Judged:
    """Searches in this process, and counts what is really evaluated."""

    def __init__(self) -> None:
        self.num = 0

    def search(self, session: Session) -> Heard:
        def judge(archs: Sequence[Architecture], /, *, stopping: Stopping | None = None) -> tuple[SubnetScore, ...]:
            self.num += len(archs)
            return session.workload.subnet_judge.judge(archs, stopping=stopping)

        heard = Heard()
        self.num = 0
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("experiments.search_stage.RayEvaluationPool", lambda *_, **__: SerialPool(judge))
            search_stage.search(session, cluster=nullcontext, reporter=heard, on_rows=lambda: None)
        return heard


@pytest.fixture
def judged() -> Judged:
    return Judged()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A run that has searched; nobody changes it."""
    made = open_untrained(tmp_path_factory.mktemp("first"), changes=SEARCH)
    give_weights(made)
    Judged().search(made)
    return made


def second(path: Path, first: Session, *, recipe: str = RECIPE) -> Session:
    """A run that starts from the supernet of another one and has no epochs of its own."""
    text = recipe.replace("epochs: 1, rec", f"epochs: 0, from_checkpoint: {first.run.checkpoint_dir()}, rec", 1)
    made = open_untrained(path, text=text, changes=SEARCH)
    stages.train(made, cluster=nullcontext, reporter=Heard())
    (made.run.path / "predictors").symlink_to(first.run.path / "predictors")
    return made


def with_cache(session: Session, *places: Path) -> Session:
    search = session.recipe.search.model_copy(update={"cache": tuple(map(str, places))})
    return replace(session, recipe=session.recipe.model_copy(update={"search": search}))


def test_a_supernet_is_taken_over_as_it_is_once(tmp_path: Path, first: Session) -> None:
    other = second(tmp_path / "second", first)
    assert stages.train_is_done(other)
    assert other.run.checkpoint_sha256() == first.run.checkpoint_sha256()
    arch = first.run.space.smallest
    assert other.bench.inherit(arch) == first.bench.inherit(arch)
    heard = Heard()
    assert not stages.train(other, cluster=nullcontext, reporter=heard)
    assert heard.found == ["finished before"]


def test_what_the_first_run_evaluated_is_looked_up_and_the_search_is_the_same(
    tmp_path: Path, first: Session, judged: Judged
) -> None:
    cached = with_cache(second(tmp_path / "second", first), first.run.path)
    heard = judged.search(cached)
    assert judged.num == 0
    assert "6 evaluations were taken from search.cache, which has 6" in heard.messages
    columns = ["candidate_id", "accuracy", "accuracy_low", "num_correct", "metric", "split", "latency_predicted_ms"]
    own, looked_up = (one.run.evaluations().sort_values("candidate_id") for one in (first, cached))
    assert own[columns].to_dict("list") == looked_up[columns].to_dict("list")
    assert (looked_up["seconds"] == 0.0).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (("recalibration_images: 100", "recalibration_images: 90"), "no evaluations of this supernet with this"),
        (("name: small", "name: small\nseed: 3"), "seed: 3 here, 0 in"),
        (("verify: 400", "verify: 410"), "data.verify: 410 here, 400 in"),
        (("report: 300", "report: 300, metric: macro-f1"), "data.metric: macro-f1 here, top1 in"),
    ],
)
def test_rows_that_do_not_agree_are_not_taken(
    tmp_path: Path, first: Session, changes: tuple[str, str], reason: str
) -> None:
    other = open_untrained(tmp_path / "second", text=RECIPE.replace(*changes), changes=SEARCH)
    give_weights(other)
    heard = Heard()
    assert reusable_accuracies(with_cache(other, first.run.path), reporter=heard) == {}
    (message,) = heard.messages
    assert message.startswith(f"nothing is taken from {first.run.path}: ")
    assert reason in message


def test_other_weights_and_the_run_itself_are_not_taken(tmp_path: Path, first: Session) -> None:
    other = open_untrained(tmp_path / "second", changes=SEARCH)
    give_weights(other, seed=1)
    heard = Heard()
    assert reusable_accuracies(with_cache(other, first.run.path, other.run.path), reporter=heard) == {}
    assert "no evaluations of this supernet" in heard.messages[0]
    assert "it is this run" in heard.messages[1]
    with pytest.raises(RunError, match="is not a run directory"):
        reusable_accuracies(with_cache(other, tmp_path), reporter=heard)


def test_a_supernet_of_other_examples_is_refused(tmp_path: Path, first: Session) -> None:
    with pytest.raises(CheckpointError, match=r"trained on other data than this run has: data\.search: 310 here, 300"):
        second(tmp_path / "second", first, recipe=RECIPE.replace("search: 300", "search: 310"))
    with pytest.raises(CheckpointError, match="trained on other data than this run has: seed: 5 here"):
        second(tmp_path / "third", first, recipe=RECIPE.replace("name: small", "name: small\nseed: 5"))


def test_no_epochs_need_a_supernet(tmp_path: Path, nas: InProcess) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"train\.epochs: got 0, expected an integer >= 1, or 0 with train"):
        load_recipe(path, overrides=["train.epochs=0"])
    missing = nas("train", path, "--from", tmp_path / "nowhere", "--set", "train.epochs=0", "--run-dir", tmp_path / "r")
    assert (missing.code, "does not exist" in missing.err) == (2, True)
