"What shapes cost: parameters, operations and memory counted by parts, milliseconds measured."
from dataclasses import dataclass

from .anatomy import layers_of, tokens_of
from .families.description import cut_config, rows_of_units, units_per_layer
from .vit import build_vit, latency_ms, measure, memory_mb

PARTS = ("head", "neuron", "rest")  # of a layer


@dataclass(frozen=True)
class KeptParts:
    "The ancestry layers that a shape keeps (from 0), and how many heads and neurons of each."
    heads: dict  # layer -> heads
    widths: dict  # layer -> FFN neurons

    def with_heads(self, layer, heads):
        "Change the number of heads of one layer."
        return KeptParts(self.heads | {layer: heads}, self.widths)

    def with_width(self, layer, width):
        "Change the FFN width of one layer."
        return KeptParts(self.heads, self.widths | {layer: width})

    def without_layer(self, layer):
        "Leave out a whole layer."
        heads, widths = ({i: n for i, n in counts.items() if i != layer} for counts in (self.heads, self.widths))
        return KeptParts(heads, widths)

    def config(self, base):
        "Describe the architecture: `base`, from `vit_config`, with these layers."
        layers = sorted(self.heads)
        heads = [[head % base["heads"][i] for head in range(self.heads[i])] for i in layers]
        return cut_config(base, layers, heads, rows_of_units(base, [self.widths[i] for i in layers]))


class ShapeCosts:
    """Count what shapes cost without building them; the same numbers as `measure`.

    Layers of one kind are alike, so a few small models tell what a head, a neuron and the rest of a layer cost.
    """
    def __init__(
        self,
        base,  # the ancestry's architecture, from `vit_config`
        batch_size=1,  # images at once, for memory
    ):
        model = build_vit(base)
        self.base, self.stages = base, [layer.stage for layer in layers_of(model)]
        self.tokens = [batch_size * n for n in tokens_of(model)]
        kinds = [(layer.stage, getattr(layer.block, "window_size", None)) for layer in layers_of(model)]
        always = sorted(self.stages.index(s) for s in set(self.stages))  # a layer in each stage
        known = {kind: self._of_kind([i for i, k in enumerate(kinds) if k == kind], always) for kind in set(kinds)}
        self.parts = {k: {part: [known[kind][k][part] for kind in kinds] for part in PARTS}
                      for k in ("params", "flops")}
        self.stems = {k: self._measure(always)[k] - sum(self._layer(k, i, 2, 2) for i in always) for k in self.parts}

    def _measure(self, layers, layer=None, heads=2, width=2):
        "Measure a model of some layers of two heads and two neurons, but for one layer."
        kept = KeptParts(dict.fromkeys(layers, 2) | {layer: heads}, dict.fromkeys(layers, 2) | {layer: width})
        for counts in (kept.heads, kept.widths):
            counts.pop(None, None)
        return measure(kept.config(self.base))

    def _of_kind(self, layers, always):
        "Split the costs of one kind of layer into those of a head, of a neuron, and of the rest."
        layer = next((i for i in layers if i not in always), layers[0])
        few, many = self._measure(always), self._measure(sorted({*always, layer}))
        head, neuron = (self._measure(sorted({*always, layer}), layer, *size) for size in ((3, 2), (2, 3)))
        costs = {}
        for k in ("params", "flops"):
            of_head, of_neuron = head[k] - many[k], neuron[k] - many[k]
            rest = 0 if layer in always else many[k] - few[k] - 2 * of_head - 2 * of_neuron  # 0: it always stays
            costs[k] = dict(head=of_head, neuron=of_neuron, rest=rest)
        return costs

    def _layer(self, k, layer, heads, width):
        "Price one layer of so many heads and neurons."
        part = {name: of_layers[layer] for name, of_layers in self.parts[k].items()}
        return part["rest"] + heads * part["head"] + width * part["neuron"]

    def __call__(self, kept):
        "Count params, flops and memory_mb of `KeptParts`."
        params, flops = (self.stems[k] + sum(self._layer(k, i, kept.heads[i], kept.widths[i]) for i in kept.heads)
                         for k in ("params", "flops"))
        tokens = [self.tokens[i] for i in sorted(kept.heads)]
        return dict(params=params, flops=flops, memory_mb=memory_mb(params, kept.config(self.base), tokens))


def fastest_ms(
    config,  # an architecture, from `vit_config`
    batch_size=1,  # images at once
    device="cpu",  # on which it is measured
) -> float:
    """Measure a forward pass three times and return the least, milliseconds.

    Other load only adds.
    """
    model = build_vit(config, device="cpu").to(device)
    return min(latency_ms(model, batch_size, 10) for _ in range(3))


def part_times(
    base,  # the ancestry's architecture, from `vit_config`
    batch_size=1,  # images at once
    device="cpu",  # on which it is measured
):  # (milliseconds of the ancestry, dict of milliseconds of a head, a neuron, and the rest of a layer, for each layer)
    """Measure the time of a model: whole, with one layer, with single heads, single neurons.

    A part that is too fast to be seen counts as a thousandth of a layer. Where layers differ in kind, their shares of
    the operations are taken.
    """
    def time(layers, heads, widths):
        kept = KeptParts(dict(zip(layers, heads)), dict(zip(layers, widths)))
        return fastest_ms(kept.config(base), batch_size, device)

    heads, widths, n = base["heads"], units_per_layer(base), len(base["heads"])
    whole, mean_heads, mean_width = time(range(n), heads, widths), sum(heads) / n, sum(widths) / n
    if len(set(base.get("stages", [0]))) > 1:
        costs = ShapeCosts(base)
        rate = whole / costs(KeptParts(dict(enumerate(heads)), dict(enumerate(widths))))["flops"]
        return whole, {part: [rate * x for x in layers] for part, layers in costs.parts["flops"].items()}
    layer = max(1e-6 * whole, (whole - time([0], heads[:1], widths[:1])) / max(1, n - 1))
    head = max(1e-3 * layer / mean_heads, (whole - time(range(n), [1] * n, widths)) / max(1, sum(heads) - n))
    neuron = max(1e-3 * layer / mean_width, (whole - time(range(n), heads, [1] * n)) / max(1, sum(widths) - n))
    rest = max(1e-3 * layer, layer - mean_heads * head - mean_width * neuron)
    return whole, {part: [ms] * n for part, ms in dict(head=head, neuron=neuron, rest=rest).items()}
