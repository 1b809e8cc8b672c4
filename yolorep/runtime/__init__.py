"""Running a detector: one backend a class, all with the same call."""
