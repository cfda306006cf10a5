"""Scripts that benchmarks run with an interpreter of its own, where a peer is installed; never imported from here."""
