"The benchmark measures what it says, on sizes that take a second."

import csv

import numpy as np
import pytest
import torch

from learngene.app import bench

TINY = dict(img_size=64, patch_size=16, num_classes=100, embed_dim=16, depth=2, num_heads=2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "TRAINED", {"cpu": (24, 8, "fp32", {"tiny": TINY})})


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at the participants on a processor")
def test_every_participant_trains(monkeypatch):
    before = torch.get_rng_state()
    monkeypatch.setattr(bench, "_alone", lambda do, *args: do(*args))
    monkeypatch.setattr(bench, "matmul_rate", lambda *args: 1e9)
    rows = list(bench.bench_training("cpu", rounds=1, workers=0, epochs=2))
    torch.set_rng_state(before)
    assert [r["participant"] for r in rows] == ["timm", "loader", "device", "deterministic", "synthetic"]
    flops = 3 * bench_flops()
    for r in rows:
        assert (
            r["images_per_second"] > 0
            and r["slowest"] <= r["images_per_second"] <= r["fastest"]
            and r["peak_memory_mb"] > 0
        )
        assert r["utilisation"] == pytest.approx(r["images_per_second"] * flops / 1e9, rel=0.02, abs=1e-3)
    assert rows[0]["over_timm"] == 1 and rows[-1]["of_synthetic"] == 1


def bench_flops():
    from timm.models import VisionTransformer

    from learngene.vit import count_flops

    return count_flops(VisionTransformer(**TINY))


def test_made_up_images():
    from learngene.recipe import AugmentSpec

    data = bench.made_up(5, AugmentSpec())
    x, y = data.train[0]
    assert x.shape == (3, 64, 64) and len(data.train) == 5 and len(data.val) == 0 and 0 <= y < 100
    assert len({np.asarray(data.train.images[i]).tobytes() for i in range(5)}) == 5


def test_a_process_of_its_own():
    assert bench._alone(bench.matmul_rate, "cpu", "fp32", 1) > 1e6


def test_tables_say_where(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.files, "project_root", lambda: tmp_path)
    path = bench.write("training", [dict(a=1)], "cpu", 2)
    assert path.name.startswith("training-cpu-2-threads-torch2.") and path.parent == tmp_path / "results" / "bench"
    (row,) = csv.DictReader(path.open())
    assert row["device"] == "cpu" and row["threads"] == "2"


def test_an_unknown_part(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--parts", "trianing"])
    assert "did you mean 'training'" in capsys.readouterr().err
