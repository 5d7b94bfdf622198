"What `shrink` did: the heads and neurons that were kept, the loss, the costs before and after."
import html
from dataclasses import asdict, dataclass, fields

UNITS = dict(params=(1e6, "M parameters"), flops=(2e9, "G multiply-adds"), memory_mb=(1, "MB"), latency_ms=(1, "ms"))
KEPT, DROPPED = "#0b4f8a", "#d9d9d9"  # dark and light: told apart in grey, and by the colour-blind


@dataclass(repr=False)
class ShrinkReport:
    "What was kept of an ancestry, and at what loss: plain values, saved with the model."
    ancestry: dict  # name, licence, url, fingerprint, as far as they are known
    limits: dict  # what was asked for: params, flops, latency_ms, memory_mb; shares are resolved
    ancestry_heads: list  # heads of each ancestry layer
    ancestry_widths: list  # FFN neurons of each ancestry layer
    layers: list  # for each descendant layer a dict: source and heads (from 0), neurons (None = all)
    before: dict  # costs of the ancestry: params, flops (operations), memory_mb, latency_ms
    after: dict  # the same of the descendant
    predicted: float  # loss before the refit was solved, share of the last stream's variance
    measured: float  # the same, measured on the descendant
    errors: list  # relative error of the stream after each layer, from the refit
    images: dict  # source, calibration and measured: numbers of images; held_out: whether these are others
    agreement: float | None = None  # share of measured images given the ancestry's class; None without a classifier
    distances: list | None = None  # (L, H) mean attention distance of the ancestry, pixels
    distances_after: list | None = None  # the same of the descendant
    seconds: float = 0.0
    version: str = ""  # of learngene
    prices: str = "variance"  # in which `predicted` is counted: shares of the stream's variance, or "fisher": nats
    healed: str | None = None  # what `heal` did afterwards, in a sentence; the numbers above are from before

    def to_dict(self):
        "Return the report as JSON-able values."
        return asdict(self)

    @classmethod
    def from_dict(cls, values):
        "Make a report of what `to_dict` returned; unknown entries of a later version are left out."
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    @property
    def rows(self):
        "(what, before, after, share) of each cost, as text."
        for name, (unit, text) in UNITS.items():
            if name in self.before and name in self.after:
                old, new = self.before[name], self.after[name]
                if name == "flops" and old < 1e9:
                    unit, text = 2e6, "M multiply-adds"
                yield text, f"{old / unit:,.3g}", f"{new / unit:,.3g}", f"{new / old:.0%}"

    @property
    def lines(self):
        "The report as (title, text) pairs."
        kept = {layer["source"]: layer for layer in self.layers}
        heads = sum(len(layer["heads"]) for layer in self.layers)
        widths = [self.ancestry_widths[source] if kept[source]["neurons"] is None else kept[source]["neurons"]
                  for source in kept]
        asked = ", ".join(f"{name} {limit:,.4g}" for name, limit in self.limits.items())
        images = f"{self.images['calibration']} calibration images of {self.images['source']}"
        others = "other images" if self.images["held_out"] else "the same images"
        yield "ancestry", ", licence ".join(filter(None, [self.ancestry.get("name"), self.ancestry.get("licence")]))
        yield "limits", asked
        yield "kept", (f"{len(self.layers)} of {len(self.ancestry_heads)} layers, {heads} of "
                       f"{sum(self.ancestry_heads)} heads, {sum(widths):,} of {sum(self.ancestry_widths):,} neurons")
        unit = " nats" if self.prices == "fisher" else ""
        yield "loss", (f"{self.predicted:.3f}{unit} predicted, "
                       f"{self.measured:.3f} measured on {self.images['measured']} "
                       f"{others} (share of the last stream's variance)")
        if self.agreement is not None:
            yield "agreement", f"{self.agreement:.1%} of them get the class that the ancestry gives"
        yield "from", f"{images}, no labels, {self.seconds:.0f} s"
        if self.healed:
            yield "healed", f"afterwards: {self.healed}"

    def __repr__(self):
        costs = [f"  {text:16s} {old:>8s} -> {new:>8s}  ({share})" for text, old, new, share in self.rows]
        return "\n".join(["ShrinkReport", *costs, *(f"  {title:10s} {text}" for title, text in self.lines)])

    def _repr_html_(self):
        from .drawing import figure_svg

        cost_rows = "".join(f"<tr><td>{text}</td><td>{old}</td><td>{new}</td><td>{share}</td></tr>"
                            for text, old, new, share in self.rows)
        lines = "".join(f"<tr><th>{title}</th><td>{html.escape(text)}</td></tr>" for title, text in self.lines)
        titles = "<tr><th></th><th>before</th><th>after</th><th>share</th></tr>"
        return f"<table>{titles}{cost_rows}</table><table>{lines}</table>{figure_svg(self.draw())}"

    def draw(self):
        "Draw what was kept, how far heads look before and after, and the error by layer; a figure."
        import matplotlib.pyplot as plt

        n, widest = len(self.ancestry_heads), max(self.ancestry_heads)
        panels = 3 if self.distances else 2
        sizes = (0.24 * widest + 2.2, 3.2, 3.2)[:panels] if self.distances else (0.24 * widest + 2.2, 3.2)
        fig, axes = plt.subplots(1, panels, figsize=(sum(sizes), max(2.6, 0.24 * n + 1.1)), layout="constrained",
                                 width_ratios=sizes)
        self.draw_kept(axes[0])
        if self.distances:
            self.draw_density(axes[1])
        self.draw_errors(axes[-1])
        return fig

    def draw_kept(self, ax=None):
        "Draw every head and FFN of the ancestry: dark if kept, light and crossed if dropped."
        import matplotlib.pyplot as plt

        ax, widest = ax or plt.gca(), max(self.ancestry_heads)
        kept = {layer["source"]: layer for layer in self.layers}
        bar = widest + 0.6  # where the FFN's bar begins
        for y, (heads, width) in enumerate(zip(self.ancestry_heads, self.ancestry_widths)):
            layer = kept.get(y)
            for head in range(heads):
                stays = layer is not None and head in layer["heads"]
                _box(ax, head, y, stays)
            neurons = 0 if layer is None else width if layer["neurons"] is None else layer["neurons"]
            ax.add_patch(plt.Rectangle((bar, y - 0.4), 4, 0.8, fc=DROPPED, ec="0.6", lw=0.5))
            ax.add_patch(plt.Rectangle((bar, y - 0.4), 4 * neurons / width, 0.8, fc=KEPT))
        ax.set(xlim=(-0.7, bar + 4.3), ylim=(len(self.ancestry_heads) - 0.4, -0.6), ylabel="ancestry layer")
        ax.set_xticks([(widest - 1) / 2, bar + 2], [f"heads 1 to {widest}", "FFN neurons"])
        ax.set_yticks(range(len(self.ancestry_heads)), range(1, len(self.ancestry_heads) + 1), fontsize=7)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title("dark: kept, light: dropped", fontsize=9)
        return ax

    def draw_density(self, ax=None):
        "Draw how far every head looks by layer: crosses before, filled circles after."
        import matplotlib.pyplot as plt

        ax = ax or plt.gca()
        for y, row in enumerate(self.distances, 1):
            ax.plot([d for d in row if d is not None], [y - 0.14] * sum(d is not None for d in row), "x", ms=4.5,
                    color="0.55", label="ancestry" if y == 1 else None)
        for i, (layer, row) in enumerate(zip(self.layers, self.distances_after)):
            known = [d for d in row if d is not None]
            ax.plot(known, [layer["source"] + 1.14] * len(known), "o", ms=4.5, color=KEPT,
                    label="descendant" if i == 0 else None)
        ax.set(ylim=(len(self.distances) + 0.6, 0.4), xlabel="mean attention distance (px)",
               yticks=range(1, len(self.distances) + 1))
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        return ax

    def draw_errors(self, ax=None):
        "Draw the relative error of the stream after each descendant layer."
        import matplotlib.pyplot as plt

        ax, sources = ax or plt.gca(), [layer["source"] + 1 for layer in self.layers]
        ax.plot(self.errors, sources, "o-", color=KEPT, ms=4)
        ax.set(ylim=(len(self.ancestry_heads) + 0.6, 0.4), xlim=(0, None), xlabel="relative error of the stream",
               yticks=range(1, len(self.ancestry_heads) + 1))
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(f"loss {self.measured:.3f} at {self.after['params'] / self.before['params']:.0%} of parameters",
                     fontsize=9)
        return ax


def _box(ax, x, y, stays):
    "Draw one head: a dark square, or a light one with a cross."
    import matplotlib.pyplot as plt

    ax.add_patch(plt.Rectangle((x - 0.4, y - 0.4), 0.8, 0.8, fc=KEPT if stays else DROPPED, ec="none"))
    if not stays:
        ax.plot(x, y, "x", color="0.5", ms=4, mew=0.8)
