"""Reading YAML as people write it: 5e-4 is a number, and what reads as something unexpected is refused by its key.

Files are small and flat: limits on their size, depth and aliases keep a crafted one from filling the memory.
"""
import math
import re

import yaml

from .files import shorten

EXPONENT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")  # YAML 1.1 takes such numbers for text
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")  # 010 would read as 8, 1:30 as 90
MAX_BYTES, MAX_DEPTH, MAX_ALIASES = 2**18, 16, 16
MAX_VALUES = 20_000  # counted where aliases repeat them, too
MAX_TEXT, MAX_INT = 10_000, 2**63 - 1
TYPES = {f"tag:yaml.org,2002:{name}": words for name, words in dict(
    timestamp="a date", binary="binary data", set="a set", omap="an ordered mapping", pairs="a list of pairs",
    merge="a merge key", value="a default key").items()}  # what is refused, in words


class StrictLoader(yaml.SafeLoader):
    "PyYAML's safe loader, with YAML 1.2's exponents and limits on depth and aliases."

    def __init__(self, stream):
        super().__init__(stream)
        self.depth = self.aliases = 0

    def compose_node(self, parent, index):
        "Compose a node; YAMLError beyond the limits."
        self.aliases += self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > MAX_DEPTH or self.aliases > MAX_ALIASES:
            problem = f"values are nested more than {MAX_DEPTH} deep" if self.depth > MAX_DEPTH else (
                f"there are more than {MAX_ALIASES} aliases (*name)")
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def read_yaml(path) -> dict:
    "Read a file that holds a mapping. ValueError names the file, the key and what is wrong."
    with open(path, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES // 1024} KB, too much for settings; give a smaller file.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not YAML in UTF-8 ({error.reason} at byte {error.start}); "
                         "save it again in that encoding.") from None
    content = parse_yaml(text, path)
    if not isinstance(content, dict):
        empty = " The file is empty." if content is None else ""
        raise ValueError(f"{path} holds {type(content).__name__}, wanted a mapping of keys to values.{empty}")
    return content


def parse_yaml(
    text: str,
    name,  # of where it is from, for errors
):  # dicts, lists, str, int, float, bool and None
    "Read one YAML document. ValueError names its origin, the key and what is wrong."
    loader = None
    try:
        loader = StrictLoader(text)  # raises for characters that YAML does not allow
        return _Values(loader, name).read(loader.get_single_node(), ())
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {_in_one_line(error)}.") from None
    finally:
        if loader:
            loader.dispose()


def _in_one_line(error):
    "Return what a YAMLError says, without its excerpt."
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if problem == "but found another document":
        problem = "there are several documents; keep one"
    problem = problem or " ".join(str(error).split())[:200]
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else problem


class _Values:
    "Python's values of YAML nodes, each known by the keys that lead to it."

    def __init__(self, loader, name):
        self.loader, self.name, self.count = loader, name, 0

    def read(self, node, path):
        "Return the value of a node."
        self.count += 1
        if self.count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise ValueError(f"{self.name} holds more than {MAX_VALUES:,} values with those of its aliases, or an "
                             f"alias within itself, at {_dotted(path)}; write fewer.")
        if node is None:
            return None
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode) or kind not in ("str", "int", "float", "bool", "null"):
            given = TYPES.get(node.tag, f"not YAML of plain values, but {shorten(node.tag, quote=False)}")
            written = f" ({shorten(node.value)})" if isinstance(node, yaml.ScalarNode) else ""
            raise self.error(path, f"is {given}{written}; quote it if text is meant, or leave it out", node)
        if len(node.value) > MAX_TEXT:
            raise self.error(path, f"has {len(node.value):,} characters, wanted at most {MAX_TEXT:,}", node)
        return self.scalar(node, kind, path)

    def scalar(self, node, kind, path):
        "Return text, a number, a truth value or nothing."
        if kind == "str":
            return node.value
        if kind == "int" and not (DECIMAL.fullmatch(node.value) and len(node.value) <= 20):
            raise self.error(path, f"is {shorten(node.value)}; write a plain decimal number below 2^63", node)
        if kind == "float" and ":" in node.value:
            raise self.error(path, f"is {shorten(node.value)}; write a plain decimal number", node)
        try:
            value = self.loader.construct_object(node)
        except (ValueError, KeyError, IndexError):  # `!!int abc`, `!!bool abc`, `!!int ""`
            raise self.error(path, f"is {shorten(node.value)}, wanted {kind}", node) from None
        if kind == "int" and abs(value) > MAX_INT or kind == "float" and not math.isfinite(value):
            raise self.error(path, f"is {shorten(node.value)}; write a finite number below 2^63", node)
        return value

    def mapping(self, node, path):
        "Return a dict, of keys that are text or numbers and differ."
        values = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(path, "has a list or a mapping as a key; write text", key_node)
            key = self.read(key_node, (*path, key_node.value))
            if isinstance(key, bool) or key is None:
                reads = {True: "true", False: "false", None: "nothing"}[key]
                raise self.error((*path, key_node.value), f"is a key that reads as {reads}; put it in quotes", key_node)
            if key in values:
                raise self.error((*path, key_node.value), f"is given twice: key {shorten(key)}; keep one", key_node)
            values[key] = self.read(value_node, (*path, key))
        return values

    def error(self, path, problem, node):
        "Make a ValueError that names the file, the key and the line."
        return ValueError(f"{self.name}: {_dotted(path)} {problem} (line {node.start_mark.line + 1}).")


def _dotted(path):
    "Join the keys that lead to a value, e.g. train.lr."
    return shorten(".".join(str(key) for key in path), quote=False) or "the document"
