"""Seeded ways to spoil an input: bytes, text and nested values."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

#: What a place that expects a number, a word or a list may hold instead.
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**5000,
    1e-320, 1e308, float("inf"), float("-inf"), float("nan"),
    "", " ", "0", "-1", "1e999", "nan", "None", "true", "cat", "a\nb", "a\tb", "a\0b", "\ud800", "‮abc", "é" * 300,
    "x" * 100_000, "9" * 20_000, "~nosuchuser/x", "/dev/zero", "/dev/stdin", "../" * 40 + "etc/passwd", "C:\\x\\y",
    "*", "%s%n",
    "__import__('os').system('true')", "!!python/object:os.system", "=1+1", "[" * 5000,
    [], {}, [[]], [None], [[], {}], {"a": 1}, {1: 2}, {"": ""}, list(range(10_000)),
)  # fmt: skip

_HOSTILE_BYTES = (
    b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\x1b[2J",
    b"%", b"{" * 300,
)  # fmt: skip


def rng(name: str, seed: int = 0) -> random.Random:
    """A random source of its own for each kind of input and seed, the same in every run."""
    return random.Random(f"{name} {seed}")


def flip_bits(data: bytes, random: random.Random) -> bytes:
    """One to eight bits turned over."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8) if data else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(data: bytes, random: random.Random) -> bytes:
    """The beginning only."""
    return data[: random.randrange(len(data) + 1)]


def splice(data: bytes, random: random.Random) -> bytes:
    """A stretch written over another place."""
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    place = random.randrange(len(data) + 1)
    return data[:place] + data[start:end] + data[place + end - start :]


def duplicate(data: bytes, random: random.Random) -> bytes:
    """A stretch said twice."""
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] + data[end:]


def remove(data: bytes, random: random.Random) -> bytes:
    """A stretch left out."""
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def insert(data: bytes, random: random.Random) -> bytes:
    """Bytes put in that mean something to many formats."""
    place = random.randrange(len(data) + 1)
    return data[:place] + random.choice(_HOSTILE_BYTES) + data[place:]


def mutate_bytes(data: bytes, random: random.Random) -> bytes:
    """One to three changes of the above."""
    for _ in range(random.randint(1, 3)):
        data = random.choice((flip_bits, flip_bits, truncate, splice, duplicate, remove, insert))(data, random)
    return data


def mutate_text(text: str, random: random.Random) -> str:
    """Tokens swapped, doubled, left out or replaced by hostile ones, one to three times."""
    tokens = re.findall(r"\w+|\s+|[^\w\s]", text)
    for _ in range(random.randint(1, 3) if tokens else 0):
        place, other = (random.randrange(len(tokens)) for _ in range(2))
        match random.randrange(5):
            case 0:
                tokens[place], tokens[other] = tokens[other], tokens[place]
            case 1:
                tokens.insert(place, tokens[other])
            case 2:
                tokens[place] = ""
            case _:
                tokens[place] = hostile_text(random)
    return "".join(tokens)


def hostile_text(random: random.Random) -> str:
    """A hostile value as it would be written in a file."""
    value = random.choice(HOSTILE_VALUES)
    return "9" * 5000 if isinstance(value, int) and value > 10**1000 else str(value)


def mutate_tree(tree: Any, random: random.Random, values: Sequence[Any] = HOSTILE_VALUES) -> Any:
    """A copy of nested dicts and lists in which one to three entries are replaced, left out or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(random.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return random.choice(values)
        holder, key = random.choice(places)
        match random.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 1:
                holder[str(key) + "x"] = copy.deepcopy(holder[key])
            case _:
                holder[key] = copy.deepcopy(random.choice(values))
    return tree


def _places(tree: Any) -> Any:
    """Every (holder, key) in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def mutate_document(
    text: str,
    random: random.Random,
    seed: int,
    *,
    parse: Callable[[str], Any],
    write: Callable[[Any], str],
    values: Sequence[Any],
) -> bytes:
    """A file of text spoilt in its bytes, its tokens or, parsed and written again, its values: by seeds in turn."""
    match seed % 3:
        case 0:
            return mutate_bytes(text.encode(), random)
        case 1:
            return mutate_text(text, random).encode("utf-8", "replace")
        case _:
            return write(mutate_tree(parse(text), random, values)).encode("utf-8", "replace")
