"The leaderboard: which runs count for which task, who leads, and the page of it."

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from scipy import stats

from ..correctness import compare_records
from ..files import write_atomic
from ..published import to_markdown
from ..recipe import Sweep, key_of
from ..tables import Results, mean_interval
from .queue import sweeps_of

PROFILES = ("digits", "pico")  # that the page shows
SWEEPS = ("peers", "peers_narrow", "epoch_zero")  # whose runs are entries, beside results/PROFILE/entries
FAMILY = 12  # models that share the cost of stage 1, where total cost is compared
CLEAR = 0.01  # largest p-value of a new record
HEAL_STEPS, HEAL_BATCH = 128, 64  # of a method whose name ends in +heal


@dataclass(frozen=True)
class Entry:
    "The runs of one method at one size and length."

    method: str
    size: str  # label of the share of parameters
    records: dict  # seed -> record

    @cached_property
    def any(self):
        "One of the records, for what all share."
        return self.records[min(self.records)]

    @property
    def epochs(self):
        return self.any["meta_info"]["recipe"]["train"]["epochs"]

    @property
    def heal_steps(self):
        "Count the steps of healing before epoch 0."
        method = self.any["meta_info"]["recipe"]["method"]
        return method["options"].get("heal_steps", HEAL_STEPS) if method["name"].endswith("+heal") else 0

    @property
    def stage1(self):
        return self.any["meta_info"].get("stage1") or dict(images=0, seconds=0.0)

    @property
    def images(self):
        "Count the training images that one model of a family has seen, stage 1 shared."
        own = self.epochs * self.any["meta_info"]["data_sizes"]["train"] + self.heal_steps * HEAL_BATCH
        return self.stage1["images"] / FAMILY + own

    @property
    def seconds(self):
        "Stage 1, condensing, building and training, mean over seeds."
        return sum(map(seconds_of, self.records.values())) / len(self.records)

    @property
    def date(self):
        "When the last seed was finished."
        return max(record["run_info"].get("finished") or "" for record in self.records.values())

    @property
    def interval(self):
        "Mean accuracy with its 95 % interval, in percent: over seeds, or images for one seed."
        values = [100 * record["train_info"]["test_accuracy"] for record in self.records.values()]
        if len(values) > 1:
            c = mean_interval(values)
            return c["difference"], c["low"], c["high"]
        n = self.any["meta_info"]["data_sizes"]["test"]
        ci = stats.binomtest(round(values[0] / 100 * n), n).proportion_ci(method="wilson")
        return values[0], 100 * ci.low, 100 * ci.high

    @property
    def stored(self):
        "Values kept for this descendant, in millions: the trained payload, or what it took."
        meta = self.any["meta_info"]
        text = re.search(r"([\d.]+) M values", meta.get("payload") or "") if meta.get("stage1") else None
        return float(text[1]) if text else meta["inherited_params"] / 1e6


def seconds_of(
    record: dict,  # of a run
) -> float:
    "Add up what a run took, with all of stage 1."
    meta = record["meta_info"]
    made = meta["stage1"]["seconds"] if meta.get("stage1") else meta.get("condense_seconds") or 0
    return made + (meta.get("expand_seconds") or 0) + record["train_info"]["seconds"]


# --- which runs there are


def entry_files(
    results: Results,  # of a profile
) -> list:
    "List the YAML files of entered methods."
    return sorted((results.folder / "entries").glob("*.yaml"))


def find_entries(
    results: Results,  # of a profile
    ledger=None,  # another than its own
) -> list:  # of Entry
    "Collect what the profile's sweeps and entered methods have on record."
    profile, ledger, found = results.folder.name, ledger or results.ledger, {}
    names = [f"{profile}/{name}" for name in SWEEPS if name in sweeps_of(profile)]
    for labels, recipe in [cell for name in [*names, *entry_files(results)] for cell in Sweep.load(name).cells()]:
        if record := ledger.find(recipe.key):
            settings = record["meta_info"]["recipe"] | dict(name="", seed=0)
            name, size = labelled(labels, recipe.method.name)
            found.setdefault((name, size, key_of(settings)), {})[recipe.seed] = record
    return [Entry(name, size, records) for (name, size, _), records in found.items()]


def labelled(
    labels: dict,  # of a sweep's cell
    method: str,  # its name
) -> tuple:  # method, size
    "Name a cell's method and size."
    name, size = (labels["method"], labels["parameters"]) if "method" in labels else labels["point"].rsplit(", ", 1)
    return name if name.startswith(method) else f"{method}, {name}", size


# --- tasks, ranks and records

TRACKS = {
    "no training": lambda e: e.epochs == 0 and not e.heal_steps and not e.stage1["images"],
    "at most 128 steps of healing": lambda e: e.epochs == 0 and 0 < e.heal_steps <= HEAL_STEPS,
    "equal descendant epochs: 1": lambda e: e.epochs == 1,
    "equal descendant epochs: 10": lambda e: e.epochs == 10,
}


def within_cost(
    entries: list,  # of one size
    epochs: int,  # that a model may cost
) -> list:  # the longest affordable run of each method
    "Choose each method's longest run whose whole cost stays within some epochs."
    chosen = {}
    for e in sorted(entries, key=lambda e: e.images):
        if e.images <= epochs * e.any["meta_info"]["data_sizes"]["train"]:
            chosen[e.method] = e
    return list(chosen.values())


def tasks_of(
    entries: list,  # of a profile
) -> dict:  # (track, size) -> entries
    "Sort entries into tasks; those of at most an epoch stay when they are empty."
    sizes = sorted({e.size for e in entries}, key=lambda size: -float(size.split()[0]))
    most = max((e.epochs for e in entries), default=0)
    tasks = {}
    for track, belongs in TRACKS.items():
        tasks |= {(track, size): [e for e in entries if e.size == size and belongs(e)] for size in sizes}
    if most > 1:
        title = f"equal total cost: {most} epochs"
        tasks |= {(title, size): within_cost([e for e in entries if e.size == size], most) for size in sizes}
    return {task: found for task, found in tasks.items() if found or not task[0].endswith(" 10")}


def lead(
    a: Entry,
    b: Entry,  # on the same images
) -> dict:  # difference in points, p, and `by` what it is judged
    "Compare entries by the bits of common seeds, else over seeds, else as two samples."
    seeds = sorted(a.records.keys() & b.records.keys())
    pairs = [[e.records[seed] for seed in seeds] for e in (a, b)]
    if seeds and all(record["train_info"].get("test_correct") for part in pairs for record in part):
        return compare_records(*pairs) | dict(by="images")
    accuracy = [[record["train_info"]["test_accuracy"] for record in part] for part in pairs]
    if len(seeds) > 1:
        c = mean_interval([100 * (x - y) for x, y in zip(*accuracy)])
        return c | dict(by="seeds", p=0.0 if math.isnan(c["p"]) else c["p"])
    n, shares = a.any["meta_info"]["data_sizes"]["test"], [e.interval[0] / 100 for e in (a, b)]
    mean = sum(shares) / 2
    error = (2 * mean * (1 - mean) / n) ** 0.5
    d = shares[0] - shares[1]
    return dict(difference=100 * d, p=float(2 * stats.norm.sf(abs(d) / error)) if error else 1.0, by="two samples")


def records_among(
    entries: list,  # of one task
) -> dict:  # method -> text, for those that were a record when they came
    "Follow the lead through time: a new one must be clear, p < 0.01."
    marks, holder = {}, None
    for e in sorted(entries, key=lambda e: e.date):
        c = lead(e, holder) if holder else None
        if c is None or c["difference"] > 0 and c["p"] < CLEAR:
            marks[e.method] = "first" if c is None else f"p = {c['p']:.1g} ({c['by']})"
            holder = e
    return marks


def task_table(
    entries: list,  # of one task
) -> str:  # Markdown
    "Rank entries by accuracy."
    import pandas as pd

    marks, rows = records_among(entries), {}
    for rank, e in enumerate(sorted(entries, key=lambda e: -e.interval[0]), 1):
        mean, low, high = e.interval
        rows[rank] = {
            "method": e.method,
            "accuracy (%)": f"{mean:.2f}",
            "95 % interval": f"{low:.1f} to {high:.1f}",
            "seeds": len(e.records),
            "stored (M)": f"{e.stored:.2f}",
            "parameters (M)": f"{e.any['meta_info']['params'] / 1e6:.2f}",
            "calibration images": e.any["meta_info"].get("condense_images") or "",
            "seconds": f"{e.seconds:.0f}",
            "date": e.date[:10],
            "commit": (e.any["run_info"]["code"].get("commit") or "")[:8],
            "record": marks.get(e.method, ""),
        }
    return to_markdown(pd.DataFrame(rows).T)


# --- the page

RULES = f"""# Leaderboard

Every row is computed from committed records by `learngene leaderboard`; none is typed. A task is a dataset, a share of
the ancestry's parameters, and a track:

- **no training**: nothing is trained, neither the descendant nor what it is made of;
- **at most 128 steps of healing**: label-free, on batches of {HEAL_BATCH} training images;
- **equal descendant epochs**: each descendant is trained alike; what came before is not counted, and stands in the
  column *seconds*;
- **equal total cost**: stage 1, shared by a family of {FAMILY} models, and the descendant's own training together see
  no more images than the longest training here; each method enters with its longest run on record within that.

Rules: the test images are looked at once, after all choices; calibration images come from the training split, as many
as the recipe's `method.images` names; all rows of a dataset share one ancestry. A **record** leads all that came before
it with p < {CLEAR:g}: by which test images are right (*images*, paired, with the seeds in common); where records are
older than those bits by the seeds' differences (*seeds*), or with one seed as two samples of images (*two samples*).

*accuracy*: mean over seeds. *95 % interval*: over seeds, or over test images where there is one seed. *stored*: values
kept to make this descendant. *seconds*: stage 1, condensing, building and training, on the machine of the record. To
enter a method, see "Enter a method into the leaderboard" in `CONTRIBUTING.md`.
"""


def profile_page(
    results: Results,  # of a profile
    ledger=None,  # another than its own
) -> str:
    "Write a profile's tasks, one table each."
    entries = find_entries(results, ledger)
    parts = [f"## {results.folder.name}"]
    if entries:
        recipe, images = entries[0].any["meta_info"]["recipe"], entries[0].any["meta_info"]["data_sizes"]
        parts += [f"Ancestry {recipe['ancestry']}, {images['train']:,} training images of {recipe['data']['name']}, "
                  f"{images['test']:,} test images."]
    for (track, size), found in tasks_of(entries).items():
        parts += [f"### {results.folder.name}, {size} of the parameters, {track}",
                  task_table(found) if found else "No entry yet."]
    return "\n\n".join(parts) + "\n"


def leaderboard_page(
    profiles=PROFILES,
    folder="",  # of results; "" = results/ of the checkout
    committed=False,  # True: your own records are left out
) -> str:  # Markdown
    "Write the whole page."
    from ..ledger import Ledger

    stores = [Results(profile, folder) for profile in profiles]
    pages = [profile_page(store, Ledger(store.folder, local=False) if committed else None) for store in stores]
    return RULES + "\n" + "\n".join(pages)


# --- a new entry


def sizes_by(
    by: str,  # "depth", "width" or "params"
    board: Sweep,  # of the profile
) -> dict:  # label -> changes to a recipe
    "State sizes as depths, as widths of whole heads, or as the method's option `params`."
    stated = board.vary["parameters"]
    if by == "depth":
        if any("shape" not in change for change in stated.values()):
            raise ValueError("this profile's tasks state no depth; enter the method with --by params.")
        return stated
    shares = {label: float(label.split()[0]) / 100 for label in stated}
    if by == "params":
        return {label: dict(method=dict(options=dict(params=share))) for label, share in shares.items()}
    from ..ancestry import load_ancestry

    ancestry = load_ancestry(board.base["ancestry"])
    heads = ancestry.blocks[0].attn.num_heads
    each = ancestry.embed_dim // heads
    return {label: dict(shape=dict(width=each * round(heads * share**0.5))) for label, share in shares.items()}


def write_entry(
    method: str,  # a registered method
    results: Results,  # of the profile whose tasks it enters
    by="depth",  # as in `sizes_by`
    options=None,  # of the method
) -> Path:
    "State an entry's runs in a YAML file. ValueError for a method or profile that cannot."
    from .. import methods

    profile = results.folder.name
    methods.get(method, **(options or {}))
    board = next((Sweep.load(f"{profile}/{name}") for name in SWEEPS if name in sweeps_of(profile)), None)
    if board is None:
        raise ValueError(f"profile {profile} has no tasks; there are some in {', '.join(PROFILES)}.")
    epochs = board.vary.get("epochs") or {0: {}, 1: dict(train=dict(epochs=1, warmup_epochs=0, clip_grad=1.0))}
    start = dict(method=dict(name=method, options=options or {}))
    vary = dict(method={method: start}, parameters=sizes_by(by, board), epochs=epochs)
    stated = dict(name=f"entry-{method}", seeds=board.seeds, base=board.base, vary=vary)
    methods.check_methods(recipe.method for _, recipe in Sweep(**stated).cells())
    path = results.folder / "entries" / f"{method}.yaml"
    write_atomic(path, yaml.safe_dump(stated, sort_keys=False, allow_unicode=True))
    return path


def enter(
    method: str,  # a registered method
    results: Results,  # of the profile whose tasks it enters
    workers=None,  # runs side by side
    **stated,  # `by` and `options`, as in `write_entry`
) -> Path:  # of the YAML file
    "Run a method on the tasks of a profile."
    from ..running import run_all

    path = write_entry(method, results, **stated)
    run_all([recipe for _, recipe in Sweep.load(path).cells()], results.ledger, workers)
    return path
