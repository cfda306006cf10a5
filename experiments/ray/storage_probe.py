"""Asks every node of a cluster whether it sees a directory as the others do. Runs as a job on the head.

Run as `python -c SOURCE DIRECTORY MARKER here|there`: with "here" the marker file is there already, with "there" this
program makes directory and marker. Its last line is JSON: why a node cannot be used, by node; null where it can.
Needs nothing but Ray: our packages are not there yet.
"""

import json
import logging
import os
import sys
from pathlib import Path

_ANSWER_SECONDS = 60


def look(directory: Path, marker: str) -> str | None:
    """Runs on each node."""
    if not (directory / marker).exists():
        return "does not see it"
    return None if os.access(directory, os.W_OK | os.X_OK) else "may not write there"


def ask_nodes(directory: Path, marker: str) -> dict[str, str | None]:
    """What each node says, all asked at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(look).options(num_cpus=0, scheduling_strategy=here)
            asked[f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"] = task.remote(directory, marker)
    found: dict[str, str | None] = {}
    for node_name, answer in asked.items():
        try:
            found[node_name] = ray.get(answer, timeout=_ANSWER_SECONDS)
        except ray.exceptions.RayError as e:
            found[node_name] = f"does not answer ({type(e).__name__})"
    return found


def main() -> None:
    """Make the marker if it is not there yet, ask, remove it."""
    directory, marker, place = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    try:
        if place == "there":
            directory.mkdir(parents=True, exist_ok=True)
            (directory / marker).touch()
        found = ask_nodes(directory, marker)
    except OSError as e:
        found = {"the head": f"cannot make it: {e.strerror}"}
    finally:
        if place == "there":
            (directory / marker).unlink(missing_ok=True)
    print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
