"YAML of settings: plain values alone, small, each error with file and key."

import json
import time

import pytest

from learngene.recipe import Recipe, Sweep, recipe_files
from learngene.validation import validate
from learngene.yaml_files import MAX_VALUES, parse_yaml, read_yaml

RECIPE = "name: x\nancestry: vit_nano_p2_8.digits\n"
BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]\n" for i in range(1, 9)
)
TEN_LABELS = "{" + ", ".join(f"{label}: {{}}" for label in range(10)) + "}"
SLIM_BOMB = "a0: &a0 " + "x" * 9000 + "\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 8))

REFUSED = {
    "date": ("train: {lr: 2026-01-01}", "train.lr is a date ('2026-01-01')"),
    "time": ("method: {options: {x: 2026-01-01 10:00:00}}", "method.options.x is a date"),
    "date as key": ("method: {options: {2026-01-01: 1}}", "method.options.2026-01-01 is a date"),
    "set": ("data: !!set {a, b}", "data is a set"),
    "binary": ("data: {name: !!binary aGk=}", "data.name is binary data"),
    "ordered": ("data: !!omap [a: 1]", "data is an ordered mapping"),
    "pairs": ("data: !!pairs [a: 1]", "data is a list of pairs"),
    "tag": ("data: !cat {a: 1}", "data is not YAML of plain values, but !cat"),
    "python": ("data: !!python/object/apply:os.system ['true']", "data is not YAML of plain values"),
    "python name": ("data: {name: !!python/name:os.system ''}", "data.name is not YAML of plain values"),
    "merge": ("train: {<<: {lr: 1}}", "train.<< is a merge key"),
    "boolean key": ("method: {options: {on: 1}}", "method.options.on is a key that reads as true; put it in quotes"),
    "boolean key no": ("no: 1", "no is a key that reads as false"),
    "empty key": ("method: {options: {~: 1}}", "method.options.~ is a key that reads as nothing"),
    "list as key": ("method: {options: {[1, 2]: 1}}", "method.options has a list or a mapping as a key"),
    "whole key": ("1: 2", "unknown key 1"),
    "whole key inside": ("train: {1: 2}", "train: unknown key 1"),
    "whole key in options": ("method: {options: {1: 2}}", "text as keys, not 1"),
    "twice": ("train:\n  lr: 1\n  lr: 2", "train.lr is given twice"),
    "twice at the top": ("seed: 1\nseed: 2", "seed is given twice"),
    "long number": ("seed: " + "9" * 5000, "seed is '999"),
    "large number": ("seed: 9223372036854775808", "seed is '9223372036854775808'; write a finite number below 2^63"),
    "large seed": ("seed: 4294967296", "seed is 4294967296, wanted at most 4294967295"),
    "too many workers": ("train: {workers: 100000}", "train.workers is 100000, wanted at most 1024"),
    "octal": ("seed: 010", "seed is '010'; write a plain decimal number"),
    "hexadecimal": ("seed: 0x1F", "seed is '0x1F'; write a plain decimal"),
    "sixties": ("train: {epochs: 1:30}", "train.epochs is '1:30'; write a plain decimal"),
    "sixties of a float": ("train: {lr: 1:30.5}", "train.lr is '1:30.5'; write a plain decimal"),
    "inf": ("train: {lr: .inf}", "train.lr is '.inf'; write a finite number"),
    "nan": ("train: {lr: .nan}", "train.lr is '.nan'; write a finite number"),
    "overflow": ("train: {lr: 1e999}", "train.lr is '1e999'; write a finite number"),
    "nan key": ("method: {options: {.nan: 1}}", "method.options..nan is '.nan'"),
    "nan in options": ("method: {options: {eps: .nan}}", "method.options.eps is '.nan'"),
    "text infinity": ("method: {options: {eps: '1e999'}}", "finite numbers, lists and mappings, not inf"),
    "not an int": ("seed: !!int abc", "seed is 'abc'; write a plain decimal"),
    "empty int": ("seed: !!int ''", "seed is ''; write a plain decimal"),
    "not a bool": ("seed: !!bool abc", "seed is 'abc', wanted bool"),
    "not a float": ("seed: !!float abc", "seed is 'abc', wanted float"),
    "tab": ("train:\n\tlr: 1", "found character '\\t' that cannot start any token (line 4, column 1)"),
    "documents": ("---\na: 1", "there are several documents; keep one"),
    "unclosed": ("a: [1", "is not YAML"),
    "zero byte": ("a: \0", "is not YAML"),
    "undefined alias": ("a: *b", "found undefined alias"),
    "its own alias": ("a: &a [*a]", "nested more than 16 deep|an alias within itself"),
    "deep": ("a: " + "[" * 10_000, "nested more than 16 deep"),
    "deep mappings": ("a: " + "{a: " * 10_000, "nested more than 16 deep"),
    "deep blocks": ("".join(f"{' ' * i}a:\n" for i in range(200)), "nested more than 16 deep"),
    "long text": ("data: {path: " + "x" * 10_001 + "}", "data.path has 10,001 characters"),
    "long list": ("shape: {heads: [" + "1," * 20_001 + "]}", "holds more than 20,000 values"),
    "wrong list": ("train: {lr: [" + "1," * 5000 + "]}", "train.lr is [1, 1, 1, 1, 1, 1, ...], wanted"),
    "long key": ("k" * 900 + ": 1", "unknown key 'kkk"),
    "name with a path": ("data: {name: 1}\n", "data.name is 1, wanted str"),
}


@pytest.mark.parametrize("text, says", REFUSED.values(), ids=REFUSED)
def test_what_is_no_plain_setting_is_refused_by_its_key(tmp_path, text, says):
    file, began = tmp_path / "r.yaml", time.monotonic()
    file.write_text(RECIPE + text)
    with pytest.raises(ValueError) as e:
        Recipe.load(file)
    message = str(e.value)
    assert any(option in message for option in says.split("|")), message
    assert message.startswith(str(file)) and "\n" not in message and len(message) < 700 + len(str(file))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", [BOMB, SLIM_BOMB, "x: " + "a" * 10**6], ids=["wide", "slim", "large"])
def test_a_small_file_cannot_fill_the_memory(tmp_path, text):
    (tmp_path / "r.yaml").write_text(RECIPE + text)
    with pytest.raises(ValueError, match="r.yaml.*(aliases|values|larger than 256 KB|unknown key)"):
        Recipe.load(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    "raw, says",
    [
        (b"", "holds NoneType, wanted a mapping of keys to values. The file is empty"),
        (b"# a remark\n", "The file is empty"),
        (b"- 1\n", "holds list, wanted a mapping"),
        (b"hello", "holds str, wanted a mapping"),
        (RECIPE.encode("utf-16"), "is not YAML in UTF-8"),
        ("name: größe\nancestry: y".encode("latin-1"), "is not YAML in UTF-8 (invalid start byte at byte 8)"),
        (b"name: \xed\xa0\x80", "is not YAML in UTF-8"),
    ],
)
def test_files_that_hold_no_mapping(tmp_path, raw, says):
    (tmp_path / "r.yaml").write_bytes(raw)
    with pytest.raises(ValueError) as e:
        Recipe.load(tmp_path / "r.yaml")
    assert says in str(e.value) and str(tmp_path / "r.yaml") in str(e.value)


@pytest.mark.parametrize("start", ["\ufeff", "---\n", "%YAML 1.1\n---\n", "# a remark\r\n"])
def test_usual_ways_to_begin_a_file(tmp_path, start):
    (tmp_path / "r.yaml").write_bytes((start + RECIPE).encode())
    assert Recipe.load(tmp_path / "r.yaml").name == "x"


def test_values_as_people_write_them():
    text = "{a: 5e-4, b: 1_000, c: -3, d: 0, e: yes, f: ~, g: '010', h: 0.5, i: [1, 2], j: {k: v}, "
    text += "l: '2026-01-01', 3: x}"
    expected = dict(a=5e-4, b=1000, c=-3, d=0, e=True, f=None, g="010", h=0.5, i=[1, 2], j=dict(k="v"), l="2026-01-01")
    assert parse_yaml(text, "x") == expected | {3: "x"}
    assert parse_yaml("a: &a {b: 1}\nc: *a", "x") == dict(a=dict(b=1), c=dict(b=1)), "a few aliases are fine"
    assert len(parse_yaml("[" + "1, " * (MAX_VALUES - 2) + "]", "x")) == MAX_VALUES - 2


def test_shipped_files_are_plain():
    for file in recipe_files():
        assert json.loads(json.dumps(read_yaml(file)))


@pytest.mark.parametrize(
    "text, says",
    [
        ("vary: {a: {on: {}}}", "vary.a.on is a key that reads as true"),
        ("vary: {a: {1: {train: {lr: fast}}, 2: {}}}", "train.lr is 'fast', wanted"),
        ("vary: {a: {x: 3}}", "vary['a']['x'] is 3, wanted dict"),
        ("vary: 3", "vary is 3, wanted"),
        ("vary: {a: 3}", "vary['a'] is 3, wanted dict"),
        ("vary: {a: {x: {}}}\nseeds: 3", "seeds is 3, wanted list"),
        ("vary: {a: {x: {}}}\nseeds: [0, 2.5]", "seeds[1] is 2.5, wanted int"),
        (
            "vary: {" + ", ".join(f"a{i}: {TEN_LABELS}" for i in range(30)) + "}",
            "at most 10,000 are possible; split the sweep",
        ),
        ("vary: {a: {" + "x" * 400 + ": {}}}", "wanted one that can be a file's"),
    ],
)
def test_sweeps_name_their_file_and_key(tmp_path, text, says):
    file = tmp_path / "s.yaml"
    file.write_text("name: x\nbase: {ancestry: vit_nano_p2_8.digits}\n" + text)
    with pytest.raises(ValueError) as e:
        Sweep.load(file)
    assert says in str(e.value) and str(file) in str(e.value) and len(str(e.value)) < 700 + len(str(file))


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", ".a", "..", "a\0", "a\nb", "a\tb", "ä" * 76, "\ud800"])
def test_names_become_files(name):
    with pytest.raises(ValueError, match="name is .*, wanted one that can be a file's"):
        Recipe.from_dict(dict(name=name, ancestry="y"))
    with pytest.raises(ValueError, match="name is .*, wanted one that can be a folder's"):
        validate(Sweep, dict(name=name, base={}, vary={}), "s.yaml")


@pytest.mark.parametrize("name", ["a", "a b", "ε-1.5", "x" * 150, "a.b", "table8-ε_0.1_x"])
def test_names_that_are_fine(name):
    assert Recipe.from_dict(dict(name=name, ancestry="y")).name == name
