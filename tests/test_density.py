"Mean attention distance against timm's own unfused attention and distances counted patch by patch."
import math
import re

import pytest
import torch
from conftest import ZOO, gpu, make, pictures
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import learngene as lg
from learngene import density
from learngene.methods.slices import block_features


def reference(model, x, renormalize=False, grid=None):
    "(L, H) of eq. 4 in plain steps. Attention: what timm's unfused path hands to its dropout."
    model.eval()
    seen, hooks, fused = [[] for _ in model.blocks], [], [b.attn.fused_attn for b in model.blocks]
    for i, block in enumerate(model.blocks):
        block.attn.fused_attn = False
        hooks.append(block.attn.attn_drop.register_forward_hook(
            lambda m, args, out, i=i: seen[i].append(args[0].double())))
    with torch.no_grad():
        model(x)
    for block, hook, was in zip(model.blocks, hooks, fused):
        hook.remove()
        block.attn.fused_attn = was
    ph, pw = model.patch_embed.patch_size
    rows, columns = grid or (x.shape[2] // ph, x.shape[3] // pw)
    places = [(ph * r, pw * c) for r in range(rows) for c in range(columns)]
    T = torch.tensor([[math.hypot(a - c, b - d) for c, d in places] for a, b in places], dtype=torch.float64)
    n, result = len(places), []
    for (A,) in seen:
        assert torch.allclose(A.sum(-1), torch.ones(()).double(), atol=2e-2)  # it is the softmax's output
        prefix = A.shape[-1] - n
        A = A[:, :, prefix:, prefix:]
        if renormalize:
            A = A / A.sum(-1, keepdim=True)
        result.append((A * T).sum((2, 3)).mean(0) / n)
    return torch.stack(result)


def agree(distances, wanted, rtol=1e-4):
    assert distances.shape == wanted.shape
    assert torch.allclose(distances.double(), wanted, rtol=rtol, atol=1e-4), (distances - wanted).abs().max()


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("name", ZOO)
def test_against_timm(name, renormalize):
    model = make(name)
    x = pictures(model)
    wanted = reference(model, x, renormalize)
    assert wanted.std(1).min() > 0.004 * wanted.mean()  # heads differ, or the test would show little
    agree(lg.mean_attention_distance(model, x, renormalize=renormalize), wanted)


def test_by_hand_on_one_head():
    "One image, one layer, one head, four patches: q and k from the weights, every product in a loop."
    model = make("plain", img_size=16, depth=1, num_heads=1, embed_dim=4)
    x = pictures(model, 1)
    with torch.no_grad():
        tokens = model.blocks[0].norm1(model._pos_embed(model.patch_embed(x)))[0]
    W, b = model.blocks[0].attn.qkv.weight.detach(), model.blocks[0].attn.qkv.bias.detach()
    q = [[sum(W[r, c].item() * t[c].item() for c in range(4)) + b[r].item() for r in range(0, 4)] for t in tokens]
    k = [[sum(W[r, c].item() * t[c].item() for c in range(4)) + b[r].item() for r in range(4, 8)] for t in tokens]
    places, total = [None, (0, 0), (0, 8), (8, 0), (8, 8)], 0
    for i in range(1, 5):
        weights = [math.exp(sum(a * c for a, c in zip(q[i], key)) / 2) for key in k]  # sqrt(head_dim) = 2
        for j in range(1, 5):
            total += weights[j] / sum(weights) * math.dist(places[i], places[j])
    assert lg.mean_attention_distance(model, x).item() == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 64)])
@pytest.mark.parametrize("name", ["plain", "dinov2", "siglip"])
def test_dynamic_image_size(name, size):
    model = make(name, dynamic_img_size=True)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    agree(lg.mean_attention_distance(model, x), reference(model, x))


def test_padded_images_count_the_patches_of_the_padded_grid():
    model = make("plain", dynamic_img_size=True, dynamic_img_pad=True)
    x = torch.randn(2, 3, 30, 41, generator=torch.Generator().manual_seed(0))
    agree(lg.mean_attention_distance(model, x), reference(model, x, grid=(4, 6)))


def test_images_of_several_sizes_in_one_stream():
    model = make("plain", dynamic_img_size=True)
    a, b = torch.randn(2, 3, 32, 32), torch.randn(1, 3, 24, 48)
    agree(lg.mean_attention_distance(model, [a, b]), (2 * reference(model, a) + reference(model, b)) / 3)


class Rows(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], i


class Dicts(Rows):
    key = "image"

    def __getitem__(self, i):
        return {"label": i, self.key: self.x[i]}


class Pixels(Dicts):
    key = "pixel_values"


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return ((row, 0) for row in self.x)


class Endless(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        while True:
            yield from self.x


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64])
def test_batch_sizes(batch_size):
    model = make("distilled")
    x = pictures(model, 7)
    agree(lg.mean_attention_distance(model, x, batch_size=batch_size), reference(model, x))


def test_every_form_of_images():
    model = make("registers")
    x = pictures(model, 5)
    wanted = reference(model, x)
    forms = dict(dataset=Rows(x), tensors=TensorDataset(x), dicts=Dicts(x), pixels=Pixels(x), plain=[x[:1], x[1:]],
                 pairs=DataLoader(Rows(x), batch_size=2), dict_batches=DataLoader(Dicts(x), batch_size=4),
                 generator=((part, None) for part in x.split(2)))
    for form, images in forms.items():
        distances = lg.mean_attention_distance(model, images, batch_size=3)
        assert torch.allclose(distances.double(), wanted, rtol=1e-4), form


def test_iterable_dataset():
    model = make("plain")
    x = pictures(model, 5)
    agree(lg.mean_attention_distance(model, Stream(x), batch_size=2), reference(model, x))


def test_a_batch_without_images_is_named():
    model = make("plain")
    with pytest.raises((ValueError, TypeError), match="(?i)image|batch"):
        lg.mean_attention_distance(model, [{"img": pictures(model)}])


@pytest.mark.parametrize("change, says", [
    (lambda x: x[:, :1], "images have 1 channel of 32 x 32 pixels, the model takes 3 channels of 32 x 32"),
    (lambda x: x[..., :8], "3 channels of 32 x 8 pixels, the model takes 3 channels of 32 x 32 pixels; "
                           "load them at its size (data.image_size: 32 in a recipe"),
    (lambda x: (x * 10).byte(), "images are uint8, wanted floats normalised"),
])
def test_images_that_the_model_does_not_take(change, says):
    model = make("plain")
    images = change(pictures(model, 2))
    def refit(model, images):
        return lg.refit(model, model, images)

    for function in (lg.mean_attention_distance, lg.condense, refit, block_features):
        with pytest.raises(ValueError, match=re.escape(says)):
            function(model, images)


@pytest.mark.parametrize("n", [1, 3, 4, 6, 100])
def test_max_images(n):
    model = make("plain")
    x = pictures(model, 6)
    agree(lg.mean_attention_distance(model, x, batch_size=2, max_images=n), reference(model, x[:n]))
    agree(lg.mean_attention_distance(model, DataLoader(Rows(x), batch_size=4), max_images=n), reference(model, x[:n]))


def test_max_images_ends_an_endless_stream():
    model = make("plain")
    x = pictures(model, 4)
    distances = lg.mean_attention_distance(model, DataLoader(Endless(x), batch_size=4), max_images=6)
    agree(distances, reference(model, x[[0, 1, 2, 3, 0, 1]]))


@pytest.mark.parametrize("name", ["plain", "dinov2", "avg"])
def test_many_tokens_are_computed_in_parts(name, monkeypatch):
    "24 x 24 patches and 4 heads: more than 2**19 attention values per image, so both splits of rows are uneven."
    model = make(name, img_size=96, patch_size=4, depth=2, embed_dim=16)
    x = pictures(model, 3)
    tokens = 24 * 24 + model.num_prefix_tokens
    rows = 2**19 // (4 * tokens)
    assert rows < 24 * 24 and (24 * 24) % rows  # several parts, the last one shorter
    for renormalize in (False, True):
        agree(lg.mean_attention_distance(model, x, renormalize=renormalize), reference(model, x, renormalize))


@gpu
@pytest.mark.parametrize("name", ["plain", "distilled", "registers", "qk norm", "not square"])
def test_on_a_gpu(name):
    model = make(name)
    x = pictures(model, 5)
    on_cpu, on_gpu = lg.mean_attention_distance(model, x), lg.mean_attention_distance(model.cuda(), x, batch_size=2)
    assert on_gpu.device.type == "cpu" and torch.allclose(on_cpu, on_gpu, rtol=1e-2)


def test_bf16_autocast():
    "Attention is timm's under autocast; pixels and sums are not also rounded to bf16 (0.25 px at 60 px)."
    model = make("plain", img_size=112, patch_size=8)
    x = pictures(model, 2)
    wanted = reference(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_timm = reference(model, x)
        distances = lg.mean_attention_distance(model, x)
    assert distances.dtype == torch.float32
    assert (by_timm - wanted).abs().max() > 0  # autocast did act
    assert (distances - by_timm).abs().max() < 0.04, (distances - by_timm).abs().max()
    assert torch.allclose(distances.double(), wanted, rtol=2e-2)


def test_bf16_weights():
    model = make("plain")
    x = pictures(model)
    wanted = reference(model, x)
    distances = lg.mean_attention_distance(model.bfloat16(), x.bfloat16())
    assert distances.dtype == torch.float32 and torch.allclose(distances.double(), wanted, rtol=5e-2)


def snapshot(model):
    "Everything that a pass could change."
    modules = list(model.modules())
    return dict(
        modes=[m.training for m in modules],
        hooks=[(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        fused=[b.attn.fused_attn for b in model.blocks], grads=[(p.requires_grad, p.grad) for p in model.parameters()],
        names=[n for n, _ in model.named_modules()], devices={p.device for p in model.parameters()},
        classes=[type(m) for m in modules], attributes=[sorted(vars(m)) for m in modules],
        values=[p.detach().clone().numpy().tobytes() for p in model.parameters()],
        grad_mode=torch.is_grad_enabled(), rng=torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("state", ["train", "eval", "mixed"])
def test_model_is_left_as_it_was(state, fails):
    model = make("dinov2")
    model.train(state != "eval")
    if state == "mixed":
        model.blocks[1].eval()
        model.blocks[0].mlp.eval()
    model.blocks[1].attn.fused_attn = False
    model.blocks[0].attn.qkv.weight.requires_grad_(False)
    calls = []
    model.blocks[0].attn.qkv.register_forward_hook(lambda *_: calls.append(1))
    before, x = snapshot(model), pictures(model)
    if fails:
        with pytest.raises(ValueError, match="1 channel of"):
            lg.mean_attention_distance(model, [x, x[:, :1]])
    else:
        lg.mean_attention_distance(model, x)
    after = snapshot(model)
    assert calls  # hooks of others run as always
    assert {k for k in before if before[k] != after[k]} == set()


def test_outputs_equal_before_and_after():
    model = make("distilled")
    x = pictures(model)
    with torch.no_grad():
        before = model(x)
        lg.mean_attention_distance(model, x)
        assert torch.equal(before, model(x))


def test_train_mode_does_not_change_the_result():
    model = make("plain", drop_path_rate=0.5, attn_drop_rate=0.5, proj_drop_rate=0.5, patch_drop_rate=0.5)
    x = pictures(model)
    wanted = reference(model, x)
    agree(lg.mean_attention_distance(model.train(), x), wanted)


@pytest.mark.parametrize("images", [torch.zeros(0, 3, 32, 32), [], TensorDataset(torch.zeros(0, 3, 32, 32))])
def test_no_images(images):
    with pytest.raises(ValueError, match="no images"):
        lg.mean_attention_distance(make("plain"), images)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(bad):
    model = make("plain")
    x = pictures(model)
    x[1, 0, 3, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        lg.mean_attention_distance(model, x)


def test_nan_in_one_layer_is_named():
    model = make("plain")
    with torch.no_grad():
        model.blocks[1].attn.qkv.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        lg.mean_attention_distance(model, pictures(model))


def test_wrong_shape():
    with pytest.raises(ValueError, match="shape"):
        lg.mean_attention_distance(make("plain"), torch.zeros(3, 32, 32))


def test_patch_distances():
    T = density.patch_distances((2, 3), (4, 8))
    assert T.shape == (6, 6)
    assert T[0].tolist() == pytest.approx([0, 8, 16, 4, math.hypot(4, 8), math.hypot(4, 16)], abs=1e-4)
    assert torch.equal(T, T.T) and T.diag().abs().max() < 1e-4


def test_heads_that_differ_by_layer():
    "A descendant can be measured, too; its layers have different numbers of heads."
    model = make("plain")
    x = pictures(model)
    child = lg.inherit(lg.condense(model, x, eps=1e-6), heads=[2, 4, 3], ffn="copy")
    try:
        distances = lg.mean_attention_distance(child, x)
    except (TypeError, ValueError) as e:  # a clear refusal would do
        assert "head" in str(e)
    else:
        for row, n in zip(distances, [2, 4, 3]):
            assert row[:n].isfinite().all()


# --- maps

@pytest.mark.parametrize("name", ["plain", "distilled", "dinov2", "qk norm", "siglip", "post norm"])
def test_maps_are_those_of_the_model(zoo, name):
    "Recompute the attention output of a layer from its map; eq. 4 on maps gives the distances."
    model, seen = zoo(name), {}
    x = pictures(model)
    attn = model.blocks[1].attn
    hooks = [attn.proj.register_forward_pre_hook(lambda m, args: seen.update(out=args[0])),
             attn.qkv.register_forward_hook(lambda m, args, out: seen.update(qkv=out))]
    with torch.no_grad():
        model.forward_features(x)
    for h in hooks:
        h.remove()
    A, first = density.attention_maps(model, x, [1, 0])
    v = seen["qkv"].view(*seen["qkv"].shape[:2], 3, attn.num_heads, attn.head_dim)[:, :, 2].transpose(1, 2)
    torch.testing.assert_close((A @ v).transpose(1, 2).flatten(2), seen["out"], rtol=1e-4, atol=1e-5)
    p = slice(model.num_prefix_tokens, None)
    T = density.patch_distances(model.patch_embed.grid_size, model.patch_embed.patch_size)
    by_hand = torch.stack([(a[:, :, p, p] * T).sum(-1).mean((0, 2)) for a in (first, A)])
    torch.testing.assert_close(by_hand, density.mean_attention_distance(model, x)[:2], rtol=1e-4, atol=1e-4)


def test_maps_of_chosen_layers_leave_the_model_as_it_was(zoo):
    model = zoo("plain").train()
    x = pictures(model)
    every = density.attention_maps(model, x)
    assert len(every) == len(model.blocks) and model.training
    assert not any(b.attn.qkv._forward_hooks for b in model.blocks)
    last, last_again = density.attention_maps(model, x, [-1, len(every) - 1])
    assert torch.equal(last, every[-1]) and torch.equal(last, last_again)
    with pytest.raises(IndexError):
        density.attention_maps(model, x, [len(every)])


def test_head_differences():
    maps = torch.rand(2, 3, 5, 5)
    maps = maps / maps.sum(-1, keepdim=True)
    d = density.head_differences(maps)
    by_hand = torch.stack([torch.stack([(maps[:, a] - maps[:, b]).abs().sum(-1).mean() / 2 for b in range(3)])
                           for a in range(3)])
    torch.testing.assert_close(d, by_hand, rtol=1e-5, atol=1e-6)
    apart = torch.stack([torch.eye(5), torch.eye(5).roll(1, 0)])[None]
    assert density.head_differences(apart)[0, 1] == 1
