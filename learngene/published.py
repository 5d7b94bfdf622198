"What the project publishes: its committed records, and the pictures and sentences that the README makes of them."

import pandas as pd

from .ledger import Ledger
from .recipe import Sweep
from .tables import Results, differences, judge_together


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
    "Find the record of the descendant that keeps every head, layer and neuron."
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


def judge_rows(frames, method):
    """Judge, for each frame and each other method in it, the claim that `method` beats it.

    `frames` maps names to frames of `tables.to_frame` with a label `images`. All are judged together, by the rule of
    claims; the result maps (frame's name, other method) to a judged claim.
    """
    others = {name: [m for m in frame.method.unique() if m != method] for name, frame in frames.items()}
    pairs = [(name, other) for name, methods in others.items() for other in methods]
    return judge_together({(name, other): differences(frames[name], method, [other]) for name, other in pairs})


def describe_rows(judged, method):
    "Say what `judge_rows` gives, with the mean effect of each, in points."
    phrases = {}
    for (name, other), c in judged.items():
        phrases.setdefault(name, {}).setdefault(c["verdict"], []).append(f"{other} ({c['difference']:+.1f})")
    said = [
        f"{name}: " + "; ".join(f"{word} for {', '.join(rows)}" for word, rows in verdicts.items())
        for name, verdicts in phrases.items()
    ]
    return (
        f"That {method} beats a row, seed by seed and corrected for all {len(judged)} verdicts together "
        f"(mean difference in points). {'. '.join(said)}."
    )


def to_markdown(frame):
    "Write a table of text as a Markdown table with its index as the first column, unnamed."
    rows = [
        ["", *frame.columns],
        ["---"] * (1 + frame.shape[1]),
        *([name, *row] for name, row in zip(frame.index, frame.values)),
    ]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
