"What is done on a GPU is what is done on the processor: on a real one, and, where there is none, on a pretended one."
import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import gpu

import learngene as lg
from _ddp_worker import vit
from learngene.methods import Shape
from learngene.refitting import refit, stream_errors
from learngene.vit import count_flops, load_vit, save_vit

HERE = Path(__file__).parent
there_is_none = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU here")
pytestmark = pytest.mark.usefixtures("one_thread")


@there_is_none
@pytest.mark.skipif(not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"), reason="needs PyTorch 2.10")
def test_what_needs_a_gpu_on_a_pretended_one():
    "These tests, those named after a GPU elsewhere, and whole runs, in a process where there seems to be one."
    files = ["test_gpu.py", "test_device.py", "test_density.py", "test_refitting.py", "test_methods_more.py"]
    environment = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join([str(HERE), os.environ["PYTHONPATH"]]))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "pretended_gpu", "-k", "gpu or test_runs", *files],
                          cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "there is no GPU here" not in done.stdout, done.stdout[-4000:] + done.stderr[-1000:]


@gpu
def test_what_a_gpu_refuses():
    "So does the pretended one."
    here, there = torch.ones(3, 3), torch.ones(3, 3, device="cuda")
    assert there.is_cuda and there.device.type == "cuda" and (there + here[0, 0]).is_cuda and (there @ there).cpu().device.type == "cpu"
    for mixed in (lambda: there + here, lambda: there @ here, lambda: torch.cat([there, here]), lambda: torch.where(there > 0, here, there), lambda: here[there.bool()],
                  lambda: torch.randn(3, device="cuda", generator=torch.Generator()), lambda: torch.randn(3, generator=torch.Generator("cuda"))):
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    with pytest.raises(TypeError, match="can't convert cuda"):
        there.numpy()
    assert torch.equal(there[[0, 2]], there[torch.tensor([0, 2])])


@gpu
def test_what_waits_for_a_gpu():
    x, many = torch.ones(4, device="cuda"), torch.arange(4).pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        x[x > 0] = 2.0
        x = x[many.to("cuda", non_blocking=True)] + 1
        for waits in (lambda: x.sum().item(), lambda: x.tolist(), lambda: x[x > 0], lambda: x.nonzero(), lambda: x.cpu(), lambda: bool(x[0] > 0)):
            with pytest.raises(RuntimeError, match="synchroniz"):
                waits()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.tolist() == [3.0] * 4


@gpu
def test_a_gpu_has_random_numbers_of_its_own():
    torch.manual_seed(0)
    a, here = torch.randn(5, device="cuda"), torch.randn(5)
    state = torch.cuda.get_rng_state()
    b = torch.randn(5, device="cuda")
    torch.manual_seed(0)
    assert torch.equal(torch.randn(5), here) and torch.equal(torch.randn(5, device="cuda"), a)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.randn(5, device="cuda"), b)


# ---- the same as on the processor

BLOCKS, EPS = dict(blocks=2), dict(eps=0.05)  # pixels; the paper's, scaled, would leave one head a layer
GREY = EPS | dict(mean=0.5, std=0.5)
METHODS = [
    ("from-scratch", {}), ("heuristic-learngene", BLOCKS), ("auto-learngene", BLOCKS), ("auto-learngene-cka", BLOCKS), ("slice", BLOCKS), ("weight-transformation", {}), ("minivit", {}),
    *(("pretraining-finetuning", o) for o in (dict(heads="even"), dict(heads="random"), dict(heads="kmeans"), dict(layers="last"))),
    *(("cluster-learngene", EPS | o) for o in (dict(proj="paper"), dict(proj="aligned"), dict(proj="folded", ffn="copy"), dict(cluster_by="kmeans", k=2), dict(cluster_by="complete"),
                                               dict(signature="mean+spread"), dict(centroid="averaged", ffn_centroid="averaged"), dict(rule="stated", order="ascending"))),
    *(("cluster-learngene-released", GREY | o) for o in ({}, dict(qkv="heads"), dict(pixels="normalised"), dict(ffn="transform"))),
    ("cluster-learngene+budget", EPS | dict(params=0.5)),
]


@pytest.fixture
def both(monkeypatch):
    "An ancestry, the same one on the GPU, and images on the processor."
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    ancestry = vit(depth=4, num_heads=4, embed_dim=32)
    return ancestry, copy.deepcopy(ancestry).cuda(), torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def close(a, b, atol=1e-4):
    a, b = ({n: t.cpu() for n, t in m.state_dict().items()} for m in (a, b))
    return a.keys() == b.keys() and all(torch.allclose(t, b[n], atol=atol) for n, t in a.items())


@gpu
@pytest.mark.parametrize("name, options", METHODS, ids=lambda x: x if isinstance(x, str) else ",".join(map(str, x.values())))
def test_every_method_with_an_ancestry_on_a_gpu(both, name, options):
    *ancestries, images = both
    shapes, made = [Shape(), Shape(depth=2, heads=2, num_classes=7)] if name in ("pretraining-finetuning", "cluster-learngene", "cluster-learngene-released") else [Shape()], []
    for ancestry in ancestries:
        method = lg.methods.get(name, **options)
        for shape in shapes:
            torch.manual_seed(0)
            made.append(method.expand(method.condense(ancestry, images), shape))
    assert all(close(a, b, atol=1e-2 if "budget" in name else 1e-4) for a, b in zip(made[:len(shapes)], made[len(shapes):]))  # a budget solves equations, too


@gpu
@pytest.mark.parametrize("how", [dict(), dict(sweeps=2), dict(weight="norm"), dict(damping=0.1), dict(values=1, ffn_width=0.5)], ids=str)
def test_refit_on_a_gpu(both, how):
    *ancestries, images = both
    children = [lg.inherit(lg.condense(a, images, **EPS), depth=3, heads=2, ffn="copy").to(next(a.parameters()).device) for a in ancestries]
    for child, ancestry in zip(children, ancestries):
        refit(child, ancestry, images, batch_size=16, **how)
    assert close(*children, atol=1e-2)
    assert stream_errors(children[0], ancestries[0], images) == pytest.approx(stream_errors(children[1], ancestries[1], images), abs=1e-2)


@gpu
def test_inherit_in_one_go_on_a_gpu(both):
    *ancestries, images = both
    for asked in dict(depth=3, heads=2), dict(budget=lg.Budget(params=0.5)), dict(budget=lg.Budget(flops=0.4, memory_mb=10)):
        here, there = (lg.inherit(lg.condense(a, images, **EPS), refit=images, ancestry=a, **asked) for a in ancestries)
        assert close(here, there, atol=1e-2) and count_flops(here) == count_flops(there)


@gpu
def test_models_of_a_gpu_in_files(both, tmp_path):
    here, there, images = both
    save_vit(there, tmp_path / "vit")
    lg.condense(there, images, **EPS).save(tmp_path / "learngene.safetensors")
    learngene, wanted = lg.Learngene.load(tmp_path / "learngene.safetensors"), lg.condense(here, images, **EPS)
    assert close(here, load_vit(tmp_path / "vit"))
    assert [[c.heads for c in layer] for layer in learngene.clusters] == [[c.heads for c in layer] for layer in wanted.clusters]
    assert all(torch.equal(t, wanted.tensors[n]) for n, t in learngene.tensors.items())
