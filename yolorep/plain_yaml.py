"""YAML text as plain data, within limits that no honest file reaches: what it costs to read follows its size."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import yaml
from yaml.composer import Composer

from yolorep.texts import NotText, decode_text

#: Of a file, in bytes.
LARGEST_FILE = 4 << 20
#: Scalars, lists and mappings, with each alias counted as what it stands for.
MOST_NODES = 150_000
#: Lists and mappings within each other.
DEEPEST = 100
#: Keys of the outermost mapping.
MOST_KEYS = 250
#: Characters of a number.
LONGEST_NUMBER = 100

_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset({None, "!", f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map"})
_NUMBERS = frozenset({f"{_TAG}int", f"{_TAG}float"})


class YamlFault(ValueError):
    """Bytes that are no YAML, or more than is read; the text says what and in which line, without the file's name."""


def parse_yaml(data: bytes, *, texts: Collection[str] = ()) -> Any:
    """Reads YAML as plain data: no tags but ``!!str``, no key twice.

    Args:
        data: the content of a file, in UTF-8, or in what a byte order mark tells.
        texts: keys of the outermost mapping whose lists and mappings hold text as it is written: ``0402``, ``no`` and
            ``1e3`` are not taken for numbers or truth values, whether as values or as keys.

    Raises:
        YamlFault: if it is no YAML, or beyond a limit.
    """
    if len(data) > LARGEST_FILE:
        raise YamlFault(f"expected a YAML file of at most {LARGEST_FILE >> 20} MB, found a larger one")
    try:
        loader = _Loader(_decoded(data))
        root = loader.get_single_node()
        if root is None:
            return None
        if not isinstance(root, yaml.MappingNode):
            return loader.construct_document(root)
        loader.flatten_mapping(root)
        if len(root.value) > MOST_KEYS:
            raise YamlFault(f"expected at most {MOST_KEYS} keys, found {len(root.value)}")
        written = {
            key.value: _written(value, loader)
            for key, value in root.value
            if key.value in texts and not isinstance(value, yaml.ScalarNode)
        }
        root.value = [(key, value) for key, value in root.value if key.value not in written]
        return loader.construct_document(root) | written
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        told = [getattr(error, name, None) for name in ("context", "problem")]
        if told[0] == "while parsing a quoted scalar":
            told.append("in double quotes a backslash begins an escape: write / in paths")
        raise YamlFault(f"expected YAML, found an error{where}: {', '.join(filter(None, told))}") from error
    except (ValueError, OverflowError) as error:  # a date that does not exist, say
        if isinstance(error, YamlFault):
            raise
        raise YamlFault(f"expected YAML, found a value that is none ({error})") from error


def _decoded(data: bytes) -> str:
    try:
        text = decode_text(data)
    except NotText as error:
        raise YamlFault(f"expected a YAML text file, found {error}") from error
    if wrong := _NOT_YAML.search(text):
        before = text[: wrong.start()]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise YamlFault(
            f"expected a YAML text file, found the control character U+{ord(wrong.group()):04X} at line {line}, column "
            f"{column}; delete it, or save the file as UTF-8"
        )
    if tag := re.search(r"^%TAG", text, re.MULTILINE):
        raise YamlFault(f"expected YAML, found %TAG in line {text.count(chr(10), 0, tag.start()) + 1}")
    return text


def _written(node: yaml.Node, loader: _Loader) -> Any:
    """The text of a node's scalars, in the node's lists and mappings."""
    if isinstance(node, yaml.SequenceNode):
        return [_written(value, loader) for value in node.value]
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        return {key.value: _written(value, loader) for key, value in node.value}
    return node.value


_PARSER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Counting(Composer):
    """Composes the nodes of a document, and stops at a limit before anything is built of them."""

    check_event: Any  # of the parser that this is mixed with
    get_event: Any
    resolve: Any

    def __init__(self, text: str) -> None:
        _PARSER.__init__(self, text)  # type: ignore[arg-type]
        self.anchors: dict[str, yaml.Node] = {}
        self._nodes = self._depth = self._deepest = 0
        self._sizes: dict[str, tuple[int, int]] = {}  # anchor -> nodes, and depth below it

    def compose_node(self, parent: Any, index: Any) -> Any:
        event, before = self.get_event(), self._nodes
        if isinstance(event, yaml.AliasEvent):
            return self._repeated(event)
        tag, anchor, mark = event.tag, event.anchor, event.start_mark
        if tag not in _TAGS:
            raise _fault(event, f"the tag {tag[:40]!r}; write plain values")
        self._depth += 1
        outer, self._deepest = self._deepest, self._depth
        self._count(event, 1, 0)
        node: Any
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
            self._keep(anchor, node)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = yaml.SequenceNode(f"{_TAG}seq", [], mark)
            self._keep(anchor, node)
            while not self.check_event(yaml.SequenceEndEvent):
                node.value.append(self.compose_node(node, None))
            self.get_event()
        else:
            node = yaml.MappingNode(f"{_TAG}map", [], mark)
            self._keep(anchor, node)
            self._fill(node)
        if anchor is not None:
            self._sizes[anchor] = self._nodes - before, self._deepest - self._depth
        self._deepest = max(outer, self._deepest)
        self._depth -= 1
        return node

    def _keep(self, anchor: str | None, node: yaml.Node) -> None:
        if anchor is None:
            return
        if anchor in self.anchors:
            raise _fault(node, f"the anchor {anchor[:40]!r} a second time")
        self.anchors[anchor] = node

    def _repeated(self, event: Any) -> yaml.Node:
        name = event.anchor
        if name not in self._sizes:
            where = "within itself" if name in self.anchors else "nowhere before its use"
            raise _fault(event, f"the anchor {name[:40]!r} {where}")
        size, height = self._sizes[name]
        self._count(event, size, height + 1)
        return self.anchors[name]

    def _count(self, event: Any, size: int, height: int) -> None:
        self._nodes += size
        self._deepest = max(self._deepest, self._depth + height)
        if self._nodes > MOST_NODES:
            raise _fault(event, f"more than {MOST_NODES} values, those that aliases repeat included")
        if self._deepest > DEEPEST:
            raise _fault(event, f"more than {DEEPEST} lists and mappings within each other")

    def _scalar(self, event: Any) -> yaml.ScalarNode:
        text = event.value
        tag = event.tag if event.tag not in (None, "!") else self.resolve(yaml.ScalarNode, text, event.implicit)
        if tag in _NUMBERS and len(text) > LONGEST_NUMBER:
            raise _fault(event, f"a number of {len(text)} characters, {text[:20]}…")
        if _NOT_TEXT.search(text):
            raise _fault(event, "text with a character that is none (U+0000, or half of a pair)")
        return yaml.ScalarNode(tag, text, event.start_mark)

    def _fill(self, node: yaml.MappingNode) -> None:
        lines: dict[str, int] = {}
        while not self.check_event(yaml.MappingEndEvent):
            key, value = self.compose_node(node, None), self.compose_node(node, None)
            if not isinstance(key, yaml.ScalarNode):
                raise _fault(key, "a list or mapping for a key; write one word")
            if key.value in lines:
                raise _fault(key, f"the key {key.value[:40]!r} a second time (first in line {lines[key.value]})")
            lines[key.value] = key.start_mark.line + 1
            node.value.append((key, value))
        self.get_event()


if yaml.__with_libyaml__:

    class _Loader(_Counting, yaml.CSafeLoader):
        """Text is parsed by libyaml, ten times faster; nodes are composed here, where they can be counted."""
else:

    class _Loader(_Counting, yaml.SafeLoader):  # type: ignore[no-redef]
        """The same without libyaml."""


def _fault(at: Any, found: str) -> YamlFault:
    return YamlFault(f"expected YAML, found in line {at.start_mark.line + 1} {found}")
