"""Which rows count, from tables."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from experiments.evaluated import stopped_rows
from nas.objectives import Limit


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
