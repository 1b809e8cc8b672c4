"""Files of weights: our checkpoints, and those of other programs."""
