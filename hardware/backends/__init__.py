"""Device backends: every module here with an attribute `BACKEND` is found by `hardware.device`."""
