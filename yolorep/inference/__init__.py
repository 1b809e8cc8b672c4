"""Running a model on images."""
