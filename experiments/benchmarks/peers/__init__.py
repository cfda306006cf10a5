"""Scripts for another interpreter, where a peer is installed; they import nothing of ours."""
