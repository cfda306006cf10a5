"""Every architecture of a small space."""

import numpy as np

from searchspaces.genomes import Genomes
from searchspaces.space import SearchSpace

ENUMERABLE = 20_000
"""A space of no more architectures is small enough to be listed."""


def enumerate_genomes(space: SearchSpace) -> Genomes:
    """Every architecture of a space once, as canonical genomes (size, G); for small spaces only.

    Random sampling would miss some: deep networks are many, and each of them is drawn rarely.
    """
    genomes_NG: Genomes = np.empty((1, 0), dtype=np.int8)
    columns: dict[str, int] = {}
    for g, choice in enumerate(space.choices):
        active_N = np.ones(len(genomes_NG), dtype=np.bool_)
        if choice.parent is not None:
            allowed = space.choices[columns[choice.parent]].values
            positions = [allowed.index(value) for value in choice.parent_values]
            active_N = np.isin(genomes_NG[:, columns[choice.parent]], positions)
        counts_N = np.where(active_N, len(choice.values), 1)
        first_N = np.cumsum(counts_N) - counts_N
        entries_M = np.arange(counts_N.sum()) - np.repeat(first_N, counts_N)
        entries_M[~np.repeat(active_N, counts_N)] = -1
        repeated_MG = np.repeat(genomes_NG, counts_N, axis=0)
        genomes_NG = np.concatenate([repeated_MG, entries_M[:, None].astype(np.int8)], axis=1)
        columns[choice.name] = g
    return genomes_NG
