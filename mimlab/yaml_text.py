"""YAML as all of mimlab reads it: options, presets, studies, files of parameters.

YAML 1.2's core words: `1e-3` is a number, true and false are the only booleans (`no`, `on` and dates stay the text that was
written), null is null, ~, None or nothing. Plain data alone: no tags, no name twice, no list as a name. What would
unfold without end is refused while it is read.

Differs from YAML 1.2: 007 stays text, since it is a name more often than a seven; so does a number beyond floats, such as 1e999.
"""

import functools
import math
import re
from pathlib import Path

from mimlab.errors import Refused, shown

LONGEST = 1_000_000  # characters of a text
MOST = 50_000  # values in it, those behind aliases counted as often as they are named
DEEPEST = 32  # levels of lists and names
DIGITS = 4000  # of a whole number; Python itself reads 4,300

WORDS = {
    "null": (r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


def load(text, what):
    """What a YAML text says. Raises `Refused`: `what`, line and column, and what is wrong there, on one line."""
    import yaml

    if not isinstance(text, str):
        raise Refused(f"{what}: {shown(text)} is no text")
    if len(text) > LONGEST:
        raise Refused(f"{what}: has {len(text):,} characters, at most {LONGEST:,} are read")
    try:
        return _loader()(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = (error.problem or error.context or "is no YAML").replace("'<stream end>'", "the end")
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise Refused(f"{what}: {place}{said}") from None
    except yaml.YAMLError as error:  # a character that is none
        before = text[: getattr(error, "position", 0)]
        column = len(before) - (before.rfind("\n") + 1)
        raise Refused(
            f"{what}: line {before.count(chr(10)) + 1}, column {column + 1}: {getattr(error, 'reason', error)}"
        ) from None


def read(path, field):
    """What the file at a path or an address says, as `load`. `field` = the path begins a refusal; a huge file is not read whole."""
    from mimlab import remote

    what = f"{field} = {shown(str(path))}"
    try:
        if remote.away(path):
            text = remote.read(path)
        else:
            if Path(path).exists() and not Path(path).is_file():  # a fifo would be waited for
                raise OSError(None, "it is no file")
            with open(path, "rb") as file:
                text = file.read(4 * LONGEST + 1).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(f"{what} cannot be read: it is no text in UTF-8") from None
    except (OSError, ValueError) as error:  # also a name that cannot be one
        raise Refused(f"{what} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return load(text, f"{what} is no YAML file that mimlab reads")


def dump(value):
    """A value as YAML that `load` reads back, in the order that it has."""
    import yaml

    return yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True)


def _resolvers(cls):
    for name, (words, first) in WORDS.items():
        cls.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"(?:{words})$"), first)


@functools.cache
def _loader():
    """The class, made once; PyYAML is imported by whoever reads."""
    import yaml
    from yaml.composer import Composer
    from yaml.constructor import ConstructorError, SafeConstructor
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.resolver import BaseResolver
    from yaml.scanner import Scanner

    class Resolver(BaseResolver):
        pass

    class Constructor(SafeConstructor):
        yaml_constructors = {}

        def construct_yaml_bool(self, node):
            return node.value.lower() == "true"

        def construct_yaml_int(self, node):
            if len(node.value) > DIGITS:
                raise ConstructorError(None, None, f"a number of {len(node.value):,} digits", node.start_mark)
            return int(node.value, 0)

        def construct_yaml_float(self, node):
            text = node.value.lower()
            number = float(text.replace(".inf", "inf").replace(".nan", "nan"))
            return node.value if math.isinf(number) and "inf" not in text else number

        def construct_undefined(self, node):
            raise ConstructorError(
                None,
                None,
                f"the tag {shown(node.tag)}: only plain text, numbers, true, false and null",
                node.start_mark,
            )

    class Loader(Reader, Scanner, Parser, Composer, Constructor, Resolver):
        # also the halves of pairs that stand for bytes of a name which is not UTF-8 (os.fsdecode)
        NON_PRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\udc80-\udcff\ue000-\ufffd\U00010000-\U0010ffff]")

        def __init__(self, text):
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)
            Composer.__init__(self)
            Constructor.__init__(self)
            Resolver.__init__(self)
            self.depth, self.count, self.sizes = 0, 0, {}

        def compose_node(self, parent, index):
            event = self.peek_event()
            if self.check_event(yaml.AliasEvent):
                node = self.anchors.get(event.anchor)
                if node is not None:
                    if id(node) not in self.sizes:
                        raise ConstructorError(None, None, f"*{event.anchor} stands inside itself", event.start_mark)
                    self.add(self.sizes[id(node)], event)
                return super().compose_node(parent, index)
            if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
                raise ConstructorError(
                    None, None, f"the tag {shown(event.tag)}: only plain data is read, without tags", event.start_mark
                )
            self.depth += 1
            if self.depth > DEEPEST:
                raise ConstructorError(None, None, f"more than {DEEPEST} levels deep", event.start_mark)
            before = self.count
            self.add(1, event)
            node = super().compose_node(parent, index)
            self.sizes[id(node)] = self.count - before
            self.depth -= 1
            return node

        def add(self, nodes, event):
            self.count += nodes
            if self.count > MOST:
                raise ConstructorError(
                    None, None, f"more than {MOST:,} values, aliases written out; write fewer", event.start_mark
                )

        def compose_mapping_node(self, anchor):
            node, seen = super().compose_mapping_node(anchor), set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise ConstructorError(None, None, "a list or a dict cannot be a name", key.start_mark)
                name = key.tag if key.tag.endswith(":merge") else self.construct_object(key)
                if name in seen:
                    raise ConstructorError(None, None, f"the name {shown(key.value)} stands twice", key.start_mark)
                seen.add(name)
            return node

    _resolvers(Resolver)
    for name, make in (
        ("null", Constructor.construct_yaml_null), ("bool", Constructor.construct_yaml_bool), ("int", Constructor.construct_yaml_int),
        ("float", Constructor.construct_yaml_float), ("str", Constructor.construct_yaml_str), ("seq", Constructor.construct_yaml_seq),
        ("map", Constructor.construct_yaml_map),
    ):  # fmt: skip
        Constructor.add_constructor(f"tag:yaml.org,2002:{name}", make)
    Constructor.add_constructor(None, Constructor.construct_undefined)
    return Loader


@functools.cache
def _dumper():
    """Quotes whatever this reader, or one of YAML 1.1, would take for something else than text."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    _resolvers(Dumper)
    return Dumper
