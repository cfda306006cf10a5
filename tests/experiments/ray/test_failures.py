"""What Ray's own errors, as Ray builds and sends them, say about a worker."""

import copy

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from experiments.ray.failures import describe, hinted_cause, is_worker_death
from nas.errors import TrainingError

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:31205"


def group(**failures: Exception) -> WorkerGroupError:
    """The error of a worker group as the driver gets it: taken apart and rebuilt on the way, as pickle and copy do."""
    return copy.deepcopy(WorkerGroupError("...", dict(enumerate(failures.values()))))


def dead() -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=ActorDiedError())


@pytest.mark.parametrize(
    "error",
    [
        group(first=dead()),
        group(first=RuntimeError(GLOO), second=dead()),
        group(first=RuntimeError(GLOO)),
        ControllerError(ActorDiedError()),
        ActorDiedError(),
    ],
)
def test_a_dead_worker_is_recognised_wherever_ray_keeps_it(error: Exception) -> None:
    assert is_worker_death(error)
    assert hinted_cause(error) is None


@pytest.mark.parametrize(
    "error",
    [
        group(first=KeyError("stage1.depth")),
        group(first=RuntimeError("mat1 and mat2 shapes cannot be multiplied"), second=KeyError("stage1.depth")),
        # The poll itself failed, for example because an error cannot be pickled: the worker is alive.
        group(first=WorkerHealthCheckFailedError("failed.", failure=TypeError("cannot pickle"))),
        RayTaskError("f", "Connection closed by peer", KeyError("stage1.depth")),
    ],
)
def test_a_bug_is_no_death(error: Exception) -> None:
    assert not is_worker_death(error)


def test_a_death_is_described_by_rays_last_line_and_a_bug_by_its_own() -> None:
    assert describe(group(first=dead())).startswith("the worker's process died: The actor died unexpectedly")
    assert describe(group(first=KeyError("stage1.depth"))) == "KeyError: 'stage1.depth'"


def test_an_error_of_ours_is_found_beside_the_broken_connection_of_a_peer() -> None:
    ours = TrainingError("the loss is nan", hint="lower train.learning_rate")
    found = hinted_cause(group(first=RuntimeError(GLOO), second=ours))
    assert str(found) == "the loss is nan"
