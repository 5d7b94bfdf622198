"""One html page of everything a profile has shown: verdicts first, then tables, figures and the records behind them."""

import base64
import csv
import json
import re
from collections import Counter
from pathlib import Path

from ..captions import caveats, describe_ancestries, describe_data
from ..claims import VERDICTS, rule_note
from ..files import write_atomic
from ..ledger import read_record
from ..paper import has_numbers, published_sentences
from ..provenance import code_version, now
from ..results import STORES

_TEMPLATE = Path(__file__).parent / "report.html.jinja"
_OURS = ("premise", "start", "beyond", "beyond_shapes", "beyond_studies", "beyond_pareto", "peers", "cost", "reviewers",
         "related")
_WORDS = dict(yours="made here", committed="replayed", not_counted="not counted")


def write_report(folder) -> Path:
    """Write `report.html` into a profile's results folder, from its cards.

    Raises FileNotFoundError when there are none.
    """
    import jinja2

    folder = Path(folder)
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "tables").glob("*.json")]
    if not cards:
        raise FileNotFoundError(
            f"{folder} has no tables or figures yet; in a checkout "
            f"`learngene run all --profile {folder.name}` and `learngene report` make them."
        )
    cards.sort(key=lambda card: _rank(card["name"]))
    shown, missing = [c for c in cards if not c.get("not_run")], [c for c in cards if c.get("not_run")]
    labels = Counter(card["title"].partition(":")[0] for card in shown)
    for card in shown:
        _complete(card, folder, labels)
    records = _records(folder, shown)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        profile=folder.name,
        cards=shown,
        missing=_missing(missing),
        code=code_version(),
        made=now(),
        runs=[_row(*item) for item in records],
        counts=Counter(store for _, store, _ in records),
        verdicts=_verdicts(folder, shown),
        rule_note=rule_note(),
        **_summary([record for *_, record in records]),
    )
    return write_atomic(folder / "report.html", page)


def note_missing(folder, name, notebook, why) -> Path:
    """Write the card of a table that cannot be made: its title, and what is missing."""
    title = "".join(json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"][0]["source"]).splitlines()[0]
    why = why if "records" in why else f"{why.split(':')[0]}."
    card = dict(
        name=name,
        title=title.removeprefix("# "),
        caption="",
        text="",
        alt="",
        notes=[],
        table=None,
        figure=None,
        not_run=why,
        records={store: [] for store in STORES},
    )
    return write_atomic(Path(folder) / "tables" / f"{name}.json", json.dumps(card, indent=1) + "\n")


def _rank(name):
    "Order claims, the paper's tables and figures, fidelity, then what is ours."
    number = int("".join(c for c in name if c.isdigit()) or 0)
    groups = (name == "claims", name.startswith("table"), name.startswith("figure"), name == "fidelity", name in _OURS)
    group = groups.index(True) if True in groups else len(groups)
    return group, _OURS.index(name) if name in _OURS else number, name


def _complete(card, folder, labels):
    """Add to a card what the page shows.

    That is its label, table, figure and paragraphs, and the paper's own numbers.
    """
    short, _, rest = card["title"].partition(":")
    card["label"] = short if labels[short] == 1 else rest.strip()
    card["header"], card["rows"] = _table(folder / card["table"]) if card["table"] else ([], [])
    card["figure_data"] = _inline(folder / card["figure"]) if card["figure"] else ""
    card["paragraphs"] = [line for line in card["text"].split("\n") if line.strip()]
    card["paper"] = published_sentences(card["name"]) if has_numbers() else []
    card["counts"] = {store: len(names) for store, names in card["records"].items()}


def _table(path):
    """Read a csv file as (header, rows of cells), without empty columns.

    A header is (name, kind), a cell (text, kind, rows it spans).
    """
    with open(path, encoding="utf-8", newline="") as file:
        header, *body = csv.reader(file)
    kept = [i for i, name in enumerate(header) if any(row[i] for row in body) or not body]
    header, body = [header[i] for i in kept], [[row[i] for i in kept] for row in body]
    kinds = ["number" if all(map(_is_number, filter(None, column))) else "text" for column in zip(*body)]
    kinds = kinds or ["text"] * len(header)
    rows = [[(text, _kind(text) if kind == "text" else kind, 1) for text, kind in zip(row, kinds)] for row in body]
    start = 0  # the first column says a label once for all rows that share it
    for i in range(1, len(body) + 1 if len(header) > 2 else 0):
        if i == len(body) or body[i][0] != body[start][0]:
            text, kind, _ = rows[start][0]
            rows[start][0] = (text, kind, i - start)
            for row in rows[start + 1 : i]:
                del row[0]
            start = i
    return list(zip(header, kinds)), rows


def _is_number(text):
    return re.fullmatch(r"[\d\s.,+\-−±%()\[\]/×e]+", text) is not None


def _kind(text):
    "Choose how a cell that is no number is set: as a verdict, or as text."
    return text.replace(" ", "-") if text in VERDICTS else "text"


def _missing(cards):
    "Group titles by what is missing, for one line at the end of the page."
    titles = {}
    for card in cards:
        no_recipe = card["not_run"].startswith("there is no recipe")
        why = "no recipe in this profile." if no_recipe else f"not yet run: {card['not_run']}"
        titles.setdefault(why, []).append(card["title"].partition(":")[0] if no_recipe else card["title"])
    return titles


def _inline(path):
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _records(folder, cards):
    "List every record behind the page once, as (file name, store, record)."
    stores = {name: store for card in cards for store, names in card["records"].items() for name in names}
    paths = {name: folder / STORES[store] / name for name, store in stores.items()}
    return [(name, stores[name], read_record(path)) for name, path in sorted(paths.items()) if path.is_file()]


def _row(name, store, record):
    "Return one row of the list of runs."
    run, train = record["run_info"], record["train_info"]
    return dict(
        name=run["name"],
        seed=run["seed"],
        store=_WORDS[store],
        file=f"{STORES[store]}/{name}",
        accuracy=f"{train['test_accuracy']:.2%}",
        seconds=f"{train['seconds']:.0f}",
        device=run["device"],
        commit=(run["code"]["commit"] or run["code"]["version"])[:10],
    )


def _verdicts(folder, cards):
    "Read the columns of the claims' table that fit into the summary."
    card = next((c for c in cards if c["name"] == "claims" and c["table"]), None)
    if card is None:
        return []
    with open(folder / card["table"], encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    links = {c["label"]: c["name"] for c in cards}
    return [
        dict(
            claim=r["claim"],
            verdict=r["verdict"],
            kind=_kind(r["verdict"]),
            effect=r["effect (points)"],
            interval=r["95 % interval"],
            first_rule=r.get("by the first rule", ""),
            table=r["shown in"],
            link=links.get(r["shown in"]),
        )
        for r in rows
    ]


def _summary(records):
    "Data, ancestries and caveats of the runs behind the page."
    return dict(data=describe_data(records), ancestries=describe_ancestries(records), caveats=caveats(records))
