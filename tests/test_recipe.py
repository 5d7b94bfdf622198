"Recipes: strict to read, whole when written, and one key for one run."

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from learngene.ancestry import shipped
from learngene.recipe import (
    BASE_FILE,
    AugmentSpec,
    DataSpec,
    MethodSpec,
    Recipe,
    ShapeSpec,
    Sweep,
    TrainSpec,
    find_recipe,
    merge_settings,
    profiles,
    recipe_files,
    recipes_folder,
    trace,
)

GOOD = dict(name="r", ancestry="vit_nano_p2_8.digits")


def make(**change):
    return Recipe.from_dict(GOOD | change)


PARTS = dict(data=DataSpec, augment=AugmentSpec, train=TrainSpec, method=MethodSpec, shape=ShapeSpec)


# --- what is refused


@pytest.mark.parametrize(
    "construct, error, says",
    [
        (lambda: TrainSpec(epochs=-1), ValueError, "TrainSpec: epochs is -1, wanted at least 0."),
        (lambda: DataSpec("digits", image_size="x"), ValueError, "DataSpec: image_size is 'x', wanted int."),
        (lambda: AugmentSpec(mix_up=1), ValueError, "did you mean 'mixup'?"),
        (lambda: dataclasses.replace(TrainSpec(), lr=-1), ValueError, "TrainSpec: lr is -1"),
        (lambda: DataSpec(*range(20)), TypeError, "DataSpec takes fewer values than 20; give them by name: name, "),
    ],
)
def test_specs_built_in_python_have_errors_of_one_line(construct, error, says):
    with pytest.raises(error, match=re.escape(says)) as info:
        construct()
    assert "\n" not in str(info.value) and info.value.__context__ is None


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(ancestor="x"), ["unknown key 'ancestor'", "did you mean 'ancestry'?"]),
        (dict(seeds=1), ["unknown key 'seeds'", "did you mean 'seed'?"]),
        (dict(train=dict(epoch=1)), ["train: unknown key 'epoch'", "did you mean 'epochs'?"]),
        (dict(data=dict(fractoin=0.5)), ["data: unknown key 'fractoin'", "did you mean 'fraction'?"]),
        (dict(augment=dict(mix_up=0.5)), ["augment: unknown key 'mix_up'", "did you mean 'mixup'?"]),
        (dict(method=dict(option={})), ["method: unknown key 'option'", "did you mean 'options'?"]),
        (dict(shape=dict(head=3)), ["shape: unknown key 'head'", "did you mean 'heads'?"]),
        (dict(qqqq=1), ["unknown key 'qqqq'", "known are name, seed"]),
    ],
)
def test_unknown_keys_name_the_near_one_at_every_level(change, says):
    with pytest.raises(ValueError) as e:
        make(**change)
    assert all(s in str(e.value) for s in says), e.value


def test_a_key_that_is_no_text():
    with pytest.raises(ValueError, match="unknown key 3"):
        Recipe.from_dict(GOOD | {3: 1})


def test_a_far_key_gets_no_suggestion():
    with pytest.raises(ValueError) as e:
        make(train=dict(qqqqqq=1))
    assert "did you mean" not in str(e.value)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(seed=True), "seed is True, wanted int"),
        (dict(seed=1.0), "seed is 1.0, wanted int"),
        (dict(seed="1"), "seed is '1', wanted int"),
        (dict(name=2024), "name is 2024, wanted str"),
        (dict(name=None), "name is None, wanted str"),
        (dict(train=dict(epochs=True)), "train.epochs is True, wanted int"),
        (dict(train=dict(epochs=2.5)), "train.epochs is 2.5, wanted int"),
        (dict(train=dict(lr=True)), "train.lr is True, wanted float"),
        (dict(train=dict(lr=None)), "train.lr is None, wanted float"),
        (dict(train=dict(lr="fast")), "train.lr is 'fast', wanted float"),
        (dict(train=dict(lr=[1e-3])), "wanted float"),
        (dict(train=dict(ema=False)), "train.ema is False, wanted float or nothing"),
        (dict(train=dict(lr_batch=512.0)), "train.lr_batch is 512.0, wanted int or nothing"),
        (dict(train=dict(precision=None)), "precision is None, wanted 'fp32', 'bf16' or 'fp16'"),
        (dict(train=[1]), "train is [1], wanted keys: epochs"),
        (dict(data="digits"), "data is 'digits', wanted keys: name"),
        (dict(data=dict(download=1)), "download is 1, wanted bool"),
        (dict(data=dict(path=1)), "path is 1, wanted str or nothing"),
        (dict(augment=dict(rand_augment=False)), "wanted str or nothing"),
        (dict(method=dict(options=[1])), "options is [1], wanted dict"),
        (dict(method=dict(options=None)), "options is None, wanted dict"),
        (dict(shape=dict(heads="3")), "heads is '3', wanted int or list or nothing"),
        (dict(shape=dict(heads=True)), "heads is True"),
        (dict(shape=dict(depth=6.0)), "depth is 6.0, wanted int or nothing"),
        (dict(ancestry=7), "ancestry is 7, wanted str or nothing"),
        (dict(ancestry=None, model=["x"]), "model is ['x'], wanted dict or nothing"),
    ],
)
def test_wrong_types_say_where_and_what(change, says):
    with pytest.raises(ValueError) as e:
        make(**change)
    assert says in str(e.value)
    assert str(e.value).startswith("recipe: ")


RANGES = [
    ("train", "epochs", -1),
    ("train", "batch_size", 0),
    ("train", "lr", -1e-9),
    ("train", "min_lr", -1.0),
    ("train", "warmup_lr", -1.0),
    ("train", "warmup_epochs", -1),
    ("train", "weight_decay", -0.1),
    ("train", "lr_batch", 0),
    ("train", "clip_grad", -1.0),
    ("train", "clip_grad", 0),
    ("train", "micro_batch", 0),
    ("train", "eval_every", 0),
    ("train", "workers", -1),
    ("train", "label_smoothing", 1.5),
    ("train", "label_smoothing", -0.1),
    ("train", "drop_path", 1.1),
    ("train", "ema", 1.1),
    ("train", "ema", -0.1),
    ("train", "precision", "fp8"),
    ("data", "fraction", 0),
    ("data", "fraction", 25),
    ("data", "val_fraction", -0.1),
    ("data", "val_fraction", 1.1),
    ("data", "crop_pct", 2),
    ("data", "image_size", 0),
    ("data", "mean", -0.1),
    ("data", "mean", [0.5, 127.5, 0.5]),
    ("data", "mean", []),
    ("data", "mean", ["0.5"]),
    ("data", "std", 0),
    ("data", "std", [0.5, 0, 0.5]),
    ("data", "std", 2),
    ("augment", "crop", "random"),
    ("augment", "pad", -1),
    ("augment", "scale_min", -0.1),
    ("augment", "hflip", 2),
    ("augment", "erasing", -1),
    ("augment", "mixup", -1),
    ("augment", "cutmix", -1),
    ("train", "teacher_weight", 1.5),
    ("train", "teacher_temperature", 0),
    ("method", "images", 0),
    ("shape", "classifier", "new"),
]


@pytest.mark.parametrize("part, name, value", RANGES)
def test_values_out_of_range(part, name, value):
    with pytest.raises(ValueError, match=rf"recipe: {part}\.{name}.* is .*, wanted "):
        make(**{part: {name: value}})
    with pytest.raises(ValueError, match=name):  # a recipe made in Python is checked as well
        Recipe(**GOOD, **{part: PARTS[part](**{name: value})})


@pytest.mark.parametrize(
    "name",
    [f.name for part in (DataSpec, AugmentSpec, TrainSpec) for f in dataclasses.fields(part) if "float" in str(f.type)],
)
def test_nan_is_never_in_range(name):
    part = next(p for p, cls in PARTS.items() if name in [f.name for f in dataclasses.fields(cls)])
    for nan in (float("nan"), "nan", ".nan"):
        with pytest.raises(ValueError, match=name):
            make(**{part: {name: nan}})


def test_every_number_has_a_range():
    "A field added later without a range fails here."
    checked = {(part, name) for part, name, _ in RANGES} | {
        ("data", "fraction_seed"),
        ("data", "split_seed"),
        ("shape", "depth"),
        ("shape", "heads"),
        ("shape", "width"),
    }  # the last three depend on the ancestry
    numbers = {
        (part, f.name)
        for part, cls in PARTS.items()
        for f in dataclasses.fields(cls)
        if any(k in str(f.type) for k in ("int", "float")) and "bool" not in str(f.type)
    }
    assert numbers <= checked


def test_edges_of_ranges_are_allowed():
    make(
        data=dict(fraction=1, val_fraction=0),
        train=dict(epochs=0, ema=0, drop_path=0, warmup_epochs=0, lr=0),
        augment=dict(mixup=0, cutmix=0, erasing=1, hflip=1),
    )


def test_where_the_architecture_comes_from():
    with pytest.raises(ValueError, match="either 'ancestry' or 'model'"):
        Recipe.from_dict(dict(name="r"))
    with pytest.raises(ValueError, match="either 'ancestry' or 'model'"):
        make(model={})
    with pytest.raises(ValueError, match="method.name must be one of from-scratch, mimetic, untrained"):
        Recipe.from_dict(dict(name="r", model={}))
    Recipe.from_dict(dict(name="r", model={}, method=dict(name="from-scratch")))


def test_name_is_needed():
    with pytest.raises(ValueError, match="'name' is missing"):
        Recipe.from_dict(dict(ancestry="x"))


# --- numbers as YAML gives them


@pytest.mark.parametrize(
    "written, value", [("1e-4", 1e-4), ("5.0e-4", 5e-4), ("1", 1.0), ("'2e-3'", 2e-3), ("+1E-1", 0.1), (".5", 0.5)]
)
def test_floats_as_people_write_them(written, value):
    r = make(**yaml.safe_load(f"train: {{lr: {written}}}"))
    assert r.train.lr == value and type(r.train.lr) is float


def test_an_int_for_a_float_becomes_a_float():
    r = make(train=dict(ema=1, clip_grad=1), augment=dict(mixup=0))
    assert [type(v) for v in (r.train.ema, r.train.clip_grad, r.augment.mixup)] == [float] * 3


def test_empty_part_means_defaults():
    assert make(**yaml.safe_load("train:\ndata: {}")) == make()


# --- the key


def test_key_ignores_name_order_spelling_and_defaults():
    key = make().key
    assert len(key) == 12 and set(key) <= set("0123456789abcdef")
    assert make(name="other").key == key
    assert Recipe.from_dict(dict(reversed(GOOD.items()))).key == key
    assert make(train=dict(epochs=50, lr=5e-4), data={}, seed=0).key == key
    assert make(train=dict(lr="5e-4", weight_decay="0.05")).key == key
    assert make(train=dict(drop_path=0)).key == make(train=dict(drop_path=0.0)).key == key
    assert make(method=dict(options=dict(a=1, b=2))).key == make(method=dict(options=dict(b=2, a=1))).key


def test_key_is_the_same_in_another_process():
    code = f"from learngene.recipe import Recipe; print(Recipe.from_dict({GOOD}).key)"
    for hashseed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": hashseed}
        )
        assert done.stdout.strip() == make().key


def _other(value, f):
    "A value that differs and is allowed."
    special = dict(
        precision="bf16",
        crop="none",
        classifier="ancestry",
        name="from-scratch",
        ancestry="deit_small_patch16_224",
        heads=[3, 3],
        options={"eps": 1.0},
        rand_augment=None,
        path="/x",
        depth=2,
        clip_grad=1.0,
        ema=0.5,
        micro_batch=2,
        channels=1,
        background="black",
        teacher="a",
        width=48,
    )
    if f in special:
        return special[f]
    return (
        not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2 if value else 0.25
    )


@pytest.mark.parametrize("part, field", [(p, f.name) for p, cls in PARTS.items() for f in dataclasses.fields(cls)])
def test_every_field_is_in_the_key(part, field):
    value = _other(getattr(getattr(make(), part), field), field)
    changed = make(**{part: {field: value}})
    assert getattr(getattr(changed, part), field) == value
    assert changed.key != make().key


def test_a_normalisation_that_is_not_stated_is_in_no_key():
    "`mean` and `std` are younger than the records, whose keys stay."
    assert make().to_dict() == make(data=dict(mean=None, std=None)).to_dict()
    assert not {"mean", "std"} & set(make().to_dict()["data"])


def test_a_normalisation_that_is_stated(tmp_path):
    r = make(data=dict(mean=0.5, std=[1, 1, 1]))
    assert r.to_dict()["data"]["mean"] == 0.5 and Recipe.load(r.save(tmp_path / "r.yaml")) == r
    assert (
        r.key
        == make(data=dict(mean="0.5", std=[1.0, 1.0, 1.0])).key
        == Recipe(**GOOD, data=DataSpec(mean=0.5, std=(1, 1, 1))).key
    )


def test_seed_and_ancestry_are_in_the_key():
    keys = {
        make().key,
        make(seed=1).key,
        make(ancestry="b").key,
        Recipe.from_dict(dict(name="r", model={}, method=dict(name="from-scratch"))).key,
        Recipe.from_dict(dict(name="r", model=dict(depth=1), method=dict(name="from-scratch"))).key,
    }
    assert len(keys) == 5


def test_key_survives_saving(tmp_path):
    r = make(
        shape=dict(heads=[1, 2]),
        train=dict(lr="1e-30", ema=0.1 + 0.2),
        method=dict(options=dict(eps=1 / 3)),
        name="Häuser: *&!'\"#",
    )
    again = Recipe.load(r.save(tmp_path / "r.yaml"))
    assert again == r and again.key == r.key and again.to_dict() == r.to_dict()
    assert Recipe.from_dict(json.loads(json.dumps(r.to_dict()))).key == r.key  # a record holds it as JSON


def test_key_of_a_recipe_made_in_python():
    "Recipes that are equal have one key, also where an int stands for a float."
    a, b = (
        Recipe(**GOOD, augment=AugmentSpec(mixup=0, erasing=0)),
        Recipe(**GOOD, augment=AugmentSpec(mixup=0.0, erasing=0.0)),
    )
    assert a == b
    assert a.key == b.key
    assert Recipe.from_dict(a.to_dict()).key == a.key


def test_to_dict_is_a_copy():
    r = make(method=dict(options=dict(a=[1])))
    r.to_dict()["method"]["options"]["a"].append(2)
    assert r.method.options == dict(a=[1])


# --- files


def test_save_is_atomic(tmp_path, monkeypatch):
    file = make().save(tmp_path / "deep" / "r.yaml")
    before = file.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError):
        make(seed=5).save(file)
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_unreadable_files(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "odd.yaml").write_text("name: x\nancestry: y\ntrain: {lrr: 1}\n")
    for file, says in [
        ("bad", "is not YAML"),
        ("list", "holds list, wanted a mapping"),
        ("empty", "holds NoneType"),
        ("odd", "unknown key 'lrr' (did you mean 'lr'?)"),
    ]:
        with pytest.raises(ValueError) as e:
            Recipe.load(tmp_path / f"{file}.yaml")
        assert says in str(e.value) and f"{file}.yaml" in str(e.value)


def test_yaml_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text(f"!!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(ValueError, match="not YAML"):
        Recipe.load(tmp_path / "evil.yaml")
    assert not (tmp_path / "ran").exists()


def test_unknown_name_suggests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="did you mean 'digits/table2'.*the profiles are digits, .*smoke") as e:
        find_recipe("digits/tabel2")
    assert str(e.value).count("/") == 3 and len(str(e.value)) < 250, "not sixty names"
    assert "digits" in profiles()


# --- what ships: recipes keep their keys, so records keep their recipes

ROOT = Path(__file__).parents[1]
KEYS = json.loads((ROOT / "tests" / "recipe_keys.json").read_text())  # "profile/recipe" -> "CELLS DIGEST" of its keys


@pytest.fixture(scope="module")
def shipped_recipes():
    "Every shipped recipe or sweep: name -> its Recipes, in order."
    cells = {}
    for file in recipe_files():
        name = f"{file.parent.name}/{file.stem}"
        is_sweep = "vary" in yaml.safe_load(file.read_text(encoding="utf-8"))
        cells[name] = [recipe for _, recipe in Sweep.load(name).cells()] if is_sweep else [Recipe.load(name)]
    return cells


def test_shipped_recipes_keep_their_keys(shipped_recipes):
    "A changed key orphans its committed records; a new recipe adds its line to recipe_keys.json."
    stated = {}
    for name, recipes in shipped_recipes.items():
        keys = [recipe.key for recipe in recipes]
        assert len(set(keys)) == len(keys), name
        stated[name] = f"{len(keys)} {hashlib.sha256(' '.join(keys).encode()).hexdigest()[:12]}"
    assert stated == KEYS


def test_every_committed_record_belongs_to_a_shipped_recipe(shipped_recipes):
    known = {recipe.key for recipes in shipped_recipes.values() for recipe in recipes}
    for entry in (ROOT / "results").glob("*/entries/*.yaml"):  # methods that entered the leaderboard
        known |= {recipe.key for _, recipe in Sweep.load(entry).cells()}
    files = sorted((ROOT / "results").glob("*/records/*.json"))
    assert len(files) > 900
    for file in files:
        record = json.loads(file.read_text(encoding="utf-8"))
        recipe, key = Recipe.from_dict(record["meta_info"]["recipe"]), record["run_info"]["key"]
        assert key in known and recipe.key == key and recipe.to_dict() == record["meta_info"]["recipe"], file.name
        assert file.stem.endswith(f"-{key}"), file.name


@pytest.mark.parametrize(
    "name, made_by", [("vit_nano_p2_8.digits", "digits/ancestry"), ("vit_pico_p8_64.tin100", "small/vit_pico")]
)
def test_shipped_ancestries_were_made_by_shipped_recipes(name, made_by):
    config = json.loads((shipped()[name] / "config.json").read_text(encoding="utf-8"))
    record = config["extra"]["record"]
    assert record["run_info"]["key"] == Recipe.load(made_by).key
    assert Recipe.from_dict(record["meta_info"]["recipe"]).key == record["run_info"]["key"]


# --- sweeps

BASE = dict(
    ancestry="vit_nano_p2_8.digits",
    method=dict(name="cluster-learngene", images=77, options=dict(eps=0.5, proj="folded")),
    data=dict(image_size=8, val_fraction=0.2),
    train=dict(epochs=3),
)


def sweep(vary, seeds=(0, 1), base=BASE):
    return Sweep("table", base, vary, list(seeds))


def test_sweep_is_the_product_in_order():
    cells = sweep(
        dict(
            a=dict(x=None, y=dict(train=dict(epochs=4))),
            b={"p": {}, "q": dict(data=dict(fraction=0.5)), "r": dict(data=dict(fraction=0.25))},
        )
    ).cells()
    assert [tuple(labels.values()) for labels, _ in cells] == [(a, b, s) for a in "xy" for b in "pqr" for s in (0, 1)]
    assert all(list(labels) == ["a", "b", "seed"] for labels, _ in cells)
    for labels, r in cells:
        assert r.seed == labels["seed"]
        assert r.train.epochs == (3 if labels["a"] == "x" else 4)
        assert r.data.fraction == dict(p=1.0, q=0.5, r=0.25)[labels["b"]]
        assert (r.data.val_fraction, r.method.images) == (0.2, 77)
    assert len({r.key for _, r in cells}) == len(cells)
    assert len({r.name for _, r in cells}) == 6 and all(r.name.startswith("table-") for _, r in cells)


def test_sweep_leaves_its_base_alone():
    base = json.loads(json.dumps(BASE))
    s = sweep(dict(a=dict(x=dict(train=dict(epochs=9), method=dict(options=dict(eps=9.0))))), base=base)
    assert s.cells()[0][1].train.epochs == 9
    assert base == BASE


def test_method_options_are_replaced_with_its_name_and_merged_without():
    cells = sweep(
        dict(
            m=dict(
                other=dict(method=dict(name="from-scratch")),
                aligned=dict(method=dict(options=dict(proj="aligned"))),
                same={},
            )
        ),
        seeds=[0],
    ).cells()
    other, aligned, same = (r.method for _, r in cells)
    assert (other.name, other.options) == ("from-scratch", {})
    assert (aligned.name, aligned.options, aligned.images) == ("cluster-learngene", dict(eps=0.5, proj="aligned"), 77)
    assert same.options == dict(eps=0.5, proj="folded")


def test_later_axes_win():
    cells = sweep(dict(a=dict(x=dict(train=dict(epochs=5))), b=dict(y=dict(train=dict(epochs=6)))), seeds=[0]).cells()
    assert cells[0][1].train.epochs == 6


def write(tmp_path, **change):
    d = dict(name="table", base=BASE, vary=dict(method=dict(ours={}))) | change
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(d, sort_keys=False))
    return tmp_path / "s.yaml"


def test_sweep_file(tmp_path):
    assert Sweep.load(write(tmp_path)).seeds == [0, 1, 2]
    for change, says in [
        (dict(seed=[1]), "did you mean 'seeds'?"),
        (dict(bases={}), "did you mean 'base'?"),
        (dict(seeds=3), "seeds is 3, wanted list"),
        (dict(vary=[1]), "vary is [1], wanted dict"),
    ]:
        with pytest.raises(ValueError) as e:
            Sweep.load(write(tmp_path, **change))
        assert says in str(e.value)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(train=dict(epohcs=1)), "did you mean 'epochs'?"),
        (dict(trian=dict(epochs=1)), "did you mean 'train'?"),
        (dict(train=dict(epochs="many")), "wanted int"),
        (dict(data=dict(fraction=7)), "data.fraction is 7, wanted at most 1"),
    ],
)
def test_an_error_in_one_cell_names_the_cell(tmp_path, change, says):
    file = write(tmp_path, vary=dict(method=dict(good={}), images=dict(all={}, bad_one=change)))
    with pytest.raises(ValueError) as e:
        Sweep.load(file)
    assert says in str(e.value) and "bad_one" in str(e.value)


def test_seeds_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"seeds\[1\] is 'a', wanted int"):
        Sweep.load(write(tmp_path, seeds=[0, "a"]))
    with pytest.raises(ValueError, match=r"seeds\[0\] is True"):
        Sweep.load(write(tmp_path, seeds=[True]))


# --- more ways to be wrong


@pytest.mark.parametrize("change", [dict(seed=-1), dict(data=dict(fraction_seed=-1)), dict(data=dict(split_seed=-1))])
def test_negative_seeds_are_refused_at_once(change):
    with pytest.raises(ValueError, match="seed"):
        make(**change)


@pytest.mark.parametrize("name", ["a/b", "../up", ""])
def test_names_become_file_names(name):
    with pytest.raises(ValueError, match="name"):
        make(name=name)


@pytest.mark.parametrize("heads", [[True, 2], ["x"], [2.5], []])
def test_lists_of_heads_hold_whole_numbers(heads):
    with pytest.raises(ValueError, match="heads"):
        make(shape=dict(heads=heads))


@pytest.mark.parametrize(
    "change",
    [
        dict(train=dict(lr=float("inf"))),
        dict(train=dict(weight_decay="inf")),
        dict(augment=dict(mixup=float("inf"))),
        dict(train=dict(label_smoothing=1.0)),
        dict(data=dict(crop_pct=0)),
    ],
)
def test_numbers_that_cannot_work(change):
    with pytest.raises(ValueError):
        make(**change)


def test_options_take_numbers_as_people_write_them():
    "YAML 1.1 reads 7e-2 as a word, in a method's options as everywhere else."
    from learngene import methods

    m = make(**yaml.safe_load("method: {options: {eps: 7e-2}}")).method
    assert methods.get(m.name, **m.options).eps == 0.07


@pytest.mark.parametrize("vary", [dict(method=["a", "b"]), dict(method=dict(a=5)), dict(method=None)])
def test_malformed_axes_are_clear_errors(tmp_path, vary):
    with pytest.raises(ValueError):
        Sweep.load(write(tmp_path, vary=vary))


@pytest.mark.parametrize("seeds", [[], [0, 0]])
def test_seeds_are_there_and_differ(tmp_path, seeds):
    with pytest.raises(ValueError, match="seed"):
        Sweep.load(write(tmp_path, seeds=seeds))


def test_changing_the_dataset_keeps_the_rest_of_the_base():
    r = sweep(dict(data=dict(cifar=dict(data=dict(name="cifar10", image_size=32)))), seeds=[0]).cells()[0][1]
    assert r.data.val_fraction == 0.2


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="w.safetensors"):
        Recipe.load(tmp_path / "w.safetensors")


def test_a_key_given_twice(tmp_path):
    (tmp_path / "twice.yaml").write_text("name: x\nancestry: y\nseed: 1\nseed: 2\n")
    with pytest.raises(ValueError, match="seed"):
        Recipe.load(tmp_path / "twice.yaml")


def test_a_recipe_is_no_sweep():
    with pytest.raises(
        ValueError, match="digits/ancestry is a recipe, of one run; run it by `learngene train digits/ancestry`"
    ):
        Sweep.load("digits/ancestry")


def test_an_ancestry_that_leads_back_to_itself(tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"name: a\nancestry: {a}\n")
    with pytest.raises(ValueError, match="a.yaml: its ancestry leads back to itself: a.yaml <- a.yaml; name a model"):
        Recipe.load(a)
    a.write_text(f"name: a\nancestry: {b}\n")
    b.write_text(f"name: b\nancestry: {a}\n")
    with pytest.raises(ValueError, match="a.yaml <- b.yaml <- a.yaml"):
        Recipe.load(a)
    b.write_text("name: b\nmodel: {}\nmethod: {name: from-scratch}\n")
    assert Recipe.load(a).ancestry == str(b)


# --- the base of a profile


@pytest.fixture
def profile(tmp_path, monkeypatch):
    "A profile `mini` with a base, in place of the shipped ones; a function that writes its files."
    folder = tmp_path / "recipes" / "mini"
    folder.mkdir(parents=True)
    monkeypatch.setattr("learngene.recipe.recipes_folder", lambda: tmp_path / "recipes")

    def write_files(**files):
        for name, settings in files.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        return folder

    write_files(
        base=dict(
            ancestry="a",
            method=dict(name="from-scratch", options=dict(pos_std=0.5)),
            augment=dict(crop="pad", mixup=0),
            train=dict(epochs=5, lr=0.1),
        )
    )
    return write_files


def test_a_file_lies_over_the_base_of_its_profile(profile):
    profile(own=dict(name="own", train=dict(lr=0.2), data=dict(image_size=16)))
    recipe = Recipe.load("mini/own")
    assert (recipe.ancestry, recipe.train.epochs, recipe.train.lr, recipe.data.image_size) == ("a", 5, 0.2, 16)
    assert (
        recipe.key
        == Recipe.from_dict(
            dict(
                name="r",
                ancestry="a",
                method=dict(name="from-scratch", options=dict(pos_std=0.5)),
                data=dict(image_size=16),
                augment=dict(crop="pad", mixup=0),
                train=dict(epochs=5, lr=0.2),
            )
        ).key
    )


def test_a_file_opts_out_of_the_base(profile):
    profile(
        own=dict(name="own", ancestry=None, model=dict(depth=2), augment=None, train=dict(lr=0.2)),
        other=dict(name="other", method=dict(name="slice")),
    )
    own = Recipe.load("mini/own")
    assert (own.ancestry, own.model, own.augment, own.train.epochs) == (None, dict(depth=2), AugmentSpec(), 5)
    assert Recipe.load("mini/other").method == MethodSpec("slice"), "a method that is named brings its own options"


def test_a_sweep_lies_over_the_base_of_its_profile(profile):
    axis = dict(size=dict(small={}, large=dict(data=dict(image_size=16))))
    profile(
        table=dict(name="table", seeds=[0], base=dict(train=dict(lr=0.2)), vary=axis),
        bare=dict(name="bare", seeds=[0], vary=axis),
    )
    cells = Sweep.load("mini/table").cells()
    assert [(r.ancestry, r.train.lr, r.train.epochs, r.data.image_size) for _, r in cells] == [
        ("a", 0.2, 5, 8),
        ("a", 0.2, 5, 16),
    ]
    assert [r.train.lr for _, r in Sweep.load("mini/bare").cells()] == [0.1, 0.1]


def test_a_mistake_in_the_base_is_told(profile):
    profile(base=dict(ancestry="a", train=dict(epohcs=5)), own=dict(name="own"))
    with pytest.raises(ValueError, match=r"train: unknown key 'epohcs' \(did you mean 'epochs'\?\)"):
        Recipe.load("mini/own")


def test_the_base_is_no_recipe(profile):
    folder = profile(own=dict(name="own"))
    assert [file.stem for file in recipe_files()] == [file.stem for file in recipe_files("mini")] == ["own"]
    assert profiles() == ["mini"]
    for name in ("mini/base", folder / BASE_FILE):
        with pytest.raises(FileNotFoundError, match="there is no recipe"):
            find_recipe(name)


def test_a_file_outside_a_profile_has_no_base(profile, tmp_path):
    profile(own=dict(name="own"))
    for folder in (tmp_path / "mini", tmp_path / "recipes"):  # neither a copy of the profile nor its parent is one
        folder.mkdir(exist_ok=True)
        (folder / "base.yaml").write_text("train: {epochs: 1}\n")
        (folder / "r.yaml").write_text("name: r\nancestry: b\n")
        assert Recipe.load(folder / "r.yaml") == Recipe("r", ancestry="b")
    (tmp_path / "mini" / "base.yaml").write_text("name: base\nancestry: b\n")
    assert Recipe.load(tmp_path / "mini" / "base.yaml").name == "base", "a file of your own may have this name"


def test_every_shipped_profile_has_a_base_and_repeats_nothing_of_it():
    for profile in profiles():
        base = yaml.safe_load((recipes_folder() / profile / BASE_FILE).read_text(encoding="utf-8"))
        for file in recipe_files(profile):
            settings = yaml.safe_load(file.read_text(encoding="utf-8"))
            own = settings.get("base", {}) if "vary" in settings else settings
            repeated = [name for name in own if own[name] == base.get(name)]
            repeated += [
                f"{part}.{name}"
                for part in own
                if isinstance(own[part], dict)
                for name, value in own[part].items()
                if (base.get(part) or {}).get(name, "absent") == value
            ]
            assert not repeated, f"{file}: {repeated}"


def test_merging_leaves_both_sides_alone():
    base, change = dict(train=dict(epochs=1), data=dict(name="a")), dict(train=dict(lr=0.1), data=None)
    before = json.dumps([base, change])
    assert merge_settings(base, change) == dict(train=dict(epochs=1, lr=0.1), data=None)
    assert (
        json.dumps([base, change]) == before
        and merge_settings(base, {}) == base
        and merge_settings({}, change) == change
    )


def test_where_each_value_comes_from(profile):
    profile(own=dict(name="own", train=dict(lr=0.2), augment=None))
    rows = {row["key"]: row for row in trace("mini/own")}
    assert rows["train.lr"] == dict(key="train.lr", default=5e-4, base=0.1, file=0.2, value=0.2)
    assert rows["train.epochs"] == dict(key="train.epochs", default=50, base=5, file="", value=5)
    assert rows["seed"] == dict(key="seed", default=0, base="", file="", value=0)
    assert rows["augment.crop"] == dict(key="augment.crop", default="resized", base="pad", file="", value="resized")
    assert list(rows)[:5] == ["name", "seed", "ancestry", "model", "method.name"] and len(rows) == 43
