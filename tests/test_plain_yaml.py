"""YAML as plain data: what is read, and the limits."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from yolorep.config import resources_dir
from yolorep.plain_yaml import DEEPEST, LARGEST_FILE, MOST_KEYS, MOST_NODES, YamlFault, parse_yaml

#: Read as it is, by the C parser where there is one.
_REFERENCE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: A hundred lists, each of which is a list of the one before.
_CHAIN = "".join(f"a{level}: &a{level} [{f'*a{level - 1}' if level else 'x'}]\n" for level in range(DEEPEST))
_SQUARED = f"a: &a [x, x]\nb: &b [{'*a, ' * 400}]\nc: [{'*b, ' * 400}]"


def test_packaged_files_read_as_ever() -> None:
    paths = [path for folder in ("cfg", "data") for path in (resources_dir() / folder).rglob("*.yaml")]
    assert len(paths) > 20
    for path in paths:
        assert parse_yaml(path.read_bytes()) == yaml.load(path.read_text(encoding="utf-8"), Loader=_REFERENCE)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("- 1\n- a", [1, "a"]),
        (
            "a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: *a",
            {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": {"b": 1, "c": 2}},
        ),
        ("a: !!str 0402", {"a": "0402"}),
        ("a: 0402", {"a": 258}),
        ("names: [0402, no, {~: 1e3}]\nnc: 010", {"names": ["0402", "no", {"~": "1e3"}], "nc": 8}),
        ("names: null", {"names": None}),
        ("x: &x [007]\nnames: *x", {"x": [7], "names": ["007"]}),
        ("<<: {names: [on]}\nnc: 1", {"names": ["on"], "nc": 1}),
    ],
)
def test_reads(text: str, value: Any) -> None:
    assert parse_yaml(text.encode(), texts=("names",)) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: 1\nb: \xca\xfd", "found the byte 0xca in line 2, which is no UTF-8; save the file as UTF-8"),
        ("a: 1\nb: 数".encode("utf-16")[:-1], "found the byte 0x[0-9a-f]+ in line 2, which is no UTF-16-LE"),
        (b"a: 1\n# x\xc2\x80", r"control character U\+0080 at line 2, column 4; delete it"),
        (b"a: \x1b[2J", r"U\+001B at line 1, column 4"),
        ("a: 1".encode("utf-16-le"), r"U\+0000 at line 1, column 2; delete it, or save the file as UTF-8"),
        (b"a: [1", "found an error at line 2, column 1: .*did not find"),
        (b"a: 2024-13-45", "a value that is none .month must be in 1..12"),
        (b"a: !!python/object:os.system x", "line 1 the tag 'tag:yaml.org,2002:python/object:os.*; write plain values"),
        (b"a: !!timestamp x", "line 1 the tag"),
        (b"%TAG ! x\n---\na: 1", "found %TAG in line 1"),
        (b"a: 1\n---\nb: 1", "another document"),
        (b"a: 1\nb: 2\na: 3", "in line 3 the key 'a' a second time .first in line 1"),
        (b"a: {0: x, '0': y}", "the key '0' a second time"),
        (b"? [a]\n: b", "in line 1 a list or mapping for a key"),
        (b"a: *b", "the anchor 'b' nowhere before its use"),
        (b"a: &a [*a]", "the anchor 'a' within itself"),
        (b'a: "\\0"', "text with a character that is none"),
        (b"nc: " + b"9" * 20_000, "in line 1 a number of 20000 characters"),
        (b'a: "C:\\data"', "unknown escape character, in double quotes a backslash begins an escape: write / in paths"),
        (b"<<: 3", "expected a mapping or list of mappings for merging"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), f"more than {DEEPEST} lists and mappings within each other"),
        (_CHAIN.encode(), f"more than {DEEPEST} lists and mappings within each other"),
        (b"".join(b"k%d: 1\n" % number for number in range(MOST_KEYS + 1)), f"at most {MOST_KEYS} keys, found 251"),
        (_SQUARED.encode(), f"more than {MOST_NODES} values"),
        (b"#" * (LARGEST_FILE + 1), "at most 4 MB"),
    ],
)  # fmt: skip
def test_refuses(data: bytes, message: str) -> None:
    with pytest.raises(YamlFault, match=message) as error:
        parse_yaml(data)
    assert "\n" not in str(error.value)


def test_just_within_the_limits() -> None:
    value = parse_yaml(b"[" * DEEPEST + b"]" * DEEPEST)
    for _ in range(DEEPEST - 1):
        (value,) = value
    assert value == []
    assert len(parse_yaml(b"".join(b"k%d: 1\n" % number for number in range(MOST_KEYS)))) == MOST_KEYS
