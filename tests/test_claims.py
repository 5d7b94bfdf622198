"The paper's claims: each rests on rows that exist, and the committed records give the verdicts that are published."

import pytest

from learngene import claims as C
from learngene.recipe import Sweep
from learngene.tables import Results

DIGITS = {
    "beats Pretraining-Finetuning": ("does not hold", -3.57),
    "beats Heuristic-Learngene": ("holds", 3.76),
    "beats Auto-Learngene": ("does not hold", -2.81),
    "beats Weight-Transformation": ("holds", 39.22),
    "beats training from scratch on fewer images": ("undecided", -18.38),
    "Algorithm 1 beats k-means, k = 1": ("holds", 12.01),
    "Algorithm 1 beats k-means, k = 2 and 3": ("undecided", 0.14),
    "priority order helps": ("holds in part", 0.97),
    "nearest heads beat averaged ones": ("holds", 3.98),
    "nearest FFNs beat averaged ones": ("undecided", -0.72),
    "the middle ε is best": ("undecided", -0.92),
    "more heads in later layers are better": ("undecided", 0.50),
    "half the epochs suffice, at every size": ("undecided", -1.07),
    "converges faster than from scratch": ("holds", 12.94),
    "better with fewer inherited parameters": ("does not hold", -1.30),
}


@pytest.fixture(scope="module")
def tables():
    return C.claim_tables(Results("digits"))


@pytest.mark.parametrize("claim", C.CLAIMS, ids=lambda claim: claim.text)
def test_a_claim_names_rows_of_its_table(claim):
    rows = set(Sweep.load(f"digits/{claim.table}").vary["method"])
    assert {claim.ours, *claim.others} <= rows and claim.ours not in claim.others


def test_verdicts_of_the_committed_records(tables):
    judged = C.judge_claims(tables)
    assert {text: (c["verdict"], round(c["difference"], 2)) for text, c in judged.items()} == DIGITS


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
    assert (row.verdict, row.comparisons, row["shown in"]) == ("holds in part", "0 for, 0 against, of 6", "Table 5")


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
    assert "holds 5, holds in part 1, undecided 6, does not hold 3" in text
    assert "Weight-Transformation, as coded, is -34.1 points" in text and "20 to 95 optimiser steps" in text
    assert "+0.74 points" in C.own_columns(Results("digits"))
