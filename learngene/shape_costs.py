"What shapes cost: parameters, operations and memory counted by parts, milliseconds measured."
from dataclasses import dataclass

from .vit import build_vit, latency_ms, measure, memory_mb


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
        return base | dict(heads=[self.heads[i] for i in layers], ffn_width=[self.widths[i] for i in layers])


class ShapeCosts:
    """Count what shapes cost without building them; the same numbers as `measure`.

    All layers are alike, so a few small models tell what a head, a neuron and the rest of a layer cost.
    """
    def __init__(
        self,
        base,  # the ancestry's architecture, from `vit_config`
        batch_size=1,  # images at once, for memory
    ):
        one = base | dict(heads=[2], ffn_width=[2])
        small = dict(one=one, head=one | dict(heads=[3]), neuron=one | dict(ffn_width=[3]),
                     rest=base | dict(heads=[2, 2], ffn_width=[2, 2]))
        costs = {name: measure(config) for name, config in small.items()}
        self.base = base
        self.parts = {k: self._by_part({name: cost[k] for name, cost in costs.items()}) for k in ("params", "flops")}
        model = build_vit(one)
        self.tokens = batch_size * (model.patch_embed.num_patches + model.num_prefix_tokens)

    @staticmethod
    def _by_part(cost):
        "Split the costs of the small models into those of a head, a neuron, the rest of a layer, and the stem."
        head, neuron = cost["head"] - cost["one"], cost["neuron"] - cost["one"]
        rest = cost["rest"] - cost["one"] - 2 * head - 2 * neuron
        return dict(head=head, neuron=neuron, rest=rest, stem=cost["one"] - 2 * head - 2 * neuron - rest)

    def __call__(self, kept):
        "Count params, flops and memory_mb of `KeptParts`."
        heads, neurons, layers = sum(kept.heads.values()), sum(kept.widths.values()), len(kept.heads)
        params, flops = (part["stem"] + layers * part["rest"] + heads * part["head"] + neurons * part["neuron"]
                         for part in self.parts.values())
        return dict(params=params, flops=flops, memory_mb=memory_mb(params, kept.config(self.base), self.tokens))


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
):  # (milliseconds of the ancestry, dict of milliseconds of a head, a neuron, and the rest of a layer)
    """Measure the time of a model: whole, with one layer, with single heads, single neurons.

    A part that is too fast to be seen counts as a thousandth of a layer.
    """
    def time(heads, widths):
        return fastest_ms(base | dict(heads=heads, ffn_width=widths), batch_size, device)

    heads, widths, n = base["heads"], base["ffn_width"], len(base["heads"])
    whole, mean_heads, mean_width = time(heads, widths), sum(heads) / n, sum(widths) / n
    layer = max(1e-6 * whole, (whole - time(heads[:1], widths[:1])) / max(1, n - 1))
    head = max(1e-3 * layer / mean_heads, (whole - time([1] * n, widths)) / max(1, sum(heads) - n))
    neuron = max(1e-3 * layer / mean_width, (whole - time(heads, [1] * n)) / max(1, sum(widths) - n))
    rest = max(1e-3 * layer, layer - mean_heads * head - mean_width * neuron)
    return whole, dict(head=head, neuron=neuron, rest=rest)
