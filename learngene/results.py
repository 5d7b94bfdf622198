"""The results folder of a profile: its records, and the tables, figures and cards that are made from them."""

import io
import json
from functools import cached_property
from pathlib import Path

import pandas as pd

from .captions import caption_facts
from .files import project_root, write_atomic
from .ledger import Ledger, file_name, read_record
from .recipe import Sweep
from .running import find_record

STORES = {"yours": "local", "committed": "records", "not_counted": "local/dirty"}  # where a card's records lie


class Results:
    """The results folder of a profile: its ledger, and what is made from it."""

    def __init__(
        self,
        profile: str,  # e.g. "digits"
        folder="",  # holds a folder for each profile; "" = results/ of the checkout
        fresh=False,  # True: do not use the project's committed records
    ):
        base = Path(folder) if folder else (project_root() or Path.cwd()) / "results"
        self.folder = base / profile
        self.ledger = Ledger(self.folder, committed=not fresh)

    def cells(
        self,
        sweep: str,  # name of a recipe file in the profile
    ):  # (labels, recipe) pairs
        "List the runs that a recipe file of this profile states."
        return Sweep.load(f"{self.folder.name}/{sweep}").cells()

    def find(
        self,
        sweep: str,  # name of a recipe file in the profile
    ):  # (cells, records), of the runs that have a record, and the number of runs of the sweep
        "Find what a sweep has on record; nothing is run."
        cells = self.cells(sweep)
        pairs = [(cell, record) for cell in cells if (record := find_record(cell[1], self.ledger))]
        return [cell for cell, _ in pairs], [record for _, record in pairs], len(cells)

    def shorter_runs(
        self,
        record: dict,  # of a run
    ) -> list:  # of records
        "Find records of the same run, trained for fewer epochs by a schedule of their own."
        same, epochs = _but_for_epochs(record), record["meta_info"]["recipe"]["train"]["epochs"]
        return [
            other
            for other in self._trained
            if _but_for_epochs(other) == same and 0 < other["meta_info"]["recipe"]["train"]["epochs"] < epochs
        ]

    @cached_property
    def _trained(self):
        "Every record of the ledger, read once."
        return list(self.ledger)

    def publish(
        self,
        name: str,  # of the files
        title: str,
        caption: str,
        text="",  # what it means, in sentences
        table=None,  # a DataFrame
        figure=None,  # a matplotlib figure
        records=(),  # the records it came from
        alt="",  # what the figure shows, for readers who cannot see it
        notes=(),  # sentences that stand under the table, one per line
    ):
        """Write a table (csv), a figure (svg, png) and their card.

        The caption gains what `caption_facts` knows of the runs."""
        caption = " ".join(filter(None, [caption, caption_facts(records)]))
        card = dict(
            name=name, title=title, caption=caption, text=text, alt=alt, notes=list(notes), table=None, figure=None
        )
        if table is not None:
            card["table"] = f"tables/{name}.csv"
            write_atomic(self.folder / card["table"], table.to_csv(index=not _is_unnamed(table)))
        if figure is not None:
            card["figure"] = f"figures/{name}.svg"
            for kind, options in (("svg", dict(metadata={"Date": None})), ("png", {})):
                drawn = io.BytesIO()
                figure.savefig(drawn, format=kind, dpi=150, bbox_inches="tight", **options)
                write_atomic(self.folder / f"figures/{name}.{kind}", drawn.getvalue())
        card["records"] = record_origins(self.ledger, records)
        write_atomic(self.folder / f"tables/{name}.json", json.dumps(card, indent=1) + "\n")


def _but_for_epochs(record):
    "Return what makes two runs the same but for their length."
    meta = record["meta_info"]
    train = {k: v for k, v in meta["recipe"]["train"].items() if k not in ("epochs", "warmup_epochs", "eval_every")}
    recipe = {k: v for k, v in meta["recipe"].items() if k != "name"} | dict(train=train)
    return recipe, meta.get("ancestry"), meta["data_fingerprint"]


def record_origins(
    ledger,  # where the records were read from or written to
    records,  # of the runs that are shown
) -> dict:  # store, as in `STORES` -> file names
    "Sort records by the store that holds them."
    left, origins = {file_name(r): json.loads(json.dumps(r)) for r in records}, {}
    for store, folder in STORES.items():
        paths = {name: ledger.folder / folder / name for name in left}
        origins[store] = sorted(name for name, p in paths.items() if p.is_file() and read_record(p) == left[name])
        left = {name: r for name, r in left.items() if name not in origins[store]}
    return origins


def _is_unnamed(table):
    "Whether rows are only counted, so that their index is worth no column."
    return isinstance(table.index, pd.RangeIndex) and table.index.name is None
