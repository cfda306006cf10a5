"""What came out of a worker: our own errors unwrapped from Ray's, and others in one line."""

from collections.abc import Iterator

from ray.exceptions import RayActorError

from searchspaces.errors import Hinted, in_one_line

# Ray goes on for a page about what may have happened.
_RAYS_GUESSES = "Some common causes"
_LONGEST_LINE = 300
# What gloo says on the workers that are left when one is gone.
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer")


def hinted_cause(error: BaseException) -> Hinted | None:
    """The error of ours that a worker raised, just as it raised it; None if it was none of ours.

    Ray's own exception may be an instance of our class, too, with a remote traceback as its text and without the hint.
    """
    for cause in _causes(error):
        if isinstance(cause, Hinted) and not _is_rays(cause):
            return cause
    return None


def is_worker_death(error: BaseException) -> bool:
    """Whether a worker's process ended (killed, out of memory, machine lost), whatever its peers said about it.

    Where the peers are asked in the moment of the death, their broken connection is all that Ray hears.
    """
    return any(isinstance(cause, RayActorError) or _says_lost_peer(cause) for cause in _causes(error))


def describe(error: BaseException) -> str:
    """An error of a worker in one line, without Ray's traceback."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, RayActorError):
            return f"the worker's process died: {last_line(str(cause))}"
    for cause in causes:
        if not _is_rays(cause):
            return in_one_line(cause)
    return f"{type(error).__name__}: {last_line(str(error))}"


def last_line(text: str) -> str:
    """The last line of a message, shortened: where Ray's tracebacks say what happened."""
    lines = [line.strip() for line in text.partition(_RAYS_GUESSES)[0].splitlines() if line.strip()]
    return lines[-1][:_LONGEST_LINE] if lines else "no reason was given"


def _says_lost_peer(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and not _is_rays(error) and any(text in str(error) for text in _LOST_PEER)


def _is_rays(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "ray"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything that Ray wrapped in it, outermost first, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        # Where tasks and actors, Ray Train's controller, its health check and its workers keep theirs.
        inner: list[object] = [
            getattr(current, name, None) for name in ("cause", "controller_failure", "health_check_failure")
        ]
        inner += dict(getattr(current, "worker_failures", {})).values()
        inner += [current.__cause__, current.__context__]
        waiting += [one for one in inner if isinstance(one, BaseException)]
