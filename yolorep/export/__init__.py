"""Writing deployable files: one class a format, every file compared with the model before it is kept."""
