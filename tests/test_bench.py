"The benchmark measures what it says, on sizes that take a second."
import csv

import numpy as np
import pytest
import torch
from timm.models import VisionTransformer

from learngene.app import bench
from learngene.recipe import AugmentSpec
from learngene.vit import count_flops

TINY = dict(img_size=64, patch_size=16, num_classes=100, embed_dim=16, depth=2, num_heads=2)


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setattr(bench, "TRAINING", {"cpu": (24, 8, "fp32", {"tiny": TINY})})


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares the participants of a CPU")
def test_every_participant_trains(monkeypatch):
    before = torch.get_rng_state()
    monkeypatch.setattr(bench, "in_new_process", lambda function, *args: function(*args))
    monkeypatch.setattr(bench, "matmul_rate", lambda *args: 1e9)
    rows = list(bench.bench_training("cpu", rounds=1, workers=0, epochs=2))
    torch.set_rng_state(before)
    assert [r["participant"] for r in rows] == ["timm", "loader", "device", "deterministic", "synthetic"]
    flops = 3 * count_flops(VisionTransformer(**TINY))
    for r in rows:
        assert r["images_per_second"] > 0 and r["peak_memory_mb"] > 0
        assert r["slowest"] <= r["images_per_second"] <= r["fastest"]
        assert r["utilisation"] == pytest.approx(r["images_per_second"] * flops / 1e9, rel=0.02, abs=1e-3)
    assert rows[0]["over_timm"] == 1 and rows[-1]["of_synthetic"] == 1


def test_random_images():
    data = bench.random_images(5, AugmentSpec())
    x, y = data.train[0]
    assert x.shape == (3, 64, 64) and len(data.train) == 5 and len(data.val) == 0 and 0 <= y < 100
    assert len({np.asarray(data.train.images[i]).tobytes() for i in range(5)}) == 5


def test_a_new_process():
    assert bench.in_new_process(bench.matmul_rate, "cpu", "fp32", 1) > 1e6


def test_tables_say_where_they_were_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.files, "project_root", lambda: tmp_path)
    path = bench.write_table("training", [dict(a=1)], "cpu", 2)
    assert path.name.startswith("training-cpu-2-threads-torch2.") and path.parent == tmp_path / "results" / "bench"
    (row,) = csv.DictReader(path.open())
    assert row["device"] == "cpu" and row["threads"] == "2"


def test_density_is_measured_three_ways():
    row = bench.bench_density("deit_tiny_patch16_224", {}, images=1, repeats=1, device=torch.device("cpu"))
    assert row["images"] == 1 and min(row["forward_s"], row["density_s"], row["kept_s"]) > 0


def test_the_usual_way_measures_the_same_heads():
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2).eval()
    x, T = torch.randn(3, 3, 32, 32), bench.patch_distances((4, 4), (8, 8))
    usual = bench.kept_attention_distance(model, x, T)
    assert torch.allclose(usual, bench.mean_attention_distance(model, x), atol=1e-4)


def test_an_unknown_part(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--parts", "trianing"])
    assert "did you mean 'training'" in capsys.readouterr().err
