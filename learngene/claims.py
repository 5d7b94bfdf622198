"""The paper's claims, the runs that can speak to each, and what they say: one verdict by one rule for all."""

import re
from dataclasses import dataclass

import pandas as pd

from .captions import steps_of
from .paper import has_numbers, published_value
from .tables import compare, describe_difference, differences, judge, to_curves, to_frame

VERDICTS = ("holds", "holds in part", "undecided", "does not hold")
UNMEASURED = "not yet measured at this scale"


@dataclass(frozen=True)
class Claim:
    "A claim of the paper, and the comparisons of one table that it rests on."

    text: str
    table: str  # the paper's table or figure, as its recipe file is called
    ours: str  # the row that the claim is about
    others: tuple = ()  # the rows that it is compared with; () = all
    paper: tuple = ()  # (text with a place for the number, row, column, table) of what the paper states
    note: str = ""  # what is compared, where it is not simply test accuracy
    without: tuple = ()  # columns of the table that the claim is not about


OURS, SCRATCH = "cluster-learngene", "from-scratch"
NEAREST, EPS = "heads nearest, FFNs nearest", "ε {} x"

CLAIMS = (
    Claim(
        "beats Pretraining-Finetuning",
        "table2",
        OURS,
        ("pretraining-finetuning",),
        (("ahead on {:.0f} of 7 datasets", OURS, "data sets ahead of pretraining-finetuning", "table2"),),
    ),
    Claim(
        "beats Heuristic-Learngene",
        "table2",
        OURS,
        ("heuristic-learngene",),
        note="it keeps three layers, as in the released code.",
    ),
    Claim(
        "beats Auto-Learngene",
        "table2",
        OURS,
        ("auto-learngene, 3 layers",),
        (("{:+.2f} (iNat-2019)", "cluster-learngene - auto-learngene", "inat2019", "table2"),),
        "it keeps three layers, for with six it is Pretraining-Finetuning; the paper's number is of six.",
    ),
    Claim(
        "beats Weight-Transformation",
        "table2",
        OURS,
        ("weight-transformation",),
        note="talking heads from random weights, as the paper's comparison was coded.",
    ),
    Claim(
        "beats training from scratch on fewer images",
        "table3",
        OURS,
        (SCRATCH,),
        (("{:+.2f} (25 %)", "cluster-learngene - from-scratch", "25 %", "table3"),),
        "a sixth of the epochs; with all images the paper itself is behind.",
        without=("100 %",),
    ),
    Claim(
        "Algorithm 1 beats k-means, k = 1",
        "table4",
        "Algorithm 1",
        ("k-means, k = 1",),
        note="k = 1 inherits fewer values.",
    ),
    Claim("Algorithm 1 beats k-means, k = 2 and 3", "table4", "Algorithm 1", ("k-means, k = 2", "k-means, k = 3")),
    Claim("priority order helps", "table5", "priority"),
    Claim("nearest heads beat averaged ones", "table7", NEAREST, ("heads averaged, FFNs nearest",)),
    Claim("nearest FFNs beat averaged ones", "table7", NEAREST, ("heads nearest, FFNs averaged",)),
    Claim(
        "the middle ε is best",
        "table8",
        EPS.format(1),
        (EPS.format(0.1), EPS.format(10)),
        (
            ("{:.2f} % at 1 px,", "1", "cifar100", "table8"),
            ("{:.2f} % at 10 px,", "10", "cifar100", "table8"),
            ("{:.2f} % at 100 px", "100", "cifar100", "table8"),
        ),
    ),
    Claim(
        "more heads in later layers are better",
        "table9",
        "more heads in later layers",
        ("more heads in earlier layers",),
        (("{:+.2f}", "more heads in later layers - more heads in earlier layers", "accuracy", "table9"),),
        "as the paper's text has it; its caption names the two patterns the other way round.",
    ),
    Claim(
        "half the epochs suffice, at every size",
        "table1",
        OURS,
        (SCRATCH,),
        (("{:+.2f} (DeiT-S)", "cluster-learngene - from-scratch", "DeiT-S, 6 heads, 12 layers", "table1"),),
        "half the epochs; every shape is a comparison.",
    ),
    Claim(
        "converges faster than from scratch",
        "figure5",
        OURS,
        (SCRATCH,),
        (
            (
                "{:g} times less training (DeiT-S)",
                "from-scratch / cluster-learngene",
                "cost of training, DeiT-S",
                "figure8",
            ),
        ),
        "validation accuracy, averaged over all epochs of a run.",
    ),
    Claim(
        "better with fewer inherited parameters",
        "figure4",
        "cluster-learngene, Eps 1 x",
        tuple(f"{part} 10 layers" for part in ("front", "middle", "last")),
        (
            ("{:g} % with", "cluster-learngene, DeiT-S", "accuracy", "figure4"),
            ("{:g} M,", "cluster-learngene, DeiT-S", "inherited parameters", "figure4"),
            ("under {:g} % with", "pretraining-finetuning, DeiT-S", "accuracy stays under", "figure4"),
            ("{:g} M", "pretraining-finetuning, DeiT-S", "inherited parameters", "figure4"),
        ),
        "against ten layers in front, in the middle and last; all of W^O is counted.",
    ),
)


def claim_tables(
    results,  # `Results` of a profile
) -> dict:  # table -> (frame, records), of the tables whose runs all have a record
    """Read the tables that claims rest on.

    In each, `cell` joins the labels that make its columns.
    """
    tables = {}
    for name in dict.fromkeys(claim.table for claim in CLAIMS):
        try:
            cells, records, n = results.find(name)
        except FileNotFoundError:  # the profile does not state it
            continue
        if len(cells) == n:
            frame = mean_over_epochs(to_curves(cells, records)) if name == "figure5" else to_frame(cells, records)
            labels = [label for label in cells[0][0] if label not in ("method", "seed")]
            tables[name] = frame.assign(cell=frame[labels].agg(", ".join, axis=1) if labels else "all"), records
    return tables


def mean_over_epochs(
    curves,  # from `to_curves`
) -> pd.DataFrame:  # labels, accuracy
    "Average each run's validation accuracy over its epochs."
    labels = [label for label in curves if label not in ("epoch", "accuracy", "train_loss")]
    return curves.groupby(labels, sort=False).accuracy.mean().reset_index()


def judge_claims(
    tables,  # from `claim_tables`
) -> dict:  # claim's text -> as `judge`, and `same`: comparisons of two rows with the same weights, left out
    "Judge every claim whose table is there."
    judged = {}
    for claim in CLAIMS:
        if claim.table not in tables:
            continue
        frame = tables[claim.table][0]
        frame = frame[~frame.cell.isin(claim.without)]
        others = [m for m in frame.method.unique() if m in claim.others or not claim.others and m != claim.ours]
        if others:
            d = differences(frame, claim.ours, others, "cell")
            judged[claim.text] = judge(d) | dict(same=len(others) * frame.cell.nunique() - d.shape[1])
    return judged


def claims_table(
    judged,  # from `judge_claims`
) -> pd.DataFrame:
    "Tabulate claims: verdict, effect, interval, the paper's number, comparisons, notebook."
    rows = {}
    for claim in CLAIMS:
        c = judged.get(claim.text)
        rows[claim.text] = {
            "verdict": c["verdict"] if c else UNMEASURED,
            "effect (points)": f"{c['difference']:+.2f}" if c else "",
            "95 % interval": f"[{c['low']:+.2f}, {c['high']:+.2f}]" if c else "",
            "the paper": paper_states(claim),
            "comparisons": f"{c['better']} for, {c['worse']} against, of {c['comparisons']}" if c else "",
            "seeds": c["n"] if c else "",
            "shown in": re.sub(r"(\D+)(\d+)", r"\1 \2", claim.table).capitalize(),
        }
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="claim"))


def paper_states(
    claim: Claim,
) -> str:
    "Say the paper's own numbers for a claim, where they are known."
    if not has_numbers():
        return ""
    return " ".join(text.format(published_value(table, row, column)) for text, row, column, table in claim.paper)


def claim_notes() -> list:
    "Say what each claim compares, where it is not simply test accuracy."
    return [f"{claim.text}: {claim.note}" for claim in CLAIMS if claim.note]


def describe_claims(
    judged,  # from `judge_claims`
    tables,  # from `claim_tables`
) -> str:  # one sentence a line
    "What the verdicts add up to, and what is behind them."
    verdicts = [judged[c.text]["verdict"] if c.text in judged else UNMEASURED for c in CLAIMS]
    counts = ", ".join(f"{v} {verdicts.count(v)}" for v in (*VERDICTS, UNMEASURED))
    behind = [text for text, c in judged.items() if c["high"] < 0]
    lines = [
        f"Verdicts on {len(CLAIMS)} claims: {counts}.",
        f"The effect is clearly on the other side for: {', '.join(behind) or 'none'}.",
    ]
    split = [
        f"{text} ({c['worse']} of {c['comparisons']})"
        for text, c in judged.items()
        if c["verdict"] == "does not hold" and text not in behind
    ]
    if split:
        lines.append(f"More comparisons by themselves speak against than for: {', '.join(split)}.")
    same = [f"{text} ({c['same']})" for text, c in judged.items() if c["same"]]
    if same:
        lines.append(f"Left out are comparisons of two rows that end with the same weights: {', '.join(same)}.")
    return "\n".join([*lines, *_beside_the_claims(tables)])


def _beside_the_claims(tables):
    "What two of the verdicts have to be read with."
    if "table2" in tables and "weight-transformation" in set(tables["table2"][0].method):
        mean = tables["table2"][0].groupby("method").accuracy.mean() * 100
        apart = mean["weight-transformation"] - mean[SCRATCH]
        little = ": to beat it says little" if apart < 0 else ""
        yield f"Weight-Transformation, as coded, is {apart:+.1f} points against training from scratch{little}."
    if "table3" in tables:
        steps = [steps_of(r) for r in tables["table3"][1] if r["meta_info"]["recipe"]["method"]["name"] == OURS]
        yield f"In Table 3 the learngene trains for {min(steps):,} to {max(steps):,} optimiser steps."


def own_columns(
    results,  # `Results` of a profile
) -> str:  # "" where fidelity has not been run
    "Say how much of the verdicts hangs on which columns of W^O a head gets (fidelity)."
    try:
        cells, records, n = results.find("fidelity")
    except FileNotFoundError:
        return ""
    if len(cells) < n:
        return ""
    frame = to_frame(cells, records)
    rule, whole = (
        describe_difference(compare(frame, "own columns", other))
        for other in ("the paper's text", "pretraining-finetuning")
    )
    return (
        f"With each head's own columns of W^O: {rule}, against the paper's rule; {whole}, against "
        "Pretraining-Finetuning."
    )
