"What the project publishes: its committed records, and the pictures and sentences that the README makes of them."

from collections import Counter

import pandas as pd

from .ledger import Ledger
from .recipe import Sweep
from .tables import Results, verdict


def committed(profile):
    "Open the ledger of a profile's committed records; your own runs are left out."
    return Ledger(Results(profile).folder, local=False)


def records_of(profile, sweep):
    """List the cells of a sweep, and their committed records in the same order.

    A cell is a pair (labels, recipe).
    """
    cells, ledger = Sweep.load(f"{profile}/{sweep}").cells(), committed(profile)
    return cells, [ledger.find(recipe.key) for _, recipe in cells]


def sizes(profile):
    """Tabulate refitted, untrained descendants with the ancestry they come from.

    One row a model: kind, params, accuracy (validation, 0 to 1), and both as shares of the ancestry's.
    """
    rows = [_size("ancestry", _nothing_removed(profile))]
    for (labels, _), record in zip(*records_of(profile, "pareto")):
        kind, _, limit = labels["point"].partition(", params ")
        if limit and kind == "budget" or kind.startswith("first "):
            rows.append(_size("budget" if limit else "first layers", record))
    frame = pd.DataFrame(rows)
    return frame.assign(params_share=frame.params / frame.params[0], accuracy_share=frame.accuracy / frame.accuracy[0])


def _nothing_removed(profile):
    "The record of the descendant that keeps every head, layer and neuron."
    whole = dict(method="first, refitted with values", heads="8 heads", layers="12 layers", ffn="all neurons")
    return next(r for (labels, _), r in zip(*records_of(profile, "beyond_grid")) if whole.items() <= labels.items())


def _size(kind, record):
    epoch_0 = record["train_info"]["history"][0]
    return dict(kind=kind, params=record["meta_info"]["params"], accuracy=epoch_0["val_accuracy"])


def draw_sizes(profiles, ax):
    """Draw accuracy over parameters, as shares of the ancestry's.

    `profiles` maps labels to profiles.
    """
    for (label, profile), color in zip(profiles.items(), ("#1f4e9c", "#d9701a")):
        frame = sizes(profile)
        for kind, marker, line in (("budget", "o", "-"), ("first layers", "s", ":")):
            path = frame[frame.kind.isin(["ancestry", kind])].sort_values("params")
            ax.plot(
                100 * path.params_share,
                100 * path.accuracy_share,
                line,
                marker=marker,
                color=color,
                ms=4,
                markerfacecolor=color if kind == "budget" else "white",
                label=f"{label}, {kind}",
            )
    ax.set(
        xlabel="parameters, % of the ancestry's", ylabel="accuracy, % of the ancestry's", ylim=(0, 105), xlim=(0, 104)
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return ax


def count_verdicts(effects, method):
    """Say how often a method is better or worse than each other one.

    `effects` are rows of `tables.against`, one for each column of a table and method; several tables may be joined.
    """
    phrases = []
    for other, rows in effects.groupby("method", sort=False):
        counts = Counter(verdict(row) for _, row in rows.iterrows())
        parts = [f"{word} in {counts[word]}" for word in ("better", "worse", "no clear difference") if counts[word]]
        phrases.append(f"{other}: {', '.join(parts)} of {len(rows)}")
    return f"{method}, compared seed by seed (95 % intervals) with " + "; ".join(phrases) + "."


def to_markdown(frame):
    "Write a table of text as a Markdown table with its index as the first column, unnamed."
    rows = [
        ["", *frame.columns],
        ["---"] * (1 + frame.shape[1]),
        *([name, *row] for name, row in zip(frame.index, frame.values)),
    ]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
