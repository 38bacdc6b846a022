"""Training: rows, batches, losses, curriculum, loop, checkpoints."""
