"Random small models, cut in random ways: no NaN, right shapes, the same function where nothing is removed."

import tempfile
from functools import partial

import torch
from conftest import shake
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from timm.layers import Mlp, SwiGLU
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

import learngene as lg
from learngene.cluster_options import CLUSTERINGS, RULES
from learngene.condense_options import CENTROIDS, SIGNATURES
from learngene.inheriting import FFN, ORDERS, PROJ
from learngene.methods import Shape, get, names
from learngene.refit_options import NEURONS, WEIGHTS
from learngene.shapes import LAYERS
from learngene.vit import count_params, fingerprint

QUICK = 24
TYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}  # of outputs near 1


@st.composite
def architectures(draw):
    "Arguments of a small model of timm's, and its number type."
    heads, head_dim = draw(st.integers(1, 4)), draw(st.sampled_from([2, 4, 8]))
    class_token = draw(st.booleans())
    size = draw(st.tuples(st.integers(1, 3), st.integers(2, 3)))
    return (
        dict(
            img_size=tuple(4 * n for n in size),
            patch_size=4,
            in_chans=draw(st.sampled_from([1, 3])),
            num_classes=draw(st.integers(0, 4)),
            global_pool="token" if class_token else "avg",
            class_token=class_token,
            embed_dim=heads * head_dim,
            depth=draw(st.integers(1, 4)),
            num_heads=heads,
            mlp_ratio=draw(st.sampled_from([1, 4])),
            qkv_bias=draw(st.booleans()),
            qk_norm=draw(st.booleans()),
            proj_bias=draw(st.booleans()),
            init_values=draw(st.sampled_from([None, 0.3])),
            pre_norm=draw(st.booleans()),
            reg_tokens=draw(st.integers(0, 2)),
            mlp_layer=draw(st.sampled_from([Mlp, Mlp, Mlp, SwiGLU])),
        ),
        draw(st.sampled_from(TYPES)),
        draw(st.booleans()),
    )


@st.composite
def condensings(draw):
    "Options of `condense`."
    by = draw(st.sampled_from(CLUSTERINGS))
    return dict(
        eps=draw(st.sampled_from([1e-6, 0.05, 0.3, 100.0])),
        cluster_by=by,
        rule=draw(st.sampled_from(RULES)),
        k=1 if by == "kmeans" else None,
        centroid=draw(st.sampled_from(CENTROIDS)),
        signature=draw(st.sampled_from(SIGNATURES)),
        ffn_centroid=draw(st.sampled_from(CENTROIDS)),
    )


@st.composite
def shapes(draw):
    "Options of `inherit` that need no images."
    return dict(
        depth=draw(st.sampled_from([None, 1, 2, 3])),
        heads=draw(st.sampled_from([None, 1, 2, 3, 7])),
        num_classes=draw(st.sampled_from([None, None, 0, 1, 5])),
        proj=draw(st.sampled_from(PROJ)),
        ffn=draw(st.sampled_from(FFN)),
        layers=draw(st.sampled_from(LAYERS)),
        order=draw(st.sampled_from(ORDERS)),
    )


@st.composite
def refits(draw):
    "Options of `refit`."
    return dict(
        ridge=draw(st.sampled_from([1e-6, 1e-4, 1.0])),
        values=draw(st.integers(0, 1)),
        weight=draw(st.sampled_from(WEIGHTS)),
        damping=draw(st.sampled_from([0.0, 0.5, 1.0])),
        sweeps=draw(st.integers(1, 2)),
        neurons=draw(st.sampled_from(NEURONS)),
        ffn_width=draw(st.sampled_from([None, None, 0.5, 1])),
    )


def model_of(architecture, number_type, distilled):
    "A model with weights that make its heads differ, and images for it."
    if distilled and architecture["class_token"]:
        options = {k: v for k, v in architecture.items() if k not in ("class_token", "reg_tokens", "pre_norm")}
        model = VisionTransformerDistilled(**options)
    else:
        model = VisionTransformer(**architecture)
    shake(model).to(number_type)
    channels, size = architecture["in_chans"], architecture["img_size"]
    return model, torch.randn(6, channels, *size, generator=torch.Generator().manual_seed(1))


def outputs(model, images):
    "What a model makes of images: (images, classes), or features without a classifier."
    with torch.no_grad():
        return model(images.to(next(model.parameters()).dtype))


def check_model(model, images, classes):
    "Every weight was written, and outputs are finite and of the right shape."
    assert all(p.isfinite().all() and not p.is_meta for p in model.state_dict().values())
    assert model.num_classes == classes
    logits = outputs(model, images)
    assert logits.shape == (len(images), classes or model.embed_dim) and logits.isfinite().all()
    return logits


def fitting(shape, model):
    "The shape, no deeper than the ancestry."
    return shape | dict(depth=shape["depth"] and min(shape["depth"], len(model.blocks)))


def inherit_and_save(architecture, condensing, shape):
    "Condense, save, load, inherit, merge, save and load: nothing changes on the way."
    model, images = model_of(*architecture)
    shape = fitting(shape, model)
    learngene = lg.condense(model, images, **condensing)
    with tempfile.TemporaryDirectory() as folder:
        loaded = lg.Learngene.load(learngene.save(f"{folder}/learngene"))
        assert fingerprint(loaded.tensors) == fingerprint(learngene.tensors)
        assert (loaded.config, loaded.clusters, loaded.ffn_groups) == (
            learngene.config,
            learngene.clusters,
            learngene.ffn_groups,
        )
        classes = model.num_classes if shape["num_classes"] is None else shape["num_classes"]
        torch.manual_seed(0)
        child = lg.inherit(learngene, **shape)
        logits = check_model(child, images, classes)
        assert torch.equal(outputs(lg.merge(child), images), logits)
        torch.manual_seed(0)
        again = lg.merge(lg.inherit(loaded, **shape))
        assert fingerprint(again) == fingerprint(child)
        back = lg.load_descendant(lg.save_descendant(child, f"{folder}/child")).to(logits.dtype)
        assert fingerprint(back) == fingerprint(child)


def keep_everything(architecture):
    "A learngene of all heads, inherited in the ancestry's shape, is the ancestry."
    model, images = model_of(*architecture)
    child = lg.inherit(lg.condense(model, images, eps=1e-9), proj="aligned", ffn="copy")
    assert torch.allclose(outputs(child, images), outputs(model, images), atol=1e-6)


def refit_anything(architecture, condensing, shape, refit):
    "A refit leaves finite weights, and an error that is no larger unless it says so."
    model, images = model_of(*architecture)
    learngene = lg.condense(model, images, **condensing)
    shape = fitting(shape, model) | dict(ffn="copy")
    child = lg.inherit(learngene, **shape)
    report = lg.refit(child, model, images, sources=[p.source for p in lg.plan(learngene, **shape).layers], **refit)
    assert all(0 <= error < float("inf") for error in report.before + report.after)
    check_model(child, images, child.num_classes)


def refit_everything(architecture, refit):
    "Where nothing was removed, a refit changes nothing."
    model, images = model_of(*architecture)
    child = lg.inherit(lg.condense(model, images, eps=1e-9), proj="aligned", ffn="copy")
    lg.refit(child, model, images, **refit | dict(ffn_width=None))
    before, after = (outputs(m, images).double() for m in (model, child))
    assert torch.allclose(before, after, atol=TOLERANCE[architecture[1]] * max(1, before.abs().max()))


def meet_budget(architecture, condensing, share, kind):
    "A descendant within a budget is within it."
    model, images = model_of(*architecture)
    learngene = lg.condense(model, images, **condensing)
    limit = {kind: share}
    child = lg.inherit(learngene, budget=lg.Budget(**limit), refit=images, ancestry=model)
    check_model(child, images, model.num_classes)
    assert kind != "params" or count_params(child) <= share * count_params(model)


def start_by_method(architecture, method, shape):
    "Every method makes a sound model."
    model, images = model_of(*architecture)
    layers = {"blocks": 1} if hasattr(get(method), "blocks") else {}
    pixels = {"mean": 0.5, "std": 0.5} if hasattr(get(method), "pixels") else {}
    method, shape = get(method, **layers, **pixels), fitting(shape, model)
    shape = Shape(shape["depth"], shape["heads"], shape["num_classes"])
    torch.manual_seed(0)
    child = method.expand(method.condense(model, images), shape)
    check_model(child, images, model.num_classes if shape.num_classes is None else shape.num_classes)


KINDS = {
    inherit_and_save: (architectures(), condensings(), shapes()),
    keep_everything: (architectures(),),
    refit_anything: (architectures(), condensings(), shapes(), refits()),
    refit_everything: (architectures(), refits()),
    meet_budget: (
        architectures(),
        condensings(),
        st.sampled_from([0.2, 0.5, 1.0]),
        st.sampled_from(["params", "flops"]),
    ),
    start_by_method: (
        architectures(),
        st.sampled_from([n for n in names() if not getattr(get(n), "needs_training", False)]),
        shapes(),
    ),
}


def strictly(run):
    "Run with memory that holds NaN until it is written."
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        run()
    finally:
        torch.use_deterministic_algorithms(before)


def cases(first_seed):
    "Yield a few dozen cases, drawn by hypothesis."
    drawn = []

    @seed(first_seed)
    @settings(
        max_examples=10, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.tuples(*[st.tuples(*strategies) for strategies in KINDS.values()]))
    def draw(arguments):
        drawn.extend(zip(KINDS, arguments))

    draw()
    for kind, arguments in drawn:
        yield f"{kind.__name__}{arguments}", partial(strictly, partial(kind, *arguments))
