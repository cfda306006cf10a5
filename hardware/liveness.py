"""How much activation memory is alive at once when a network's operators run one after the other.

The schedule is the eager order of the extracted network, which is the order of the slots. A tensor is alive from the
operator that writes it to the last operator that reads it, both included; the network's input is there from the
beginning, a tensor that nobody reads is there only while it is written. Nothing is reused in place: an operator's
inputs and its output exist side by side. A convolution with its normalisation and activation is one operator, and so is
a sum with the activation after it; of a squeeze-excite unit, the gate's one number a channel counts beside input and
output.
Runtimes that fuse more, reuse buffers in place or reorder operators need less.

Letters: N architectures, S operator slots.
"""

import numpy as np

from searchspaces.graph import NOTHING, Counts, OpTable


def alive_elements(table: OpTable) -> Counts:
    """Activation elements (N, S) that are alive while each operator runs on one image; zero where a slot is empty."""
    num_slots = len(table.names)
    # One row a tensor: the network's input, then the result of every slot.
    last_KN = np.broadcast_to(np.arange(-1, num_slots)[:, None], (num_slots + 1, len(table.macs))).copy()
    for s in range(num_slots):
        for source_N in table.inputs[:, s].T:
            readers = np.flatnonzero(source_N != NOTHING)
            last_KN[source_N[readers] + 1, readers] = s
    written_SN = np.ascontiguousarray(table.output_elements.T)
    # What becomes alive with a slot, less what is dead from it on; the row after the last slot is nobody's.
    change_SN = np.zeros((num_slots + 1, len(table.macs)), dtype=np.int64)
    change_SN[:-1] = written_SN
    change_SN[0] += table.network_input_elements
    rows = np.arange(len(table.macs))
    for last_N, elements_N in zip(last_KN, (table.network_input_elements, *written_SN), strict=True):
        change_SN[last_N + 1, rows] -= elements_N
    alive_NS = change_SN.cumsum(axis=0)[:-1].T + table.workspace_elements
    return np.where(table.present(), alive_NS, 0)


def peak_activation_elements(table: OpTable) -> Counts:
    """The most activation elements that are alive at once, (N,), for one image; see the module's text."""
    peak_N: Counts = alive_elements(table).max(axis=1)
    return peak_N
