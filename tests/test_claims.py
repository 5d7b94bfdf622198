"The paper's claims: rows that exist, the verdicts of the committed records, and a rule that is frozen."

import ast
import hashlib
import inspect
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from learngene import claims as C
from learngene import tables as T
from learngene.recipe import Sweep
from learngene.tables import Results

DIGITS = {  # claim: verdict, effect in points, verdict by the first rule
    "beats Pretraining-Finetuning": ("does not hold", -3.57, "does not hold"),
    "beats Heuristic-Learngene": ("undecided", 3.76, "holds"),
    "beats Auto-Learngene": ("does not hold", -2.81, "does not hold"),
    "beats Weight-Transformation": ("holds", 39.22, "holds"),
    "beats training from scratch on fewer images": ("undecided", -18.38, "does not hold"),
    "Algorithm 1 beats k-means, k = 1": ("holds", 12.01, "holds"),
    "Algorithm 1 beats k-means, k = 2 and 3": ("undecided", 0.14, "holds"),
    "priority order helps": ("undecided", 0.97, "holds"),
    "nearest heads beat averaged ones": ("undecided", 3.98, "holds"),
    "nearest FFNs beat averaged ones": ("undecided", -0.72, "holds"),
    "the middle ε is best": ("undecided", -0.92, "does not hold"),
    "more heads in later layers are better": ("undecided", 0.50, "does not hold"),
    "half the epochs suffice, at every size": ("undecided", -1.07, "does not hold"),
    "converges faster than from scratch": ("holds", 12.94, "holds"),
    "better with fewer inherited parameters": ("undecided", -1.30, "does not hold"),
}


@pytest.fixture(scope="module")
def tables():
    return C.claim_tables(Results("digits"))


@pytest.mark.parametrize("claim", C.CLAIMS, ids=lambda claim: claim.text)
def test_a_claim_names_rows_of_its_table(claim):
    rows = set(Sweep.load(f"digits/{claim.table}").vary["method"])
    assert {claim.row, *claim.others, *claim.at_first} <= rows and claim.row not in (*claim.others, *claim.at_first)


def test_verdicts_of_the_committed_records(tables):
    judged = C.judge_claims(tables)
    verdicts = {t: (c["verdict"], round(c["difference"], 2), c["first_rule"]) for t, c in judged.items()}
    assert verdicts == DIGITS


def test_what_the_paper_is_behind_in_is_no_comparison(tables):
    judged = C.judge_claims(tables)
    assert (
        judged["beats training from scratch on fewer images"]["comparisons"] == 2
    )  # a half and a quarter of the images
    assert judged["half the epochs suffice, at every size"]["comparisons"] == 12
    assert judged["nearest FFNs beat averaged ones"]["same"] == 1


def test_a_profile_without_records_judges_nothing(tmp_path):
    tables = C.claim_tables(Results("smoke", tmp_path))
    judged = C.judge_claims(tables)
    assert (tables, judged) == ({}, {})
    assert set(C.claims_table(judged).verdict) == {C.UNMEASURED}
    assert (
        f"{C.UNMEASURED} {len(C.CLAIMS)}" in C.describe_claims(judged, tables)
        and C.own_columns(Results("smoke", tmp_path)) == ""
    )


def test_the_table_opens_with_the_verdict(tables):
    table = C.claims_table(C.judge_claims(tables))
    assert list(table)[:3] == ["verdict", "effect (points)", "95 % interval"] and len(table) == len(C.CLAIMS)
    row = table.loc["priority order helps"]
    assert (row.verdict, row.comparisons, row["shown in"]) == ("undecided", "0 for, 0 against, of 6", "Table 5")
    assert list(table["by the first rule"]) == [first for *_, first in DIGITS.values()]


def test_the_papers_numbers_are_quoted():
    states = {claim.text: C.paper_states(claim) for claim in C.CLAIMS}
    assert states["the middle ε is best"] == "85.27 % at 1 px, 85.38 % at 10 px, 80.45 % at 100 px"
    assert states["better with fewer inherited parameters"] == "78.43 % with 15.1 M, under 75 % with 18 M"
    assert (
        states["converges faster than from scratch"] == "4 times less training (DeiT-S)"
        and states["priority order helps"] == ""
    )


def test_sentences_beside_the_verdicts(tables):
    text = C.describe_claims(C.judge_claims(tables), tables)
    assert "holds 3, holds in part 0, undecided 10, does not hold 2" in text
    assert "changed 5 times after results had been seen" in text and "These are 58 p-values." in text
    assert "By the first rule 10 of 15 read otherwise: beats Heuristic-Learngene (holds)" in text
    assert "clearly on the other side for: beats Pretraining-Finetuning." in text
    assert "Weight-Transformation, as coded, is -34.1 points" in text and "20 to 95 optimiser steps" in text
    assert "+0.74 points" in C.own_columns(Results("digits"))


# --- the rule

FROZEN = """The rule of the verdicts is frozen. Whoever must change it: add a RuleChange to learngene/claims.py with the
date, what changes and why; show on the claims page what each claim reads under the rule before; run nbs/paper/claims,
nbs/index and `make sync`; and only then put the new digests here."""
RULE = (T.holm, T.judge_together, T.claim_verdict, T.mean_interval, T.paired_differences, T.differences)


def test_the_source_of_the_rule_is_frozen():
    assert T.LEVEL == 0.05 and inspect.signature(T.holm).parameters["level"].default == 0.05, FROZEN
    lines = []
    for function in RULE:
        tree = ast.parse(inspect.getsource(function))
        for node in ast.walk(tree):  # what it computes, without docstrings and the words of errors
            if isinstance(node, ast.FunctionDef) and isinstance(node.body[0], ast.Expr):
                node.body = node.body[1:]
            if isinstance(node, ast.Raise):
                node.exc = None
        lines.append(ast.unparse(tree))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "f8cef07e5112b7a7", FROZEN


def made_up_page(seed):
    "One to eight claims of one to six comparisons over two to five seeds, from nothing to large effects."
    draw = np.random.RandomState(seed)  # its stream never changes
    claims = {}
    for i in range(draw.randint(1, 9)):
        n_seeds, n_comparisons = draw.randint(2, 6), draw.randint(1, 7)
        effect = draw.choice([-8.0, -2.0, 0.0, 0.5, 2.0, 8.0])
        d = effect * draw.uniform(0.5, 1.5, n_comparisons) + draw.randn(n_seeds, n_comparisons) * draw.choice([0.05, 1])
        d[:, 0] = d[0, 0] if draw.rand() < 0.1 else d[:, 0]  # sometimes the same at every seed
        claims[f"claim {i}"] = pd.DataFrame(d)
    return claims


def test_verdicts_on_made_up_pages_are_frozen():
    pages = [T.judge_together(made_up_page(seed)) for seed in range(24)]
    said = [f"{c['verdict']} {c['better']} {c['worse']} {c['clear']}" for page in pages for c in page.values()]
    counts = Counter(c["verdict"] for page in pages for c in page.values())
    assert counts == {"holds": 28, "holds in part": 7, "undecided": 34, "does not hold": 26}, FROZEN
    assert hashlib.sha256("\n".join(said).encode()).hexdigest()[:16] == "c7c49e851493658d", FROZEN


CLEAR, NOISE = [10.0, 10.1, 9.9, 10.05], [0.5, -0.5, 0.4, -0.4]


@pytest.mark.parametrize(
    "columns, verdict",
    [
        ([CLEAR], "holds"),
        ([CLEAR, NOISE], "holds"),
        ([CLEAR, [-x for x in CLEAR]], "holds in part"),
        ([NOISE], "undecided"),
        ([[-x for x in CLEAR]], "does not hold"),
        ([[-x / 9 for x in CLEAR], NOISE, [30 * x for x in NOISE]], "does not hold"),
        ([[5.0] * 4], "undecided"),  # the same at every seed: by chance, for all that the seeds say
    ],
)
def test_verdicts_on_made_up_claims(columns, verdict):
    claim = pd.DataFrame(columns).T
    assert T.judge_together({"it": claim, "clear": pd.DataFrame([CLEAR]).T})["it"]["verdict"] == verdict, FROZEN


def test_every_p_value_of_the_page_is_corrected_for():
    "Each of twenty claims has p = 0.03: alone it holds, together none does. And no claim is judged by its company."
    d = np.array([1.0, 2.0, 0.5, 1.2, 0.3])
    alone = T.judge_together({"a": pd.DataFrame(d)})["a"]
    assert 0.02 < alone["p"] < 0.05 and alone["verdict"] == "holds"
    page = T.judge_together({i: pd.DataFrame(d) for i in range(20)})
    assert {c["verdict"] for c in page.values()} == {"undecided"} and page[3]["p"] == alone["p"]


def test_pages_without_effects_seldom_say_anything():
    "Twelve claims without any effect: one page in twenty may say more than `undecided`; uncorrected, nine would."
    draw, wrong = np.random.RandomState(1), 0
    for _ in range(40):
        page = {i: pd.DataFrame(draw.randn(5, 1)) for i in range(12)}
        wrong += any(c["verdict"] != "undecided" for c in T.judge_together(page).values())
    assert wrong <= 5  # 40 x 5 % = 2, and two standard deviations


@pytest.mark.parametrize(
    "columns, verdict",
    [
        ([CLEAR], "holds"),
        ([CLEAR, NOISE, NOISE], "holds"),  # a third of the comparisons was enough
        ([CLEAR, [-x for x in CLEAR]], "holds in part"),
        ([NOISE], "does not hold"),  # there was no `undecided`
        ([CLEAR, [-20 * x for x in CLEAR], [-20 * x for x in CLEAR]], "holds in part"),  # although two speak against
        ([[5.0] * 4], "holds"),  # the same at every seed was certain
    ],
)
def test_the_first_rule(columns, verdict):
    rows = [dict(method="it", seed=s, cell="all", accuracy=0.5, weights="a") for s in range(4)]
    rows += [dict(method=f"other {i}", seed=s, cell="all", accuracy=0.5 - d / 100, weights="a")
             for i, column in enumerate(columns) for s, d in enumerate(column)]
    assert C.first_verdict(pd.DataFrame(rows), C.Claim("it is best", "table", "it")) == verdict


def test_the_first_rule_compared_what_was_compared_then():
    rows = [dict(method=m, seed=s, cell=cell, accuracy=a + s / 1000, weights=f"{m}{s}")
            for m, accuracies in dict(it=(0.9, 0.5), now=(0.8, 0.501), then=(0.95, 0.7)).items()
            for cell, a in zip(("25 %", "100 %"), accuracies) for s in range(3)]
    frame = pd.DataFrame(rows)
    frame["accuracy"] += np.random.RandomState(0).randn(len(frame)) / 1e5
    now = C.Claim("it is best", "table", "it", ("now",), without=("100 %",))
    assert C.first_verdict(frame, now) == "holds in part", "all columns counted"
    assert C.first_verdict(frame[frame.cell == "25 %"], now) == "holds"
    assert C.first_verdict(frame[frame.cell == "25 %"], C.Claim("it", "table", "it", ("now",), at_first=("then",))) \
        == "does not hold"


def test_the_changes_of_the_rule_are_in_order():
    changes = C.rule_changes()
    assert list(changes.index) == sorted(changes.index) and len(changes) == 6
    assert [c.after_results for c in C.RULE_CHANGES] == [False] + [True] * 5
    assert changes.commit.map(len).min() >= 7 and changes.change.map(len).min() > 40
