"""Folders that earlier versions wrote (`tests/golden/DAY`) load, and compute what they computed then.

Written by the versions of those days from random tiny models: a plain vision transformer whose descendant was refitted,
and a Swin transformer.
"""

import json
from pathlib import Path

import pytest
import torch

import learngene as lg

GOLDEN = Path(__file__).with_name("golden")
IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16).sin()


@pytest.fixture(params=["2026-11-21", "2026-11-27"])
def written(request):
    "(the folder, what it said then)"
    folder = GOLDEN / request.param
    return folder, json.loads((folder / "expected.json").read_text())


def assert_computes(model, logits):
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), torch.tensor(logits), rtol=1e-4, atol=1e-5)


def test_descendants_of_earlier_versions(written):
    folder, expected = written
    assert_computes(lg.load_descendant(folder / "descendant"), expected["descendant"])
    assert_computes(lg.load_ancestry(folder / "descendant"), expected["descendant"])


def test_learngenes_of_earlier_versions(written, tmp_path):
    folder, expected = written
    learngene = lg.Learngene.load(folder / "learngene")
    assert_computes(lg.inherit(learngene, **expected["inherit"]), expected["inherited"])
    again = lg.Learngene.load(learngene.save(tmp_path / "again"))  # read and written by this version
    assert_computes(lg.inherit(again, **expected["inherit"]), expected["inherited"])


def test_they_stay_small():
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()) < 200_000
