"""Averages the fine-tuned copies of a run's architecture, and makes what is better a candidate of its own."""

from experiments import stages
from experiments.reporter import Reporter
from experiments.session import Session
from hardware.files import write_json
from nas.accuracy import metric_label
from nas.refine import read_refined
from nas.soup import SOUP_FILE, Soup, copy_dir, make_soup, read_soup
from searchspaces import Architecture


def average_copies(session: Session, arch: Architecture, *, copies: int, reporter: Reporter) -> Soup | None:
    """Average the finished copies of one architecture, unless the very same were averaged before.

    Args:
        session: an open session.
        arch: fine-tuned in `copies` copies.
        copies: how many; those that failed are left out.
        reporter: hears what came of it.

    Returns:
        None if fewer than two copies are finished.
    """
    run = session.run
    directory = run.refine_dir(arch.arch_id)
    found = [read_refined(copy_dir(run, arch.arch_id, number)) for number in range(copies)]
    refined = [one for one in found if one is not None]
    if len(refined) < 2:
        reporter.message(f"{len(refined)} of {copies} copies of {arch.arch_id} are finished: nothing is averaged")
        return None
    soup = read_soup(directory)
    if soup is None or set(soup.copies) != {one.candidate.candidate_id for one in refined}:
        with session.bench.computing():
            soup = make_soup(
                refined,
                judge=session.workload.subnet_judge,
                store=run.candidates,
                shape=run.space.input_shape(arch),
            )
        if soup.candidate is not None:
            stages.record_trained(session, soup.candidate, accuracy=soup.greedy, seconds=soup.seconds)
        # Last: with this file everything is there.
        write_json(directory / SOUP_FILE, soup.to_json())
    label = metric_label(soup.greedy.metric)
    kept = "is a candidate" if soup.candidate is not None else "is no better and not kept"
    reporter.message(
        f"{arch.arch_id}: the mean of {len(soup.members)} of {len(soup.copies)} copies {kept}: {label} on search "
        f"{soup.greedy.value:.2%}, of the best copy {soup.best_copy.value:.2%}"
    )
    return soup
