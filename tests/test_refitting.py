"The closed-form refit against independent references, on every kind of model that it takes."
import copy
import re
import warnings

import numpy as np
import pytest
import timm
import torch
from conftest import gpu, make, pictures

import learngene as lg
from learngene.inheriting import build, plan
from learngene.methods import Shape, get
from learngene.refitting import Gram, choose_neurons, keep_inputs, refit, stream_errors
from learngene.stream import StreamStore, after_attention, after_ffn, after_layers, embed_patches


def vit(**kw):
    "A small random model whose blocks matter."
    torch.manual_seed(kw.pop("seed", 0))
    options = dict(img_size=16, patch_size=4, embed_dim=32, depth=4, num_heads=4, num_classes=5) | kw
    model = timm.models.VisionTransformer(**options).eval()
    for p in model.blocks.parameters():
        p.data.mul_(4)
    return model


def first_heads(model, method_options=None, images=None, **shape):
    "A descendant of the model's first heads and layers."
    method = get(**dict(name="pretraining-finetuning") | (method_options or {}))
    return method.expand(method.condense(model, images), Shape(**shape))


def pixels(n, seed=0):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


KINDS = {
    "plain": {},
    "layer scale": dict(init_values=0.3),
    "registers": dict(reg_tokens=4),
    "no class token": dict(class_token=False, global_pool="avg"),
    "norm before": dict(pre_norm=True),
    "query and key norms": dict(qk_norm=True),
    "no qkv bias": dict(qkv_bias=False),
    "no bias at all": dict(proj_bias=False),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys(), scope="module")
def big(request):
    return vit(**request.param)


@pytest.mark.parametrize("options", [{}, dict(values=2), dict(weight="norm"), dict(damping=0.5), dict(sweeps=2)],
                         ids=str)
def test_nothing_removed_nothing_changed(big, options):
    same = copy.deepcopy(big)
    refit(same, big, pixels(40), **options)
    for (name, a), b in zip(same.named_parameters(), big.parameters()):
        assert torch.allclose(a, b, atol=1e-5), name


@pytest.mark.parametrize("options", [{}, dict(values=1), dict(weight="norm"), dict(damping=0.5), dict(sweeps=2)],
                         ids=str)
def test_error_falls_on_images_not_seen(big, options):
    child, fresh = first_heads(big, heads=2), pixels(100, seed=1)
    before = stream_errors(child, big, fresh)[-1]
    report = refit(child, big, pixels(300), **options)
    assert stream_errors(child, big, fresh)[-1] < 0.9 * before
    assert report.after[-1] < report.before[-1] and report.images == 300


@pytest.mark.parametrize("options", [{}, dict(sweeps=2), dict(ffn_width=0.5, values=1), dict(memory_mb=0)], ids=str)
@pytest.mark.parametrize("sources", [None, [1, 3]], ids=str)
def test_the_report_has_the_errors_of_both_streams(big, options, sources):
    child, seen = first_heads(big, heads=2, depth=2), pixels(40)
    before = stream_errors(child, big, seen, sources)
    report = refit(child, big, seen, sources=sources, **options)
    assert report.before == pytest.approx(before, rel=1e-4)
    assert report.after == pytest.approx(stream_errors(child, big, seen, sources), rel=1e-3)


@pytest.mark.parametrize("values", [0, 1])
def test_removed_combinations_are_restored(big, values):
    "Heads 2 and 3 attend as head 0 does, and their values are combinations of those of heads 0 and 1."
    with torch.no_grad():
        model = copy.deepcopy(big)
        for b in model.blocks:
            qkv = b.attn.qkv.weight.view(3, 4, 8, 32)
            qkv[:2, 1:] = qkv[:2, :1]
            qkv[2, 2], qkv[2, 3] = 2 * qkv[2, 0], qkv[2, 1] - qkv[2, 0]
            if b.attn.qkv.bias is not None:
                bias = b.attn.qkv.bias.copy_(pixels(1, seed=2).flatten()[:96]).view(3, 4, 8)
                bias[:2, 1:] = bias[:2, :1]
                bias[2, 2], bias[2, 3] = 2 * bias[2, 0], bias[2, 1] - bias[2, 0]
    child, fresh = first_heads(model, heads=2), pixels(30, seed=1)
    wrong = (child(fresh) - model(fresh)).abs().max()
    refit(child, model, pixels(200), ridge=1e-9, values=values)
    assert (child(fresh) - model(fresh)).abs().max() < 1e-4 < wrong


def test_closed_form_is_lstsq():
    torch.manual_seed(0)
    z, r = torch.randn(300, 7, dtype=torch.float64) + 1, torch.randn(300, 4, dtype=torch.float64)
    gram = Gram(7, 4)
    gram.add(z, r)
    dW, db = gram.solve(1e-13)
    exact = torch.linalg.lstsq(torch.cat([z, torch.ones(300, 1)], 1), r).solution
    assert torch.allclose(torch.cat([dW.T, db[None]]), exact, atol=1e-8)
    uncentred, zero = gram.solve(1e-13, centred=False)
    assert torch.allclose(uncentred.T, torch.linalg.lstsq(z, r).solution, atol=1e-8) and not zero.any()


def test_closed_form_is_where_gradient_descent_ends():
    "A whole layer: W^O of a descendant's first block, by descent on the stated objective."
    big, ridge, x = vit(depth=1), 1e-2, pixels(60)
    child = first_heads(big, heads=2)
    start = child.blocks[0].attn.proj
    caught = []
    start.register_forward_pre_hook(lambda m, a: caught.append(a[0]))
    with torch.no_grad():
        stream = [m._pos_embed(m.patch_embed(x)) for m in (big, child)]
        target = (stream[0] + big.blocks[0].attn(big.blocks[0].norm1(stream[0]))).double()
        child.blocks[0].attn(child.blocks[0].norm1(stream[1]))
    z, h = caught[0].flatten(0, 1).double(), stream[1].flatten(0, 1).double()
    W0, b0 = start.weight.detach().double(), start.bias.detach().double()
    W, b = W0.clone().requires_grad_(), b0.clone().requires_grad_()
    scale = (z - z.mean(0)).square().mean()

    def objective():
        miss = h + z @ W.T + b - target.flatten(0, 1)
        loss = miss.square().sum() / len(z) + ridge * scale * (W - W0).square().sum()
        optimizer.zero_grad()
        loss.backward()
        return loss

    optimizer = torch.optim.LBFGS([W, b], lr=1, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15,
                                  line_search_fn="strong_wolfe")
    optimizer.step(objective)
    refit(child, big, x, ridge=ridge, ffn=False)
    assert torch.allclose(start.weight.double(), W, atol=1e-5) and torch.allclose(start.bias.double(), b, atol=1e-5)


def test_values_step_is_where_gradient_descent_ends():
    "Values and W^O of one block: alternating ends where descent on both ends (within 2 %), and below W^O alone."
    big, x = vit(depth=1), pixels(60)

    def error(**options):
        child = first_heads(big, heads=1)
        refit(child, big, x, ridge=1e-8, ffn=False, **options)
        return _attention_error(child, big, x).item()

    child = first_heads(big, heads=1)
    b = child.blocks[0].attn
    value, others = b.qkv.weight.detach()[16:].clone().requires_grad_(), b.qkv.weight.detach()[:16]
    b.proj.requires_grad_(True)

    def objective():
        loss = _attention_error(child, big, x, torch.cat([others, value]))
        optimizer.zero_grad()
        loss.backward()
        return loss

    optimizer = torch.optim.LBFGS([value, b.proj.weight, b.proj.bias], lr=1, max_iter=2000, tolerance_grad=1e-10,
                                  tolerance_change=1e-14, line_search_fn="strong_wolfe")
    best = optimizer.step(objective) and objective().item()
    assert error(values=30) < 1.02 * best < error()


def _attention_error(child, big, x, qkv=None):
    "Mean squared distance of the two streams after the first attention."
    block, weights = child.blocks[0], {} if qkv is None else {"qkv.weight": qkv}
    with torch.no_grad():
        h = big._pos_embed(big.patch_embed(x))
        target = h + big.blocks[0].attn(big.blocks[0].norm1(h))
    out = torch.func.functional_call(block.attn, weights, (block.norm1(h),))
    return (h + out - target).square().sum(-1).mean()


def test_streaming_equals_one_shot():
    big = vit()
    one, many, spilled = (first_heads(big, heads=2) for _ in range(3))
    a = refit(one, big, pixels(64), batch_size=64)
    b = refit(many, big, pixels(64), batch_size=7)
    c = refit(spilled, big, pixels(64), batch_size=7, memory_mb=0)  # every stream in a file
    assert np.allclose(a.after, b.after, atol=1e-5) and np.allclose(b.after, c.after, atol=1e-7)
    for p, q, s in zip(one.parameters(), many.parameters(), spilled.parameters()):
        assert torch.allclose(p, q, atol=1e-4) and torch.equal(q, s)


@gpu
@pytest.mark.parametrize("options", [dict(), dict(memory_mb=0), dict(memory_mb=0.2), dict(values=2),
                                     dict(ffn_width=0.5)], ids=str)
def test_on_a_gpu(options):
    "Streams on the GPU, in a file, and some of each."
    big = vit()
    on_cpu, on_gpu = first_heads(big, heads=2), first_heads(big, heads=2).cuda()
    a = refit(on_cpu, big, pixels(16), batch_size=7, **options)
    b = refit(on_gpu, copy.deepcopy(big).cuda(), pixels(16), batch_size=7, **options)
    assert np.allclose(a.before, b.before, atol=1e-2) and np.allclose(a.after, b.after, atol=2e-2)
    assert all(q.is_cuda for q in on_gpu.parameters())


def test_order_of_images_is_irrelevant():
    big = vit()
    a, b = first_heads(big, heads=2), first_heads(big, heads=2)
    refit(a, big, pixels(64))
    refit(b, big, pixels(64).flip(0))
    assert all(torch.allclose(p, q, atol=1e-4) for p, q in zip(a.parameters(), b.parameters()))


def test_held_out_error_does_not_grow_with_images():
    "Averaged over seeds, as images are added."
    errors = []
    for n in (8, 32, 128):
        by_seed = []
        for seed in range(5):
            big = vit(seed=seed)
            child = first_heads(big, heads=2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                refit(child, big, pixels(n, seed=seed + 10))
            by_seed.append(stream_errors(child, big, pixels(100, seed=99))[-1])
        errors.append(np.mean(by_seed))
    assert errors[0] > errors[1] > errors[2]


class ImagesWithForbiddenLabels(torch.utils.data.Dataset):
    "Images whose labels raise when they are read."
    class Label:
        def __getattribute__(self, name):
            raise AssertionError("a label was read")

    def __len__(self):
        return 30

    def __getitem__(self, i):
        return pixels(30)[i], ImagesWithForbiddenLabels.Label()


def test_labels_are_never_read():
    big = vit()
    def collate(rows):
        return torch.stack([image for image, _ in rows]), [label for _, label in rows]

    loader = torch.utils.data.DataLoader(ImagesWithForbiddenLabels(), batch_size=10, collate_fn=collate)
    a, b = first_heads(big, heads=2), first_heads(big, heads=2)
    refit(a, big, loader)
    refit(b, big, pixels(30), batch_size=10)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_layers_left_out_aim_past_the_gap():
    "Two layers of which the second does nothing: a one-layer descendant is the whole model again."
    big = vit(depth=2)
    with torch.no_grad():
        for p in (big.blocks[1].attn.proj, big.blocks[1].mlp.fc2):
            p.weight.zero_()
            p.bias.fill_(0.3)  # a constant, which the layer before can add in its place
    child = first_heads(big, depth=1)
    refit(child, big, pixels(100), ridge=1e-10)
    assert torch.allclose(child(pixels(9, 1)), big(pixels(9, 1)), atol=1e-4)


def test_only_the_solved_matrices_change():
    big = vit()
    for options, allowed in [({}, {"attn.proj", "mlp.fc2"}), (dict(ffn=False), {"attn.proj"}),
                             (dict(attention=False), {"mlp.fc2"}),
                             (dict(values=1), {"attn.proj", "mlp.fc2", "attn.qkv"})]:
        child = first_heads(big, heads=2)
        before = copy.deepcopy(child.state_dict())
        refit(child, big, pixels(50), **options)
        changed = {name.split(".", 2)[2].rsplit(".", 1)[0] for name, t in child.state_dict().items()
                   if not torch.equal(t, before[name])}
        assert changed == allowed
        if "values" in options:  # queries and keys stay
            assert torch.equal(child.blocks[0].attn.qkv.weight[:32], before["blocks.0.attn.qkv.weight"][:32])


@pytest.mark.parametrize("method_options, refit_options", [
    (dict(ridge=1.0), dict(ridge=1.0)), (dict(refit_images=9), dict(max_images=9)), (dict(values=1), dict(values=1)),
    (dict(weight="norm"), dict(weight="norm")), (dict(damping=0.3), dict(damping=0.3)),
    (dict(sweeps=2), dict(sweeps=2)), (dict(ffn_width=20), dict(ffn_width=20)),
    (dict(ffn_width=20, neurons="random"), dict(ffn_width=20, neurons="random")),
    (dict(parts="attention"), dict(ffn=False)), (dict(parts="ffn"), dict(attention=False))], ids=str)
def test_options_of_a_method_reach_the_refit(method_options, refit_options):
    big = vit()

    def by_method(**options):
        options = dict(name="pretraining-finetuning+refit") | options
        return first_heads(big, options, pixels(40), heads=2).state_dict()

    child, weights, default_weights = first_heads(big, heads=2), by_method(**method_options), by_method()
    refit(child, big, pixels(40), **refit_options)
    assert all(torch.equal(t, weights[k]) for k, t in child.state_dict().items())
    assert not all(torch.equal(t, weights[k]) for k, t in default_weights.items())


@pytest.mark.parametrize("damping", [0.0, 0.25, 1.0])
def test_damping_is_the_share_of_an_earlier_error_that_is_corrected(damping):
    big = vit(depth=1)
    child, x = copy.deepcopy(big), pixels(40)
    child.blocks[0].attn.proj.bias.data += 0.5
    refit(child, big, x, attention=False, damping=damping)
    with torch.no_grad():
        stream, ancestry_stream = (after_layers(m.blocks, embed_patches(m, x)) for m in (child, big))
    assert torch.allclose((stream - ancestry_stream).mean((0, 1)), torch.tensor((1 - damping) * 0.5), atol=1e-4)


def test_norm_weights_are_one_over_the_variance_of_the_target(monkeypatch):
    big, x, weights, add = vit(depth=1), pixels(9), [], Gram.add
    monkeypatch.setattr(Gram, "add", lambda gram, z, r, w=None: weights.append(w) or add(gram, z, r, w))
    refit(copy.deepcopy(big), big, x, weight="norm")
    with torch.no_grad():
        middle = after_attention(big.blocks[0], embed_patches(big, x))
        end = after_ffn(big.blocks[0], middle)
    assert len(weights) == 2
    assert all(torch.allclose(w, 1 / stream.var(-1), rtol=1e-4) for w, stream in zip(weights, (middle, end)))


def test_models_keep_their_mode_and_the_ancestry_its_weights():
    big = vit(drop_path_rate=0.1)
    child, before = first_heads(big, heads=2).train(), copy.deepcopy(big.state_dict())
    refit(child, big, pixels(30))
    assert child.training and not big.training and not any(m._forward_pre_hooks for m in child.modules())
    assert all(torch.equal(t, before[k]) for k, t in big.state_dict().items())


def test_narrow_ffn_in_one_pass_equals_narrowing_first():
    "Cutting neurons inside the refit gives the least-squares answer for the kept ones."
    big = vit(depth=1)
    a, b = first_heads(big), first_heads(big)
    refit(a, big, pixels(80), ffn_width=20, ridge=1e-10)
    gram = Gram(128, 0)
    with torch.no_grad():
        h = big._pos_embed(big.patch_embed(pixels(80)))
        h = h + big.blocks[0].attn(big.blocks[0].norm1(h))
        z = big.blocks[0].mlp.act(big.blocks[0].mlp.fc1(big.blocks[0].norm2(h)))
        target = big.blocks[0].mlp.fc2(z).flatten(0, 1).double()
    gram.add(z, z[..., :0])
    keep = choose_neurons(gram, 20)
    assert torch.equal(a.blocks[0].mlp.fc1.weight, b.blocks[0].mlp.fc1.weight[keep])
    design = torch.cat([z[..., keep].flatten(0, 1).double(), torch.ones(target.shape[0], 1)], 1)
    exact = torch.linalg.lstsq(design, target).solution
    assert torch.allclose(a.blocks[0].mlp.fc2.weight.double(), exact[:-1].T, atol=1e-3)


def test_sums_without_some_inputs_are_those_gathered_without_them():
    torch.manual_seed(0)
    z, r, W = (torch.randn(*shape, dtype=torch.float64) for shape in [(90, 5), (90, 3), (3, 5)])
    keep, gone = [0, 3, 4], [1, 2]
    sums, afresh = Gram(5, 3), Gram(3, 3)
    sums.add(z, r)
    afresh.add(z[:, keep], r + z[:, gone] @ W[:, gone].T)
    kept = keep_inputs(sums, keep, W)
    for name, tensor in vars(afresh).items():
        assert torch.allclose(getattr(kept, name), tensor), name


def test_what_outgrows_the_memory_lies_in_a_file():
    store = StreamStore(memory_mb=1)
    tensors = [torch.full((400, 512), float(i)) for i in (1, 2)]
    kept = [store.keep(t) for t in tensors]
    assert store.n_files == 1 and kept[0] is tensors[0] and kept[1] is not tensors[1]
    for tensor in kept:
        tensor.copy_(tensor + 1)
    assert kept[0].unique() == 2 and kept[1].unique() == 3


def test_choose_neurons_agrees_with_pivoted_qr():
    from scipy.linalg import qr

    torch.manual_seed(0)
    a = torch.randn(500, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    gram = Gram(12, 0)
    gram.add(a, a[:, :0])
    _, _, pivots = qr((a - a.mean(0)).numpy(), pivoting=True, mode="economic")
    assert choose_neurons(gram, 6) == sorted(pivots[:6].tolist())


@pytest.mark.parametrize("change, message", [
    (dict(ridge=0), "ridge is 0"), (dict(ridge=-1.0), "ridge is -1"),
    (dict(weight="norms"), "did you mean 'norm'"),
    (dict(damping=1.5), "damping is 1.5"), (dict(sources=[3, 2, 1, 0]), "ascending"),
    (dict(sources=[0, 1, 2, 9]), "ascending"), (dict(values=0.5), "values is 0.5; give a whole number"),
    (dict(sweeps=0), "sweeps is 0"), (dict(values=1, attention=False), "together with W\\^O"),
    (dict(ffn_width=0), "give 1 to 128 neurons"), (dict(ffn_width=129), "give 1 to 128 neurons"),
    (dict(ffn_width=[8, 8]), "a list of 4"), (dict(ffn_width=8, neurons="qrr"), "did you mean 'qr'"),
], ids=str)
def test_bad_options(change, message):
    big = vit()
    child = first_heads(big, heads=2)
    before = copy.deepcopy(child.state_dict())
    with pytest.raises(ValueError, match=message):
        refit(child, big, pixels(10), **change)
    assert all(torch.equal(t, before[k]) for k, t in child.state_dict().items())


def test_bad_images_and_models():
    big = vit()
    child = first_heads(big, heads=2)
    with pytest.raises(ValueError, match="no images"):
        refit(child, big, pixels(0))
    with pytest.raises(ValueError, match="not finite"):
        refit(child, big, pixels(10) * float("inf"))
    broken = copy.deepcopy(big)
    broken.blocks[2].mlp.fc1.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="streams are not finite"):
        refit(child, broken, pixels(10))
    with pytest.raises(ValueError, match="do not match"):
        refit(child, vit(embed_dim=64), pixels(10))
    with pytest.raises(ValueError, match="normalise after W\\^O"):
        refit(child, vit(block_fn=timm.models.vision_transformer.ResPostBlock), pixels(10))
    with pytest.raises(ValueError, match="the descendant is on meta, the ancestry on cpu"):
        refit(first_heads(big, heads=2).to("meta"), big, pixels(10))
    shared = lg.condense(big, pixels(20), eps=100.0)
    with pytest.raises(ValueError, match="still share weights"):
        refit(build(shared, plan(shared, ffn="transform")), big, pixels(10))


def warnings_of(child, big, images, **options):
    "(the report, what was warned of it but for the number of tokens)"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = refit(child, big, images, **options)
    assert all(w.filename == __file__ for w in caught)
    return report, [str(w.message) for w in caught if "unknowns" not in str(w.message)]


@pytest.mark.parametrize("options", [dict(ffn=False), dict(ffn=False, values=1), dict(ffn=False, weight="norm")],
                         ids=str)
def test_a_refit_that_makes_things_worse_warns_with_both_numbers(options):
    "W^O alone aims at the stream after attention, and what the FFN and later layers make of that may be farther off."
    big = make("dinov2")
    child = lg.inherit(lg.condense(big, pictures(big, 2), eps=1e-9), depth=1, heads=2, proj="aligned")
    report, messages = warnings_of(copy.deepcopy(child), big, pictures(big, 20, seed=2), **options)
    assert report.after[-1] > report.before[-1] + 1e-3
    numbers = f"it began with: {report.after[-1]:.4f}, and {report.before[-1]:.4f} as inherited \\(.*"
    assert len(messages) == 1
    assert re.search(numbers + "leave the options at their defaults, or give more images", messages[0])
    report, messages = warnings_of(child, big, pictures(big, 20, seed=2))
    assert report.after[-1] < report.before[-1] and messages == []


def test_a_narrow_ffn_is_named_as_the_reason():
    big = vit()
    _, messages = warnings_of(copy.deepcopy(big), big, pixels(60), ffn_width=4)
    assert "0.0000 as inherited with FFNs in full width" in messages[0] and "keep more neurons" in messages[0]
    assert warnings_of(copy.deepcopy(big), big, pixels(60), ffn_width=[4, 4, 4, 4])[1] == []  # stated layer by layer
    assert warnings_of(copy.deepcopy(big), big, pixels(60))[1] == []  # nothing removed: rounding is no growth


def test_few_images_warn_with_the_number():
    big = vit()
    with pytest.warns(UserWarning, match=r"51 tokens for 129 unknowns"):
        refit(first_heads(big, heads=2), big, pixels(3))
