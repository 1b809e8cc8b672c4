"""Data sets: what a data YAML says, label formats, images, augmentation and loaders."""
