"""Ray: connects to a cluster or starts an embedded one; trains, judges and fine-tunes on its workers."""

import os

# Ray prints what happens to its workers to standard output, where the command line may print JSON, whatever it is told
# about logging. It reads this setting when it is imported, and every module of this package is imported after this one.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
