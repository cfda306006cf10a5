"""Training of the supernet: schedules, distillation, loop, checkpoints."""
