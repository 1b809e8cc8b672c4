"""Pictures of runs and data: curves and grids."""
