"""The paper's claims, the runs that can speak to each, and what they say: one verdict by one rule for all.

The rule is `tables.judge_together`. It was changed after results had been seen (`RULE_CHANGES`), and is frozen since:
tests/test_claims.py holds it, and says what to do when it must change.
"""

import re
from dataclasses import dataclass

import pandas as pd

from .captions import steps_of
from .evidence import short_effect
from .paper import has_numbers, published_value
from .scale import describe_cost
from .tables import (
    compare,
    describe_difference,
    differences,
    holm,
    judge_together,
    mean_interval,
    to_curves,
    to_frame,
)

VERDICTS = ("holds", "holds in part", "undecided", "does not hold")
UNMEASURED = "not yet measured at this scale"


@dataclass(frozen=True)
class Claim:
    "A claim of the paper, and the comparisons of one table that it rests on."

    text: str
    table: str  # the paper's table or figure, as its recipe file is called
    row: str  # the row that the claim is about
    others: tuple = ()  # the rows that it is compared with; () = all
    paper: tuple = ()  # (text with a place for the number, row, column, table) of what the paper states
    note: str = ""  # what is compared, where it is not simply test accuracy
    without: tuple = ()  # columns of the table that the claim is not about
    at_first: tuple = ()  # the rows that it was compared with when first stated; () = as now


@dataclass(frozen=True)
class RuleChange:
    "A commit that made the rule of the verdicts what it was from then on."

    date: str
    commit: str  # "" = the one that added this line
    change: str
    after_results: bool = True  # had results been seen before?


RULE_CHANGES = (
    RuleChange(
        "2026-11-21 13:11",
        "791454b",
        "First rule, stated together with the first verdicts. A claim holds when the 95 % interval of its mean lies "
        "above zero and no comparison speaks against it; in part when the interval lies above zero or any comparison "
        "speaks for it; else it does not hold. Holm's correction within each claim.",
        False,
    ),
    RuleChange(
        "2026-11-21 13:52",
        "3ba7d29",
        "To hold, at least half of the comparisons must speak for the claim by themselves.",
    ),
    RuleChange(
        "2026-11-21 14:37",
        "d869a35",
        "A new verdict, undecided, for what used to be 'does not hold' without evidence against it; an interval below "
        "zero is 'does not hold' whatever single comparisons say. Two claims were split in two (k-means, nearest or "
        "averaged), two lost comparisons (Auto-Learngene with six layers, all images in Table 3), one was dropped "
        "(better than from scratch with half the epochs).",
    ),
    RuleChange(
        "2026-11-21 22:36",
        "9a0e4ae",
        "In part by single comparisons only when as many speak for the claim as against it. Rows that end with the "
        "same weights are no comparison.",
    ),
    RuleChange(
        "2026-11-21 23:52",
        "95f40c9",
        "The same difference at every seed has no p-value where accuracies vary, and counts for nothing; it counted as "
        "certain before.",
    ),
    RuleChange(
        "2026-11-27 10:40",
        "",
        "All p-values behind the page are corrected together; before, only the comparisons within each claim were, and "
        "the means not at all. Frozen from here on.",
    ),
)

LEARNGENE, SCRATCH = "cluster-learngene", "from-scratch"
NEAREST, EPS = "heads nearest, FFNs nearest", "ε {} x"
AVERAGED = ("heads averaged, FFNs nearest", "heads nearest, FFNs averaged", "heads averaged, FFNs averaged")
KMEANS = ("k-means, k = 1", "k-means, k = 2", "k-means, k = 3")

CLAIMS = (
    Claim(
        "beats Pretraining-Finetuning",
        "table2",
        LEARNGENE,
        ("pretraining-finetuning",),
        (("ahead on {:.0f} of 7 datasets", LEARNGENE, "data sets ahead of pretraining-finetuning", "table2"),),
    ),
    Claim(
        "beats Heuristic-Learngene",
        "table2",
        LEARNGENE,
        ("heuristic-learngene",),
        note="it keeps three layers, as in the released code.",
    ),
    Claim(
        "beats Auto-Learngene",
        "table2",
        LEARNGENE,
        ("auto-learngene, 3 layers",),
        (("{:+.2f} (iNat-2019)", "cluster-learngene - auto-learngene", "inat2019", "table2"),),
        "it keeps three layers, for with six it is Pretraining-Finetuning; the paper's number is of six.",
        at_first=("auto-learngene", "auto-learngene, 3 layers"),
    ),
    Claim(
        "beats Weight-Transformation",
        "table2",
        LEARNGENE,
        ("weight-transformation",),
        note="talking heads from random weights, as the paper's comparison was coded.",
    ),
    Claim(
        "beats training from scratch on fewer images",
        "table3",
        LEARNGENE,
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
        at_first=KMEANS,
    ),
    Claim("Algorithm 1 beats k-means, k = 2 and 3", "table4", "Algorithm 1", KMEANS[1:], at_first=KMEANS),
    Claim("priority order helps", "table5", "priority"),
    Claim("nearest heads beat averaged ones", "table7", NEAREST, AVERAGED[:1], at_first=AVERAGED),
    Claim("nearest FFNs beat averaged ones", "table7", NEAREST, AVERAGED[1:2], at_first=AVERAGED),
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
        LEARNGENE,
        (SCRATCH,),
        (("{:+.2f} (DeiT-S)", "cluster-learngene - from-scratch", "DeiT-S, 6 heads, 12 layers", "table1"),),
        "half the epochs; every shape is a comparison.",
    ),
    Claim(
        "converges faster than from scratch",
        "figure5",
        LEARNGENE,
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
) -> dict:  # claim's text -> as `judge_together`; `same`: comparisons of one model with itself, left out; `first_rule`
    "Judge every claim whose table is there, all together."
    compared, beside = {}, {}
    for claim in CLAIMS:
        if claim.table not in tables:
            continue
        frame = tables[claim.table][0]
        judged_cells = frame[~frame.cell.isin(claim.without)]
        others = rows_compared(frame, claim.row, claim.others)
        if others:
            d = differences(judged_cells, claim.row, others, "cell")
            compared[claim.text] = d
            beside[claim.text] = dict(same=len(others) * judged_cells.cell.nunique() - d.shape[1],
                                      first_rule=first_verdict(frame, claim))
    return {text: c | beside[text] for text, c in judge_together(compared).items()}


def rows_compared(
    frame,  # of a table, from `claim_tables`
    row: str,  # that a claim is about
    others,  # rows that a claim names; () = all
) -> list:
    "List the rows of a table that a claim is compared with."
    return [m for m in frame.method.unique() if m in others or not others and m != row]


def first_verdict(
    frame,  # of the claim's table, from `claim_tables`
    claim: Claim,
) -> str:  # "holds", "holds in part" or "does not hold"
    """Judge a claim by the rule as it was first stated, with the comparisons that it then had.

    That rule is `RULE_CHANGES[0]`.
    """
    others = rows_compared(frame, claim.row, claim.at_first or claim.others)
    every = frame.drop(columns="weights", errors="ignore")  # rows of the same weights were compared, too
    d = differences(every, claim.row, others, "cell")
    each = [mean_interval(d[c]) for c in d]
    clear = holm([0.0 if c["p"] != c["p"] else c["p"] for c in each])  # no spread over seeds was certainty
    better, worse = (sum(ok and sign * c["difference"] > 0 for ok, c in zip(clear, each)) for sign in (1, -1))
    ahead = mean_interval(d.mean(axis=1))["low"] > 0
    return "holds" if ahead and not worse else "holds in part" if ahead or better else "does not hold"


def rule_note() -> str:
    "Say how often the rule was changed."
    n_changes = sum(c.after_results for c in RULE_CHANGES)
    return (
        f"The rule of the verdicts was changed {n_changes} times after results had been seen, last to correct all "
        "p-values behind them together; it is frozen now."
    )


def rule_changes() -> pd.DataFrame:  # index: when
    "Tabulate the commits that made the rule."
    rows = [dict(commit=c.commit or "with this line", change=c.change) for c in RULE_CHANGES]
    return pd.DataFrame(rows, index=pd.Index([c.date for c in RULE_CHANGES], name="when"))


def claims_table(
    judged,  # from `judge_claims`
) -> pd.DataFrame:
    "Tabulate claims: verdicts, effect, interval, the paper's number, comparisons, notebook."
    rows = {}
    for claim in CLAIMS:
        c = judged.get(claim.text)
        rows[claim.text] = {
            "verdict": c["verdict"] if c else UNMEASURED,
            "effect (points)": f"{c['difference']:+.2f}" if c else "",
            "95 % interval": f"[{c['low']:+.2f}, {c['high']:+.2f}]" if c else "",
            "by the first rule": c["first_rule"] if c else "",
            "the paper": paper_states(claim),
            "comparisons": f"{c['better']} for, {c['worse']} against, of {c['comparisons']}" if c else "",
            "seeds": c["n"] if c else "",
            "shown in": re.sub(r"(\D+)(\d+)", r"\1 \2", claim.table).capitalize(),
        }
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="claim"))


def claims_beside(
    judged: dict,  # profile -> from `judge_claims`
) -> pd.DataFrame:  # index: claim
    "Set verdicts of several profiles side by side, and what would settle each claim."
    rows = {}
    for claim in CLAIMS:
        row = {"the paper": paper_states(claim)}
        for profile, verdicts in judged.items():
            c = verdicts.get(claim.text)
            row[profile] = f"{c['verdict']}: {short_effect(c)}" if c else "not run"
        rows[claim.text] = row | {"to settle it": describe_cost(claim.table)}
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
    "Summarise the verdicts, and what is behind them."
    verdicts = [judged[c.text]["verdict"] if c.text in judged else UNMEASURED for c in CLAIMS]
    counts = ", ".join(f"{v} {verdicts.count(v)}" for v in (*VERDICTS, UNMEASURED))
    behind = [text for text, c in judged.items() if c["clear"] and c["difference"] < 0]
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
    if judged:
        lines += _about_the_rule(judged)
    same = [f"{text} ({c['same']})" for text, c in judged.items() if c["same"]]
    if same:
        lines.append(f"Left out are comparisons of two rows that end with the same weights: {', '.join(same)}.")
    return "\n".join([*lines, *_beside_the_claims(tables)])


def _about_the_rule(judged):
    "Explain how the rule came about, and what it changes."
    n_p = sum(1 + c["comparisons"] * (c["comparisons"] > 1) for c in judged.values())
    yield f"{rule_note()} These are {n_p} p-values."
    other = [f"{text} ({c['first_rule']})" for text, c in judged.items() if c["first_rule"] != c["verdict"]]
    yield f"By the first rule {len(other)} of {len(judged)} read otherwise: {', '.join(other) or 'none'}."


def _beside_the_claims(tables):
    "Explain what two of the verdicts have to be read with."
    if "table2" in tables and "weight-transformation" in set(tables["table2"][0].method):
        mean = tables["table2"][0].groupby("method").accuracy.mean() * 100
        apart = mean["weight-transformation"] - mean[SCRATCH]
        little = ": to beat it says little" if apart < 0 else ""
        yield f"Weight-Transformation, as coded, is {apart:+.1f} points against training from scratch{little}."
    if "table3" in tables:
        steps = [steps_of(r) for r in tables["table3"][1] if r["meta_info"]["recipe"]["method"]["name"] == LEARNGENE]
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
