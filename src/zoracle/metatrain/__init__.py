"""Meta-training: unrolls, meta-losses, schedules, checkpoints."""
