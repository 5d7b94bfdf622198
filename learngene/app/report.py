"""One html page of everything a profile has shown: tables, figures, what they mean, and the records behind them."""
import base64
import json
from pathlib import Path

import pandas as pd

from ..files import write_atomic
from ..ledger import read_record
from ..provenance import code_version, now

_TEMPLATE = Path(__file__).parent / "report.html.jinja"


def write_report(folder) -> Path:
    "Write `report.html` into a profile's results folder, from its cards. FileNotFoundError when there are none."
    import jinja2

    folder = Path(folder)
    cards = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((folder / "tables").glob("*.json"), key=_order)]
    if not cards:
        raise FileNotFoundError(f"{folder} has no tables or figures yet; in a checkout `learngene run all --profile {folder.name}` and `learngene report` make them.")
    for card in cards:
        card["table_html"] = _table(folder / card["table"]) if card["table"] else ""
        card["figure_data"] = _inline(folder / card["figure"]) if card["figure"] else ""
        card["paragraphs"] = [p for p in card["text"].split("\n") if p.strip()]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        profile=folder.name, cards=cards, code=code_version(), made=now(), runs=_runs(folder, cards))
    return write_atomic(folder / "report.html", page)


def note_missing(folder, name, notebook, why) -> Path:
    "Write the card of a table that cannot be made from records, in place of one that could: its notebook's title, and what is missing."
    title = "".join(json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"][0]["source"]).splitlines()[0].removeprefix("# ")
    why = why if "records" in why else f"{why.split(':')[0]}."
    card = dict(name=name, title=title, caption="", text="", table=None, figure=None, not_run=why, records=dict(yours=[], committed=[], not_counted=[]))
    return write_atomic(Path(folder) / "tables" / f"{name}.json", json.dumps(card, indent=1) + "\n")


def _order(path):
    "Figure 1 before Figure 2 before Table 2: the paper's own order, figures first."
    digits = "".join(c for c in path.stem if c.isdigit()) or "0"
    return (not path.stem.startswith("figure"), int(digits), path.stem)


def _table(path):
    frame = pd.read_csv(path, keep_default_na=False, dtype=str).rename(columns={"Unnamed: 0": ""})
    return frame.to_html(index=False, border=0, escape=True)


def _inline(path):
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _runs(folder, cards):
    "Every run behind the page, once: where its record lies, and what it cost."
    rows = {}
    for card in cards:
        for store, sub in (("yours", "local"), ("committed", "records"), ("not_counted", "local/dirty")):
            for name in card["records"][store]:
                path = folder / sub / name
                if not path.is_file():
                    continue
                r = read_record(path)
                rows[name] = dict(
                    name=r["run_info"]["name"], seed=r["run_info"]["seed"], store=store.replace("_", " "), file=f"{sub}/{name}",
                    accuracy=f"{r['train_info']['test_accuracy']:.2%}", seconds=f"{r['train_info']['seconds']:.0f}",
                    commit=(r["run_info"]["code"]["commit"] or r["run_info"]["code"]["version"])[:10], device=r["run_info"]["device"])
    return [rows[k] for k in sorted(rows)]
