"Numbers of every type: models of 16, 32 and 64 bits with images of any, and tensors that are not what they seem."
import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from conftest import gpu, make, pictures, shake
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.utils import parametrize, prune

import learngene as lg
from learngene.density import attention_distance_signature, attention_maps, head_differences
from learngene.methods import Shape, get, names
from learngene.methods.slices import block_features
from learngene.methods.weight_transformation import Distillation
from learngene.model_input import to_model, wide
from learngene.vit import count_flops, fingerprint, latency_ms, load_vit, save_vit, vit_config

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ROUNDING = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float32: 1e-5, torch.float64: 1e-5}  # of a pass
NAMES = {kind: str(kind).removeprefix("torch.") for kind in TYPES}
of_all_types = pytest.mark.parametrize("kind", TYPES, ids=NAMES.get)


@pytest.fixture(scope="module")
def plain():
    model = make("plain")
    return model, pictures(model, 40)


def of_type(plain, kind):
    "The plain model in another number type; the values are those of 16 bits, so that all types hold the same."
    return copy.deepcopy(plain[0]).bfloat16().to(kind)


def exact(plain):
    return of_type(plain, torch.float32)


@pytest.fixture(scope="module")
def distances(plain):
    return lg.mean_attention_distance(exact(plain), plain[1])


def descendant(model, learngene=None):
    return lg.inherit(learngene or every_head(model), omega=2, ffn="copy")


def every_head(model):
    return lg.condense(model, pictures(model, 2), eps=1e-9)


def close(a, b, kind, scale=1.0):
    a, b = (torch.as_tensor(t, dtype=torch.float64) for t in (a, b))
    return a.isfinite().all() and torch.allclose(a, b, rtol=10 * ROUNDING[kind], atol=scale * ROUNDING[kind])


@pytest.mark.parametrize("kind, image_type", [*zip(TYPES, TYPES[2:] + TYPES[:2]), (TYPES[2], TYPES[1])], ids=NAMES.get)
def test_distances(plain, distances, kind, image_type):
    model, images = of_type(plain, kind), plain[1].to(image_type)
    looser = max(kind, image_type, key=ROUNDING.get)
    assert close(lg.mean_attention_distance(model, images), distances, looser)
    assert close(attention_distance_signature(model, images)[0], distances, looser)
    maps = attention_maps(model, images[:4])
    assert all(m.dtype == torch.float32 and torch.allclose(m.sum(-1), torch.ones(())) for m in maps)
    assert all(f.isfinite().all() and f.dtype == torch.float32 for f in block_features(model, images))
    assert torch.allclose(head_differences(maps[0].to(kind)), head_differences(maps[0]), atol=0.05)


@of_all_types
def test_errors_of_a_stream(plain, kind):
    "Also of streams whose squares 16 bits cannot hold."
    model, images = exact(plain), plain[1]
    child = descendant(model)
    wanted = lg.stream_errors(child, model, images)
    assert close(lg.stream_errors(child.to(kind), model.to(kind), images), wanted, kind)
    for factor in (30, 1e-4):
        large, small = (copy.deepcopy(m).float() for m in (model, child))
        for m in (large, small):
            m.patch_embed.proj.weight.data *= factor
            m.pos_embed.data *= factor
        expected = lg.stream_errors(small, large, images)
        assert close(lg.stream_errors(small.to(kind), large.to(kind), images), expected, kind)


@of_all_types
@pytest.mark.parametrize("options", [{}, dict(values=1, weight="norm", ffn_width=0.5)], ids=str)
def test_refits(plain, kind, options):
    model, images = exact(plain), plain[1]
    learngene = every_head(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = lg.refit(descendant(model, learngene), model, images, **options)
        child = descendant(model, learngene).to(kind)
        report = lg.refit(child, model.to(kind), images, **options)
    assert close(report.before, wanted.before, kind) and close(report.after, wanted.after, kind, scale=4)
    assert all(p.dtype == kind and p.isfinite().all() for p in child.parameters())


@pytest.mark.parametrize("child_type, ancestry_type", [(torch.float16, torch.float32), (torch.float32, torch.bfloat16)])
def test_a_descendant_of_another_type_than_its_ancestry(plain, child_type, ancestry_type):
    model, images = exact(plain), plain[1]
    child = descendant(model)
    wanted = lg.refit(copy.deepcopy(child), model, images)
    report = lg.refit(child.to(child_type), model.to(ancestry_type), images.half())
    assert close(report.after, wanted.after, torch.bfloat16) and next(child.parameters()).dtype == child_type


@of_all_types
@pytest.mark.parametrize("options", [dict(), dict(centroid="averaged", ffn_centroid="averaged")], ids=str)
def test_condensing_and_inheriting(plain, distances, kind, options, tmp_path):
    eps = float(distances.max() - distances.min()) / 4
    wanted = lg.condense(exact(plain), plain[1], eps=eps, **options)
    learngene = lg.condense(of_type(plain, kind), plain[1], eps=eps, **options)
    if kind != torch.bfloat16:  # whose rounding may move a head to another cluster
        assert learngene.n_centroids == wanted.n_centroids
        for name, t in learngene.tensors.items():
            assert t.dtype == kind and torch.allclose(t.float(), wanted.tensors[name], atol=2e-3), name
    assert fingerprint(lg.Learngene.load(learngene.save(tmp_path / "l")).tensors) == fingerprint(learngene.tensors)
    for proj in ("paper", "aligned", "folded"):
        child = lg.inherit(learngene, omega=2, num_classes=7, proj=proj)
        logits = lg.merge(child)(to_model(plain[1][:4], child))
        assert logits.dtype == kind and logits.isfinite().all() and logits.shape == (4, 7)
    loaded = lg.load_descendant(lg.save_descendant(child, tmp_path / "d"))
    assert all(torch.equal(child.get_parameter(name).to(p), p) for name, p in loaded.named_parameters())


@pytest.mark.parametrize("kind", [torch.float16, torch.float64], ids=NAMES.get)
def test_budgets(plain, kind):
    model, images = exact(plain), plain[1]
    prices = partial(lg.budgeting.prices, images=images)
    wanted = prices(every_head(model), model)
    model = model.to(kind)
    learngene = every_head(model)
    for price, expected in zip(prices(learngene, model), wanted):
        assert close(price.heads, expected.heads, kind) and close(price.neurons, expected.neurons, kind)
        assert close(price.skip, expected.skip, kind)
    child = lg.inherit(learngene, budget=lg.Budget(params=0.6), refit=images, ancestry=model)
    assert all(p.dtype == kind and p.isfinite().all() for p in child.parameters())


# what needs an ancestry and calibration images alone; tests of stage 1 have the others
METHODS = [name for name in names() if name != "untrained" and not getattr(get(name), "needs_training", False)]
OPTIONS = dict.fromkeys([name for name in METHODS if hasattr(get(name), "blocks")], dict(blocks=1))
OPTIONS |= {name: dict(params=0.6) for name in METHODS if hasattr(get(name), "params")}
OPTIONS["savit"] = dict(flops=0.6, labels="drawn", generations=10)
OPTIONS["cluster-learngene+budget+heal"] = dict(params=0.6, heal_steps=2)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64], ids=NAMES.get)
@pytest.mark.parametrize("name", METHODS)
def test_every_method(plain, kind, name):
    options = OPTIONS.get(name, {})
    method, model = get(name, **options), of_type(plain, kind)
    shape = Shape() if {"params", "flops"} & set(options) else Shape(depth=2)
    if name.endswith("heal") and kind == torch.float16:
        with pytest.raises(TypeError, match="too few bits"):
            method.expand(method.condense(model, plain[1]), shape)
        return
    child = lg.merge(method.expand(method.condense(model, plain[1]), shape))
    with torch.no_grad():
        assert child(to_model(plain[1][:4], child)).isfinite().all()
    if child_teacher := getattr(child, "distillation", None):
        assert child_teacher(torch.randn(4, 5), plain[1][:4], torch.zeros(())).isfinite()


@of_all_types
def test_evaluating(plain, kind):
    data = [(x, i % 5) for i, x in enumerate(plain[1])]
    wanted, result = lg.evaluate(exact(plain), data), lg.evaluate(of_type(plain, kind), data)
    assert close(result["loss"], wanted["loss"], kind) and abs(result["accuracy"] - wanted["accuracy"]) < 0.03
    assert lg.evaluate(of_type(plain, kind), [(x.half(), y) for x, y in data])["images"] == len(data)
    large = of_type(plain, kind)
    large.head.weight.data *= 300  # a loss of one image that 16 bits hold, and of all that they do not
    assert np.isfinite(lg.evaluate(large, data)["loss"])


@of_all_types
def test_measuring_and_teaching(plain, kind):
    model = of_type(plain, kind)
    assert latency_ms(model, repeats=1) > 0 and count_flops(model) == count_flops(plain[0])
    assert Distillation(model)(torch.randn(2, 5), plain[1][:2], torch.zeros(())).isfinite()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64], ids=NAMES.get)
def test_training(kind):
    from test_train import recipe  # its tiny recipe on digits

    model = shake(VisionTransformer(img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=1, num_heads=2,
                                    num_classes=10)).to(kind)
    small = recipe(train=dict(epochs=1), data=dict(fraction=0.05))
    data = lg.load_data(small.data)
    if kind in (torch.float32, torch.float64):
        assert np.isfinite(lg.fit(model, data, small, on_epoch=False).history[-1]["train_loss"])
    else:
        with pytest.raises(ValueError, match=rf"weights are {NAMES[kind]}.* call `model.float\(\)` first"):
            lg.fit(model, data, small, on_epoch=False)


@gpu
@of_all_types
def test_on_a_gpu(plain, kind):
    model, images = exact(plain), plain[1]
    child = descendant(model)
    wanted = lg.stream_errors(child, model, images)
    child, model = child.cuda().to(kind), model.cuda().to(kind)
    assert close(lg.stream_errors(child, model, images), wanted, kind, scale=4)
    assert all(np.isfinite(lg.refit(child, model, images).after))
    assert lg.evaluate(model, [(x, 0) for x in images])["images"] == len(images)


LOOKS = {
    "distances": lambda model, x: lg.mean_attention_distance(model, x),
    "condense": lambda model, x: lg.condense(model, x, eps=1.0),
    "refit": lambda model, x: lg.refit(model, make("plain"), x),
    "errors": lambda model, x: lg.stream_errors(model, make("plain"), x),
    "save": lambda model, x: vit_config(model),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_weights_of_several_types_are_refused(look):
    model = make("plain")
    model.blocks[1].half()
    with pytest.raises(ValueError, match=r"are float16 and float32; make them one type, e.g. by `model.float\(\)`"):
        look(model, pictures(model))


def test_images_that_are_no_floats_are_refused(plain):
    pixels = plain[1].byte()
    for look in LOOKS.values():
        if look is not LOOKS["save"]:
            with pytest.raises(ValueError, match="images are uint8, wanted floats"):
                look(exact(plain), pixels)
    with pytest.raises(ValueError, match="images are uint8, wanted floats"):
        lg.evaluate(exact(plain), [(x, 0) for x in pixels])


def test_wide():
    assert [wide(torch.ones(1, dtype=kind)).dtype for kind in TYPES] == [torch.float32] * 3 + [torch.float64]


class Adapter(nn.Module):
    "Low-rank adaptation, by hand."
    def __init__(self, linear, rank=2):
        super().__init__()
        self.base_layer = linear
        self.a = nn.Parameter(torch.randn(rank, linear.in_features))
        self.b = nn.Parameter(torch.randn(linear.out_features, rank))

    def forward(self, x):
        return self.base_layer(x) + x @ self.a.T @ self.b.T


class AddLowRank(nn.Module):
    "The same, as a parametrization."
    def __init__(self, weight):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(weight.shape[0], 2)), nn.Parameter(torch.randn(2, weight.shape[1]))

    def forward(self, weight):
        return weight + self.a @ self.b


class PackedLinear(nn.Module):
    "Stands for a quantised layer."


def wrap(block):
    block.mlp.fc1 = Adapter(block.mlp.fc1)


CHANGES = {  # of a block: what is done, and the remedy that is named
    "an adapter in the FFN": (wrap, "mlp.fc1 of block 1 .*Adapter.*`merge_and_unload"),
    "an adapter of attention": (lambda b: setattr(b.attn, "qkv", Adapter(b.attn.qkv)), "attn.qkv of block 1 .*Adapter"),
    "quantised": (lambda b: setattr(b.attn, "proj", PackedLinear()), "attn.proj of block 1 .*PackedLinear.*quantised"),
    "pruned": (lambda b: prune.l1_unstructured(b.mlp.fc2, "weight", 0.5), "mlp.fc2.weight is computed.*`prune.remove`"),
    "weight norm": (lambda b: nn.utils.parametrizations.weight_norm(b.attn.qkv), "remove_parametrizations"),
    "a parametrized adapter": (
        lambda b: parametrize.register_parametrization(b.attn.proj, "weight", AddLowRank(b.attn.proj.weight)),
        "attn.proj.weight is computed from other tensors"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("change, words", CHANGES.values(), ids=CHANGES)
def test_layers_that_are_not_plain_are_refused_with_the_remedy(look, change, words):
    model = make("plain")
    change(model.blocks[1])
    with pytest.raises(TypeError, match=words):
        look(model, pictures(model))


def test_pruned_and_made_plain_again():
    model = make("plain")
    prune.l1_unstructured(model.blocks[0].mlp.fc1, "weight", 0.5)
    prune.remove(model.blocks[0].mlp.fc1, "weight")
    child = lg.inherit(every_head(model), proj="aligned", ffn="copy")
    assert torch.equal(child.blocks[0].mlp.fc1.weight == 0, model.blocks[0].mlp.fc1.weight == 0)


@pytest.fixture
def shared():
    "A descendant whose FFNs are functions of one, and its outputs."
    model = make("plain")
    learngene = lg.condense(model, pictures(model), eps=1e3)
    assert len(learngene.ffn_groups) == 1
    child = lg.inherit(learngene)
    for p in child.blocks[0].mlp.fc1.parametrizations.weight[0].parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    return child, pictures(model)


@pytest.mark.parametrize("change", [
    wrap, lambda b: prune.l1_unstructured(b.mlp.fc1, "weight", 0.5),
    lambda b: setattr(b.mlp.fc1, "weight", nn.Parameter(torch.zeros(b.mlp.fc1.weight.shape))),
    lambda b: b.mlp.fc1.register_parameter("lora_a", nn.Parameter(torch.zeros(2, 2)))])
def test_adapters_and_pruning_of_shared_ffns_are_refused(shared, change):
    child, x = shared
    before = child(x)
    with pytest.raises(ValueError, match=r"shares its weight.*call `learngene.merge\(model\)` first.*ffn='copy'"):
        change(child.blocks[1])
    assert torch.equal(child(x), before)
    change(lg.merge(child).blocks[1])
    child(x)


def test_adapters_merge_to_the_same_function_once_ffns_are_merged(shared):
    child, x = shared
    wrap(lg.merge(child).blocks[1])
    adapter = child.blocks[1].mlp.fc1
    before = child(x)
    adapter.base_layer.weight.data += adapter.b.data @ adapter.a.data
    child.blocks[1].mlp.fc1 = adapter.base_layer
    assert torch.allclose(child(x), before, atol=1e-4)


@pytest.mark.parametrize("finish", [
    lambda child: lg.merge(child),
    lambda child: parametrize.remove_parametrizations(child.blocks[1].mlp.fc1, "weight")], ids=["merge", "torch's own"])
def test_parametrizations_on_top_of_shared_ffns(shared, finish):
    child, x = shared
    layer = child.blocks[1].mlp.fc1
    parametrize.register_parametrization(layer, "weight", AddLowRank(layer.weight))
    before = child(x)
    finish(child)
    assert torch.allclose(child(x), before, atol=1e-6)
    assert torch.allclose(lg.merge(child)(x), before, atol=1e-6)


def test_peft(shared):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["fc1"], init_lora_weights=False)
    child, x = shared
    with pytest.raises(ValueError, match=r"learngene.merge\(model\)"):
        peft.get_peft_model(copy.deepcopy(child), config)
    wrapped = peft.get_peft_model(lg.merge(child), config)
    with pytest.raises(TypeError, match="merge_and_unload"):
        lg.mean_attention_distance(wrapped, x)
    with pytest.raises(TypeError, match="adapter"):
        lg.mean_attention_distance(wrapped.base_model.model, x)
    before = wrapped(x)
    assert torch.allclose(wrapped.merge_and_unload()(x), before, atol=1e-4)


def test_compiled_and_exported_with_shared_ffns(shared):
    child, x = shared
    assert torch.allclose(torch.compile(child, backend="eager")(x), child(x), atol=1e-5)
    assert torch.allclose(torch.export.export(child, (x,)).module()(x), child(x), atol=1e-5)


def test_tied_layers():
    "An ancestry's may be tied, since all is copied; a refit of tied ones would change one layer by another's answer."
    model, x = make("plain"), pictures(make("plain"), 80)
    model.blocks[2].mlp = model.blocks[1].mlp
    child = lg.inherit(every_head(model), proj="aligned", ffn="copy")
    assert torch.allclose(child(x), model(x), atol=1e-6)
    assert child.blocks[2].mlp.fc1.weight is not child.blocks[1].mlp.fc1.weight
    lg.refit(child, model, x)
    with pytest.raises(ValueError, match=r"blocks.2.mlp.fc1.weight .*and blocks.1.mlp.fc1.weight are one tensor"):
        lg.refit(copy.deepcopy(model), model, x)
    alias = copy.copy(model)
    with pytest.raises(ValueError, match="and the ancestry's blocks.0.norm1.weight are one tensor"):
        lg.refit(alias, model, x)


HEADS = {
    "another size": (lambda d: nn.Linear(d, 9), r"from 32 to 9.*num_classes is 5.*`model.reset_classifier\(9\)`"),
    "other features": (lambda d: nn.Linear(d + 1, 5), r"from 33 to 5.*`model.reset_classifier\(n\)`"),
    "several layers": (
        lambda d: nn.Sequential(nn.Linear(d, d), nn.Linear(d, 5)), r"of type Sequential.*reset_classifier\(n\)"),
    "none": (lambda d: nn.Identity(), r"of type Identity.*reset_classifier\(n\)"),
}


@pytest.mark.parametrize("name", ["plain", "distilled"])
@pytest.mark.parametrize("head, words", HEADS.values(), ids=HEADS)
def test_a_replaced_head(name, head, words, tmp_path):
    x, data = pictures(make(name)), lg.load_data(lg.recipe.DataSpec("digits", image_size=32))
    for which in ("head",) if name == "plain" else ("head", "head_dist"):
        model = make(name)
        setattr(model, which, head(32))
        for look, *rest in (lg.condense, x), (save_vit, tmp_path / "m"), (lg.fit, data, "digits/ancestry"):
            with pytest.raises(ValueError, match=f"model.{which} is (a Linear )?{words}"):
                look(model, *rest)
        assert lg.mean_attention_distance(model, x).isfinite().all()  # it needs no classifier
    model.reset_classifier(9)
    assert load_vit(save_vit(model, tmp_path / "m")).num_classes == 9


def test_evaluation_asks_for_a_number_for_each_class():
    model = make("plain")
    images = pictures(model, 6)
    model.head = nn.Linear(32, 9)  # what counts is what comes out
    assert lg.evaluate(model, [(x, 8) for x in images])["images"] == 6
    for y in (9, -1):
        with pytest.raises(ValueError, match=rf"shape \(6, 9\) and labels are {y} to {y}.*reset_classifier"):
            lg.evaluate(model, [(x, y) for x in images])
    model.reset_classifier(0, global_pool="")
    with pytest.raises(ValueError, match=r"shape \(6, 17, 32\).*reset_classifier"):
        lg.evaluate(model, [(x, 0) for x in images])
