"The families that can be cut, and what can be done with each: computed from small models of them."
from torch import nn

from .blocks import POST_NORM, blocks_of, stages_of
from .checks import REFUSED, check_family, family_of
from .examples import EXAMPLES, small_model


def support_of(
    model,  # a vision transformer
) -> dict:  # name of an ability -> True or False
    """Say what can be done with a model beside measuring, condensing and inheriting.

    Raises TypeError for a model that cannot be cut at all.
    """
    check_family(model)
    blocks = blocks_of(model)
    refit = not any(isinstance(block, POST_NORM) for block in blocks)  # else a norm stands between W^O and the stream
    norm = any(not isinstance(getattr(block.mlp, "norm", None) or nn.Identity(), nn.Identity) for block in blocks)
    return dict(refit=refit, neurons=refit and not norm, stages=len(set(stages_of(model))) > 1)


def families_table() -> list:  # of dicts of text, a row for each example
    "List every family that can be cut, an example in timm, and what can be done with it."
    rows = []
    for name, (architecture, _) in EXAMPLES.items():
        model = small_model(name)
        able = support_of(model)
        rows.append({
            "family": name, "class in timm": family_of(model).__name__, "for example": architecture,
            "heads, layers": "yes", "refit": _word(able["refit"]), "FFN neurons, budgets": _word(able["neurons"]),
            "stages": _word(able["stages"])})
    return rows


def refused_table() -> list:  # of dicts of text
    "List the classes of timm that are refused, with what is in the way."
    return [{"class in timm": name, "why": reason} for name, reason in REFUSED.items()]


def table_text(
    rows: list,  # of dicts of text with the same keys
) -> str:
    "Write rows as lines with aligned columns."
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    lines = [dict(zip(widths, widths)), *rows]
    return "\n".join("  ".join(line[key].ljust(width) for key, width in widths.items()).rstrip() for line in lines)


def _word(able):
    return "yes" if able else "no"
