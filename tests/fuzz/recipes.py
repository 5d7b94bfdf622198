"Damaged recipes and sweeps: read, or refused by the file's name."

import random
import tempfile
from functools import partial
from pathlib import Path

import yaml

from fuzz.damage import change_bytes, change_value
from learngene.recipe import Recipe, Sweep, read_settings, recipe_files

QUICK = 60


def cases(seed):
    rng = random.Random(seed)
    files = rng.sample(recipe_files(), 8)
    owner = tempfile.TemporaryDirectory()  # lives as long as a case that holds it
    folder = Path(owner.name)
    path = folder / "r.yaml"
    for i in range(400):
        file = rng.choice(files)
        raw = file.read_bytes()
        settings = yaml.safe_load(raw)
        is_sweep = "vary" in settings
        if not is_sweep:
            settings = read_settings(file)
        if i % 2:
            settings, name = change_value(rng, settings)
            raw = yaml.safe_dump(settings, allow_unicode=True).encode("utf-8", "surrogatepass")
        else:
            raw, name = change_bytes(rng, raw)
        run = partial(_load, owner, Sweep if is_sweep else Recipe, path, raw)
        yield f"{i} {file.parent.name}/{file.stem} {name}", run, (path,)


def _load(owner, kind, path, raw):
    path.write_bytes(raw)
    loaded = kind.load(path)
    keys = [r.key for _, r in loaded.cells()] if kind is Sweep else [loaded.key]
    assert all(len(key) == 12 for key in keys)
