"The shapes that descendants can have: which layers, how many heads in each, how many classes."
from .checks import check_choices, whole_number

LAYERS = ("front", "middle", "last", "even")  # rules for `layers`


def class_count(
    num_classes,  # of a fresh classifier; 0 = none
) -> int:
    "Return a number of classes as an int. ValueError for what is no whole number."
    n = whole_number(num_classes)
    if n is None or n < 0:
        raise ValueError(f"num_classes is {num_classes!r}, wanted a whole number of at least 0, "
                         "or None for the ancestry's classifier.")
    return n


def source_layers(
    ancestry_depth: int,  # layers of the ancestry
    depth=None,  # layers of the descendant; None = the ancestry's, or as many as are listed
    layers="front",  # a rule of LAYERS, or ascending ancestry layers from 0
    stages=None,  # stage of each ancestry layer, where patches are merged between stages
) -> list:  # ancestry layers, from 0
    """Choose the ancestry layers of a descendant.

    With "even" the first and the last are among them. With stages, every stage keeps its share, by the same rule.
    ValueError for an impossible depth or list.
    """
    listed = isinstance(layers, (list, tuple))
    if not listed:
        check_choices(layers=(layers, LAYERS))
    if depth is not None:
        n = whole_number(depth)
    else:
        n = len(layers) if listed and layers else ancestry_depth
    if n is None or not 1 <= n <= ancestry_depth:
        raise ValueError(f"depth is {depth!r}, wanted 1 to {ancestry_depth}: the learngene has {ancestry_depth} layers "
                         "and no rule to make more.")
    if stages and len(set(stages)) > 1:
        return _layers_of_stages(ancestry_depth, n, layers, stages)
    if listed:
        return _listed_layers(layers, n, ancestry_depth)
    if layers == "even":
        return [round(i * (ancestry_depth - 1) / max(1, n - 1)) for i in range(n)]
    first = dict(front=0, middle=(ancestry_depth - n) // 2, last=ancestry_depth - n)[layers]
    return list(range(first, first + n))


def _listed_layers(layers, n, ancestry_depth):
    whole = [whole_number(layer) for layer in layers]
    ascending = None not in whole and whole == sorted(set(whole))
    if not ascending or len(whole) != n or whole[0] < 0 or whole[-1] >= ancestry_depth:
        raise ValueError(f"layers is {layers}, wanted {n} ascending layers of 0 to {ancestry_depth - 1}.")
    return whole


def _layers_of_stages(ancestry_depth, n, layers, stages):
    "Choose layers where every stage must keep one."
    by_stage = [[i for i, stage in enumerate(stages) if stage == s] for s in sorted(set(stages))]
    if not isinstance(layers, str):
        chosen = _listed_layers(layers, n, ancestry_depth)
        empty = [s + 1 for s, of_stage in enumerate(by_stage) if not set(of_stage) & set(chosen)]
        if empty:
            raise ValueError(f"layers is {layers}, which leaves none of stages {empty} (from 1); keep one in each.")
        return chosen
    if n < len(by_stage):
        raise ValueError(f"depth is {n}, wanted {len(by_stage)} to {ancestry_depth}: every stage needs a layer.")
    counts = [1] * len(by_stage)
    for _ in range(n - len(by_stage)):  # the next layer goes where the share that is kept is least
        fitting = [s for s, of_stage in enumerate(by_stage) if counts[s] < len(of_stage)]
        counts[min(fitting, key=lambda s: counts[s] / len(by_stage[s]))] += 1
    return [of_stage[i] for of_stage, count in zip(by_stage, counts)
            for i in source_layers(len(of_stage), count, layers)]


def within_stages(
    groups,  # lists of adjacent layers, from 0
    config,  # the architecture, from `vit_config`
) -> list:
    "Split groups of layers where patches are merged between stages."
    stages = config.get("stages")
    if not stages:
        return groups
    return [[i for i in group if stages[i] == s] for group in groups for s in sorted({stages[i] for i in group})]


def head_counts(
    ancestry_heads: list,  # heads of the ancestry in the chosen layers
    heads=None,  # heads in each layer, or one number for each layer; None = the ancestry's
    omega=None,  # instead: the ancestry's heads / the descendant's
) -> list:  # heads in each descendant layer
    "Return the heads of each layer, 1 to 16 times the ancestry's. ValueError for others."
    if heads is not None and omega is not None:
        raise ValueError("give heads or omega, not both.")
    if omega is not None:
        heads = _by_ratio(ancestry_heads, omega)
    if heads is None:
        heads = ancestry_heads
    listed = list(heads) if hasattr(heads, "__len__") else [heads] * len(ancestry_heads)
    if len(listed) != len(ancestry_heads):
        raise ValueError(f"heads lists {len(listed)} layers, the descendant has {len(ancestry_heads)}.")
    for given, n in zip(listed, ancestry_heads):
        if not 1 <= (whole_number(given) or 0) <= 16 * n:
            raise ValueError(f"heads is {given!r}, wanted a whole number from 1 to {16 * n} "
                             f"(16 times the ancestry's {n}).")
    return [whole_number(given) for given in listed]


def _by_ratio(ancestry_heads, omega):
    counts = [n / omega if omega > 0 else 0 for n in ancestry_heads]
    if any(round(c) < 1 or abs(c - round(c)) > 1e-6 for c in counts):
        raise ValueError(f"omega is {omega}, which makes {counts[0]:g} heads of {ancestry_heads[0]}; "
                         "wanted a ratio that gives whole heads.")
    return [round(c) for c in counts]
