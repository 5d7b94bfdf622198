"Damaged records: read as they were, or refused by the file's name; merged inside the results alone."

import json
import random
import tempfile
from functools import partial
from pathlib import Path

from conftest import ROOT
from fuzz.damage import change_bytes, change_value
from learngene.app.merging import merge_results
from learngene.ledger import Ledger, check_record

QUICK = 60


def cases(seed):
    rng = random.Random(seed)
    files = rng.sample(sorted((ROOT / "results").glob("*/records/*.json")), 10)
    owner = tempfile.TemporaryDirectory()  # lives as long as a case that holds it
    folder = Path(owner.name)
    for i in range(300):
        file = rng.choice(files)
        record = json.loads(file.read_text())
        raw, name = record, file.name
        if i % 3:
            changed, done = change_value(rng, record)
            raw = json.dumps(changed).encode()
        else:
            raw, done = change_bytes(rng, file.read_bytes())
        case = folder / str(i)
        yield f"{i} {name} {done}", partial(_read, owner, case, name, raw, i % 2), (case, "no folder can be called")


def _read(owner, folder, name, raw, merge):
    store = folder / "mini/local"
    store.mkdir(parents=True)
    (store / name).write_bytes(raw)
    before = {path for path in folder.parent.rglob("*")}
    try:
        if merge:
            merge_results(folder, folder / "target")
        else:
            for record in Ledger(folder / "mini"):
                check_record(record)
    finally:
        new = {path for path in folder.parent.rglob("*")} - before
        assert all(path.is_relative_to(folder / "target") for path in new), "it wrote elsewhere"
