"""Which rows count, from tables."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.evaluated import nothing_left, predicted_front_text, stopped_rows
from nas.objectives import Limit
from nas.pricing import count_costs, violations
from nas.search.study import Values
from tests.nas.predicted_run import add_verification, evaluated_genomes, everything, predicted_run


def row(arch: str, *, params: int, **more: object) -> dict[str, object]:
    return {
        "arch_id": arch,
        "candidate_id": f"{arch}-w",
        "device_id": "d",
        "weights": "w",
        "weights_kind": "inherited",
        "accuracy": 0.5,
        "latency_predicted_ms": 1.0,
        "macs": 1,
        "params": params,
        **more,
    }


@pytest.fixture
def session() -> Any:
    """What `stopped_rows` needs of one; limits can be added to its `run.asked`."""
    evaluations = pd.DataFrame([row("large", params=90), row("small", params=10)])
    stopped = pd.DataFrame(
        [
            row("beaten-by-large", params=20, rival="large", of_epochs=0),
            row("beaten-by-small", params=20, rival="small", of_epochs=0),
            row("beaten-by-nobody", params=20, rival="gone", of_epochs=0),
            row("fine-tuned", params=20, rival="small", of_epochs=3),
        ]
    )
    asked: list[Limit] = []
    run = SimpleNamespace(
        space=SimpleNamespace(smallest=None),
        stopped=lambda: stopped,
        evaluations_on=lambda _: evaluations,
        limits=lambda _: asked,
        asked=asked,
    )
    return SimpleNamespace(
        run=run, device_id="d", bench=SimpleNamespace(inherit=lambda _: SimpleNamespace(weights="w"))
    )


def test_what_was_stopped_counts_as_long_as_its_rival_does(session: Any) -> None:
    assert list(stopped_rows(session)["arch_id"]) == ["beaten-by-large", "beaten-by-small"]
    session.run.asked.append(Limit(name="params", value=50.0, unit=""))
    assert list(stopped_rows(session)["arch_id"]) == ["beaten-by-small"]
    assert list(stopped_rows(session, of_epochs=3)["arch_id"]) == ["fine-tuned"]


def test_the_predicted_front_is_told_also_where_there_is_a_verified_one(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    recipe = SimpleNamespace(data=SimpleNamespace(metric="top1"))
    session: Any = SimpleNamespace(run=run, device_id="d", recipe=recipe)
    front = run.front()
    before = predicted_front_text(session)
    best = f"{front.points[-1].accuracy:.2%}"
    assert before == f"predicted front of {len(front.points)} points, best top-1 accuracy on search {best}"
    add_verification(run, run.space.architectures(evaluated_genomes(run)[:1])[0], measured_ms=0.1)
    assert run.front().split == "verify"
    assert predicted_front_text(session) == before


def test_a_search_is_at_its_end_when_all_that_the_limits_allow_is_known(tmp_path: Path) -> None:
    run = predicted_run(tmp_path / "run")
    costs = count_costs(run.space, num_classes=7)
    genomes_NG = everything(run)
    limits = [Limit(name="macs", value=float(np.sort(costs["macs"](genomes_NG))[20]), unit="")]
    archs = run.space.architectures(genomes_NG[violations(genomes_NG, costs=costs, limits=limits) <= 0])
    known = {arch.arch_id: Values(accuracy=0.5, latency_ms=1.0, architecture=arch) for arch in archs}
    session: Any = SimpleNamespace(
        run=run, pricer=SimpleNamespace(costs=costs), limits=limits, recipe=SimpleNamespace(seed=0)
    )
    assert nothing_left(session, known)
    assert not nothing_left(session, dict(list(known.items())[1:]))
    assert not nothing_left(session, {})
    session.limits = []
    assert not nothing_left(session, known)
