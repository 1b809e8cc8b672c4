"""Losses and target assignment: (raw predictions, targets) -> terms."""
