"""Small C programs around a generated network, the tools that compile them, and the emulator that runs them."""
