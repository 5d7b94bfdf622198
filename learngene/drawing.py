"Plans as text, as a table, and as rows of labelled boxes. All of them count layers and heads from 1."
import html


def box_row(
    ax,  # matplotlib axes
    y: float,  # of the row
    labels,  # text of each box
    ranks,  # for each box the rank of its cluster, from 0, or a matplotlib colour
    x=0.0,  # of the first box
    width=1.0,  # of a box
) -> None:
    "Draw a row of boxes from x to the right."
    import matplotlib.pyplot as plt

    colours = plt.get_cmap("tab10").colors
    for i, (label, rank) in enumerate(zip(labels, ranks)):
        colour = rank if isinstance(rank, str) else colours[rank % 10]
        left = x + (i - 0.46) * width
        ax.add_patch(plt.Rectangle((left, y - 0.42), 0.92 * width, 0.84, color=colour, alpha=0.35))
        ax.text(x + i * width, y, label, ha="center", va="center", fontsize=8)


def draw_rows(
    rows: dict,  # name of a row -> its boxes, each (label, rank) as in `box_row`
    width=1.0,  # of a box
    ax=None,  # matplotlib axes; None = new ones
):  # the axes
    "Draw named rows of boxes below each other."
    import matplotlib.pyplot as plt

    longest = max(len(boxes) for boxes in rows.values())
    if ax is None:
        _, ax = plt.subplots(figsize=(0.4 * longest * width + 2.2, 0.4 * len(rows) + 0.2))
    for y, boxes in enumerate(rows.values()):
        box_row(ax, y, [label for label, _ in boxes], [rank for _, rank in boxes], width=width)
    ax.set(xlim=(-0.6 * width, (longest - 0.4) * width), ylim=(len(rows) - 0.4, -0.6), xticks=[])
    ax.set_yticks(range(len(rows)), rows)
    ax.spines[:].set_visible(False)
    ax.tick_params(left=False)
    return ax


def draw_plan(
    plan,  # a Plan
    ax=None,  # matplotlib axes; None = new ones
):  # the axes
    "Draw a row for each layer of a plan, and in it the ancestry's heads that are copied."
    import matplotlib.pyplot as plt

    n, widest = len(plan.layers), max(len(p.heads) for p in plan.layers)
    if ax is None:
        _, ax = plt.subplots(figsize=(0.36 * (widest + 5), 0.34 * (n + 2)))
    for y, p in enumerate(plan.layers):
        box_row(ax, y, [head + 1 for head in p.heads], p.positions)
        ax.text(-1.1, y, p.source + 1, ha="center", va="center", fontsize=8)
        box_row(ax, y, [ffn_label(p)], ["0.7" if p.ffn == p.source else "0.3"], x=widest + 0.9, width=1.7)
    heads = "heads copy the ancestry's head\n(all count from 1)"
    titles = {-1.1: "from\nlayer", (widest - 1) / 2: heads, widest + 0.9: "FFN of\nlayer"}
    for x, title in titles.items():
        ax.text(x, -0.75, title, ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(-1.9, widest + 2), ylim=(n - 0.3, -1.9), xticks=[])
    ax.set_ylabel("descendant layer", fontsize=8)
    ax.set_yticks(range(n), range(1, n + 1), fontsize=8)
    ax.spines[:].set_visible(False)
    ax.tick_params(left=False)
    return ax


def plan_text(
    plan,  # a Plan
) -> str:
    "Write a plan as a heading and a line for each layer."
    n, order = len(plan.layers), "" if plan.order == "priority" else f"order={plan.order!r}, "
    heading = (f"descendant of {n} layer{'s' * (n != 1)}, proj={plan.proj!r}, ffn={plan.ffn!r}, {order}"
               f"{plan.inherited_params / 1e6:.2f} M inherited parameters (layers and heads from 1)")
    lines = [f"  layer {i:2d} <- {p.source + 1:2d}   heads <- {' '.join(f'{head + 1:2d}' for head in p.heads)}   "
             f"FFN <- {ffn_label(p)}" for i, p in enumerate(plan.layers, 1)]
    return "\n".join([heading, *lines])


def plan_html(
    plan,  # a Plan
) -> str:
    "Write a plan as an HTML table."
    rows = [(i, p.source + 1, " ".join(str(head + 1) for head in p.heads), ffn_label(p))
            for i, p in enumerate(plan.layers, 1)]
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    titles = "".join(f"<th>{title}</th>" for title in ("layer", "from layer", "heads copy", "FFN from"))
    return f"<p>{html.escape(plan_text(plan).splitlines()[0])}</p><table><tr>{titles}</tr>{body}</table>"


def ffn_label(
    layer_plan,  # a LayerPlan
) -> str:  # e.g. "3", or "3: 128" where 128 neurons stay
    "Name the FFN that a layer gets, from 1."
    width = "" if layer_plan.ffn_width is None else f": {layer_plan.ffn_width}"
    return f"{layer_plan.ffn + 1}{width}"


def figure_svg(
    figure,  # of matplotlib; closed afterwards
) -> str:
    "Draw a figure as SVG text, to stand in HTML."
    import io

    import matplotlib.pyplot as plt

    file = io.StringIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    text = file.getvalue()
    return text[text.index("<svg"):]
