"""The most that any file may ask for, whichever reader it comes through."""

from typing import Any

#: Of any number: larger ones fit no counter, and are a slip of the pen. Seeds may be of 32 bits.
LARGEST_NUMBER = 2**32 - 1
#: Classes of a model or a data set.
MOST_CLASSES = 100_000
#: Letters of a class name.
LONGEST_CLASS_NAME = 1000
#: Layers of a model: PyTorch's modules, those inside blocks and the repeats of rows among them.
MOST_LAYERS = 10_000
#: Pixels of a side of the network input. More are a slip of the pen: a square of this size takes 3 GB by itself.
LARGEST_IMAGE_SIZE = 16_384


def are_class_names(value: Any) -> bool:
    """Whether these are class names that a file may have: a list of text, which lone surrogates are not."""
    return (
        isinstance(value, list)
        and 1 <= len(value) <= MOST_CLASSES
        and all(
            isinstance(name, str) and len(name) <= LONGEST_CLASS_NAME and name.encode(errors="replace").decode() == name
            for name in value
        )
    )
