"""How methods are drawn: one colour, one marker and one dash each, in every figure, told apart in grey too."""

import re
import zlib
from itertools import cycle

REFITTED, WITH_VALUES = (0, (5, 1)), (0, (3, 1, 1, 1))

METHOD_STYLES = {  # method: colour, marker, dash
    "cluster-learngene": ("#1f4e9c", "o", "-"),
    "pretraining-finetuning": ("#d9701a", "s", "--"),
    "pretraining-finetuning, 12 layers": ("#e8a96b", "s", (0, (1, 1))),
    "from-scratch": ("#a8a8a8", "^", ":"),
    "weight-transformation": ("#7a4a21", "X", (0, (1, 1))),
    "heuristic-learngene": ("#2b8a57", "v", "-."),
    "heuristic-learngene, 6 layers": ("#8fce8f", "v", "-."),
    "auto-learngene": ("#8c5fb3", "D", (0, (5, 1, 1, 1))),
    "auto-learngene, 3 layers": ("#c3a5dc", "D", (0, (5, 1, 1, 1))),
    "front layers": ("#2b8a57", "<", "--"),
    "middle layers": ("#c2185b", "P", "-."),
    "last layers": ("#6bb7d6", ">", ":"),
    "all or nothing": ("#111111", "*", ""),
    "clustered heads": ("#5b9bd5", "d", "-"),
    "first heads": ("#b85c00", "h", "-"),
    "random heads": ("#8a8a8a", "p", "-"),
    "k-means heads": ("#8fce8f", "P", "-"),
    "evenly spaced heads": ("#c9b400", "8", "-"),
    "evenly spaced layers": ("#7a4a21", "8", "-"),
    "budget, params": ("#6a3d9a", "o", "-"),
    "budget, flops": ("#b294d6", "D", (0, (1, 1))),
    "budget from the paper's learngene, params": ("#1f4e9c", "v", "-."),
    "cut alike": ("#d9701a", "s", ":"),
}

ALIASES = {  # the same method, as other tables call it
    "Algorithm 1": "cluster-learngene",
    "priority": "cluster-learngene",
    "ε 1 x": "cluster-learngene",
    "heads nearest, FFNs nearest": "cluster-learngene",
    "the paper's rule": "cluster-learngene",
    "the paper's text": "cluster-learngene",
    "columns by proportion": "cluster-learngene",
    "from scratch": "from-scratch",
    "talking heads": "weight-transformation",
    "heuristic": "heuristic-learngene",
    "heuristic, 6 layers": "heuristic-learngene, 6 layers",
    "auto": "auto-learngene",
    "auto, 3 layers": "auto-learngene, 3 layers",
    "first layers": "front layers",
    "all layers": "all or nothing",
    "no layer": "all or nothing",
    "clustered": "clustered heads",
    "first": "first heads",
    "random": "random heads",
}

VERDICT_STYLES = {  # verdict: colour, marker, fill
    "holds": ("#1b6e3c", "o", "full"),
    "holds in part": ("#d9701a", "D", "left"),
    "undecided": ("#8a8a8a", "o", "none"),
    "does not hold": ("#8e1b22", "X", "full"),
}

FILLS = ("full", "none", "left", "top", "right", "bottom")  # of markers: one for each column of a table

_COLOURS = ("#1b6e3c", "#c2185b", "#5b9bd5", "#9a8a00", "#7a4a21", "#8c5fb3", "#e07b7b", "#3b3b3b", "#6f9e1e")
_MARKERS = ("v", "<", ">", "P", "X", "D", "d", "p", "h", "8", "*")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def marker_style(
    color,  # of the marker
    marker,  # its shape
    fill,  # one of `FILLS`
) -> dict:  # arguments for `Axes.plot` and `Axes.errorbar`
    "Draw a marker full, hollow or in halves; what is not filled is white."
    inside = "white" if fill == "none" else color
    return dict(
        color=color, marker=marker, fillstyle="full" if fill == "none" else fill, mfc=inside, markerfacecoloralt="white"
    )


def method_style(
    name,  # of a method, as a recipe, table or figure labels it
) -> dict:  # color, marker, linestyle, for `Axes.plot` and `Axes.errorbar`
    "Look up a method's colour, marker and dash, the same in every figure."
    plain, _, refit = name.partition(", refitted")
    base = _known(plain)
    if base is None:
        code = zlib.crc32(name.encode())
        base = _COLOURS[code % len(_COLOURS)], _MARKERS[code % len(_MARKERS)], _DASHES[code % len(_DASHES)]
    color, marker, dash = base
    if ", refitted" in name:
        dash = WITH_VALUES if refit else REFITTED
    return dict(color=color, marker=marker, linestyle=dash)


def method_marker(
    name,  # of a method
    fill="full",  # one of `FILLS`
) -> dict:  # arguments for `Axes.plot` and `Axes.errorbar`
    "Look up how a single dot of a method is drawn."
    style = method_style(name)
    return marker_style(style["color"], style["marker"], fill)


def verdict_marker(
    verdict,  # of `tables.judge`
) -> dict:  # arguments for `Axes.plot` and `Axes.errorbar`
    "Look up how the dot of a verdict is drawn."
    return marker_style(*VERDICT_STYLES[verdict])


def _known(name):
    "Find the style of a name, of it without numbers, or of what precedes its first comma."
    for form in (name, re.sub(r" \d+\b", "", name), name.split(",")[0]):
        if style := METHOD_STYLES.get(ALIASES.get(form, form)):
            return style


def clean_axes(
    ax,  # matplotlib axes
    sides=("top", "right"),  # of the frame, that are taken away
):  # the axes
    "Take away the sides of the frame that say nothing."
    ax.spines[list(sides)].set_visible(False)
    return ax


def draw_intervals(
    effects,  # DataFrame: difference, low and high of each row, in points
    rows,  # what to call them
    ax=None,  # matplotlib axes
    styles=None,  # how each dot is drawn (`marker_style`); None = each row is a method, drawn as methods are
    shift=0.0,  # of this set of dots, in rows downward
):  # the axes
    "Draw a dot and its interval on a line of its own for each row, the first on top."
    import matplotlib.pyplot as plt

    ax, styles = ax or plt.gca(), styles or [method_marker(row) for row in rows]
    for y, (d, low, high, style) in enumerate(zip(effects.difference, effects.low, effects.high, styles, strict=True)):
        ax.errorbar(d, y + shift, xerr=[[d - low], [high - d]], ms=6, ecolor=style["color"], **style)
    ax.axvline(0, color="0.6", lw=0.8)
    ax.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5), xlabel="difference in points")
    return clean_axes(ax, ["top", "right", "left"])


def draw_effects(
    effects,  # from `tables.against`
    ax=None,  # matplotlib axes
):  # the axes
    """Draw differences with their intervals, one line a row of the table.

    Right of zero is for the compared method.
    """
    columns, rows = list(effects.iloc[:, 0].unique()), list(effects.method.unique())
    for i, (column, fill) in enumerate(zip(columns, cycle(FILLS))):
        part = effects[effects.iloc[:, 0] == column].set_index("method").reindex(rows)
        shift = (i - (len(columns) - 1) / 2) * 0.25
        ax = draw_intervals(part, rows, ax, [method_marker(row, fill) for row in rows], shift)
        if len(columns) > 1:
            ax.plot([], [], ls="", label=column, **marker_style("0.3", "o", fill))
    if len(columns) > 1:
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def draw_curves(
    curves,  # from `tables.to_curves`
    ax=None,  # matplotlib axes
):  # the axes
    """Draw validation accuracy over epochs.

    Mean over seeds, with a band of one standard deviation.
    """
    import matplotlib.pyplot as plt

    ax = ax or plt.gca()
    for method, group in curves.groupby("method", sort=False):
        by, style = group.groupby("epoch")["accuracy"], method_style(method)
        mean, sd = by.mean() * 100, by.std(ddof=1).fillna(0) * 100
        ax.plot(mean.index, mean, label=method, ms=4, **style)
        ax.fill_between(mean.index, mean - sd, mean + sd, color=style["color"], alpha=0.2, lw=0)
    ax.set(xlabel="epoch", ylabel="validation accuracy (%)")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return clean_axes(ax)


def draw_means(
    frame,  # from `tables.to_frame`
    x,  # label, or column of numbers, that goes along the axis
    ax=None,  # matplotlib axes
    order=None,  # of the labels; None = x holds numbers
):  # the axes
    "Draw mean test accuracy with its standard deviation over seeds, one line a method."
    import matplotlib.pyplot as plt

    ax = ax or plt.gca()
    for method, part in frame.groupby("method", sort=False):
        by = part.groupby(x).accuracy.agg(["mean", "std"]).reindex(order or sorted(part[x].unique())) * 100
        at = range(len(order)) if order else by.index
        ax.errorbar(at, by["mean"], by["std"], ms=4.5, capsize=2, label=method, **method_style(method))
    if order:
        ax.set(xticks=range(len(order)), xticklabels=order)
    ax.set_ylabel("test accuracy (%)")
    return clean_axes(ax)


def draw_maps(
    rows,  # (title, attention maps (heads, N, N), what to call each map or ()) of each row of pictures
    columns=8,  # pictures in a row
):  # the figure
    "Draw attention maps as fourth roots of each map's share of its maximum, a row of heads."
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(len(rows), columns, figsize=(1.1 * columns, 1.25 * len(rows)), layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    for row, (title, maps, names) in zip(axes, rows):
        for ax, attention in zip(row, maps.float()):
            ax.imshow((attention / attention.max()) ** 0.25, cmap="viridis", vmin=0, vmax=1)
        for ax, name in zip(row[: len(maps)], names):
            ax.set_title(name, fontsize=7, pad=2)
        row[0].text(
            -0.08,
            0.5,
            title,
            rotation=90,
            fontsize=7,
            ha="right",
            va="center",
            multialignment="center",
            transform=row[0].transAxes,
        )
    return fig


def draw_distances(
    distances: dict,  # name -> (side of the image in pixels, (L, H) pixels)
    uniform: dict,  # name -> pixels, of a head that attends to all tokens alike
):  # the figure
    """Draw how far every head looks by layer, a panel for each ancestry.

    The axes end at half the image's diagonal.
    """
    import matplotlib.pyplot as plt

    rows = -(-len(distances) // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(8, 2.9 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat[len(distances) :]:
        ax.set_axis_off()
    for ax, (name, (side, d)) in zip(axes.flat, distances.items()):
        layers = range(1, len(d) + 1)
        ax.plot(layers, d, "o", ms=4, color="#5b9bd5", alpha=0.6)
        ax.plot(layers, d.mean(1), color="#111111", lw=1.2, label="mean of the layer")
        ax.axhline(uniform[name], ls="--", lw=1, color="0.4", label="attention to all tokens alike")
        ax.set(ylim=(0, side * 2**0.5 / 2), xticks=layers, xlabel="layer", ylabel="distance (px)")
        ax.set_title(f"{name}, {side} px", fontsize=9)
        clean_axes(ax).tick_params(labelsize=7)
    axes[0, 0].legend(frameon=False, fontsize=7)
    return fig
