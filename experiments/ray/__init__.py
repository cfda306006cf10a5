"""Ray: connects to a cluster or starts an embedded one, trains, judges and fine-tunes on its workers."""
