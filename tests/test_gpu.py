"What is done on a GPU is what is done on the CPU; without a real GPU, on a pretended one."
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

TESTS = Path(__file__).parent
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU here")
python_backends = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="needs PyTorch 2.10")
pytestmark = pytest.mark.usefixtures("one_thread")


@no_gpu
@python_backends
def test_what_needs_a_gpu_on_a_pretended_one():
    "These tests, those named after a GPU elsewhere, and runs, where there seems to be one."
    files = ["test_gpu.py", "test_device.py", "test_density.py", "test_refitting.py", "test_methods_more.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "pretended_gpu",
               "-k", "gpu or test_runs", *files]
    path = os.pathsep.join([str(TESTS), os.environ["PYTHONPATH"]])
    environment = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=path)
    process = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)
    output = process.stdout[-4000:] + process.stderr[-1000:]
    assert process.returncode == 0 and "there is no GPU here" not in process.stdout, output


@gpu
def test_what_a_gpu_refuses():
    "So does the pretended one."
    on_cpu, on_gpu = torch.ones(3, 3), torch.ones(3, 3, device="cuda")
    assert on_gpu.is_cuda and on_gpu.device.type == "cuda" and (on_gpu + on_cpu[0, 0]).is_cuda
    assert (on_gpu @ on_gpu).cpu().device.type == "cpu"
    for mixed in (
            lambda: on_gpu + on_cpu, lambda: on_gpu @ on_cpu, lambda: torch.cat([on_gpu, on_cpu]),
            lambda: torch.where(on_gpu > 0, on_cpu, on_gpu), lambda: on_cpu[on_gpu.bool()],
            lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
            lambda: torch.randn(3, generator=torch.Generator("cuda"))):
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    with pytest.raises(TypeError, match="can't convert cuda"):
        on_gpu.numpy()
    assert torch.equal(on_gpu[[0, 2]], on_gpu[torch.tensor([0, 2])])


@gpu
def test_what_waits_for_a_gpu():
    x, many = torch.ones(4, device="cuda"), torch.arange(4).pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        x[x > 0] = 2.0
        x = x[many.to("cuda", non_blocking=True)] + 1
        for waits in (lambda: x.sum().item(), lambda: x.tolist(), lambda: x[x > 0], lambda: x.nonzero(),
                      lambda: x.cpu(), lambda: bool(x[0] > 0)):
            with pytest.raises(RuntimeError, match="synchroniz"):
                waits()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.tolist() == [3.0] * 4


@gpu
def test_a_gpu_has_random_numbers_of_its_own():
    torch.manual_seed(0)
    first, on_cpu = torch.randn(5, device="cuda"), torch.randn(5)
    state = torch.cuda.get_rng_state()
    second = torch.randn(5, device="cuda")
    torch.manual_seed(0)
    assert torch.equal(torch.randn(5), on_cpu) and torch.equal(torch.randn(5, device="cuda"), first)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.randn(5, device="cuda"), second)


# ---- the same as on the CPU

BLOCKS, EPS = dict(blocks=2), dict(eps=0.05)  # pixels; the paper's, scaled, would leave one head a layer
GREY = EPS | dict(mean=0.5, std=0.5)
METHODS = [
    ("from-scratch", {}), ("heuristic-learngene", BLOCKS), ("auto-learngene", BLOCKS), ("auto-learngene-cka", BLOCKS),
    ("slice", BLOCKS), ("weight-transformation", {}), ("minivit", {}),
    *(("pretraining-finetuning", options) for options in (
        dict(heads="even"), dict(heads="random"), dict(heads="kmeans"), dict(layers="last"))),
    *(("cluster-learngene", EPS | options) for options in (
        dict(proj="paper"), dict(proj="aligned"), dict(proj="folded", ffn="copy"), dict(cluster_by="kmeans", k=2),
        dict(cluster_by="complete"), dict(signature="mean+spread"), dict(centroid="averaged", ffn_centroid="averaged"),
        dict(rule="stated", order="ascending"))),
    *(("cluster-learngene-released", GREY | options) for options in (
        {}, dict(qkv="heads"), dict(pixels="normalised"), dict(ffn="transform"))),
    ("cluster-learngene+budget", EPS | dict(params=0.5)),
]
OTHER_SHAPES = ("pretraining-finetuning", "cluster-learngene", "cluster-learngene-released")


@pytest.fixture
def both(monkeypatch):
    "An ancestry, the same one on the GPU, and images on the CPU."
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    ancestry = vit(depth=4, num_heads=4)  # small: what costs time here is the number of operations
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ancestry, copy.deepcopy(ancestry).cuda(), images


def close(a, b, atol=1e-4):
    "Whether two models have the same parameters, but for rounding."
    a, b = ({name: t.cpu() for name, t in model.state_dict().items()} for model in (a, b))
    return a.keys() == b.keys() and all(torch.allclose(t, b[name], atol=atol) for name, t in a.items())


@gpu
@pytest.mark.parametrize("name, options", METHODS,
                         ids=lambda x: x if isinstance(x, str) else ",".join(map(str, x.values())))
def test_every_method_with_an_ancestry_on_a_gpu(both, name, options):
    *ancestries, images = both
    shapes = [Shape(), Shape(depth=2, heads=2, num_classes=7)] if name in OTHER_SHAPES else [Shape()]
    on_cpu, on_gpu = [], []
    for ancestry, models in zip(ancestries, (on_cpu, on_gpu)):
        method = lg.methods.get(name, **options)
        for shape in shapes:
            torch.manual_seed(0)
            models.append(method.expand(method.condense(ancestry, images), shape))
    atol = 1e-2 if "budget" in name else 1e-4  # a budget solves equations, too
    assert all(close(a, b, atol) for a, b in zip(on_cpu, on_gpu, strict=True))


@gpu
@pytest.mark.parametrize("options", [
    dict(), dict(sweeps=2), dict(weight="norm"), dict(damping=0.1), dict(values=1, ffn_width=0.5)], ids=str)
def test_refit_on_a_gpu(both, options):
    *ancestries, images = both
    children, errors = [], []
    for ancestry in ancestries:
        child = lg.inherit(lg.condense(ancestry, images, **EPS), depth=2, heads=2, ffn="copy")
        child = child.to(next(ancestry.parameters()).device)
        refit(child, ancestry, images, batch_size=9, **options)
        children.append(child)
        errors.append(stream_errors(child, ancestry, images))
    assert close(*children, atol=1e-2)
    assert errors[0] == pytest.approx(errors[1], abs=1e-2)


@gpu
@pytest.mark.parametrize("options", [
    dict(depth=2, heads=2), dict(budget=lg.Budget(params=0.5)), dict(budget=lg.Budget(flops=0.4, memory_mb=10))],
    ids=str)
def test_inherit_in_one_go_on_a_gpu(both, options):
    *ancestries, images = both
    on_cpu, on_gpu = (lg.inherit(lg.condense(ancestry, images, **EPS), refit=images, ancestry=ancestry, **options)
                      for ancestry in ancestries)
    assert close(on_cpu, on_gpu, atol=1e-2) and count_flops(on_cpu) == count_flops(on_gpu)


@gpu
def test_models_of_a_gpu_in_files(both, tmp_path):
    on_cpu, on_gpu, images = both
    save_vit(on_gpu, tmp_path / "vit")
    lg.condense(on_gpu, images, **EPS).save(tmp_path / "learngene.safetensors")
    loaded, expected = lg.Learngene.load(tmp_path / "learngene.safetensors"), lg.condense(on_cpu, images, **EPS)
    heads, expected_heads = ([[c.heads for c in layer] for layer in gene.clusters] for gene in (loaded, expected))
    assert close(on_cpu, load_vit(tmp_path / "vit")) and heads == expected_heads
    assert all(torch.equal(t, expected.tensors[name]) for name, t in loaded.tensors.items())
