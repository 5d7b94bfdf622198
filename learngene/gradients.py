"Gradients without labels: how sensitive a model's answer is to its stream, token by token and layer by layer."
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn

from .anatomy import blocks_of
from .calibration import calibration_batches
from .checks import check_choices
from .model_input import to_model, wide
from .progress import track
from .vit import eval_mode
from .vit_checks import check_vit

ANSWERS = ("classifier", "features")  # what can be differentiated
LARGEST_RATIO = 1e4  # of gradient energies; behind the last layer patches may have none at all


@dataclass
class StreamGradients:
    "What the gradients of a model's answer say about its stream behind each layer."
    answer: str  # what was differentiated: one of ANSWERS
    energy: list  # for each layer (prefix tokens + 1,): mean |g|^2 of each token without a place, and of a patch
    fisher: list  # for each layer (width, width): F, the mean of g g' over all tokens
    tokens: list  # tokens of an image in each layer
    images: int  # that were looked at

    def ratios(self, layer):
        "Gradient energy of each token without a place / a patch's: (prefix tokens,), 1e-4 to 1e4."
        energy = self.energy[layer].clamp_min(1e-300)
        return (energy[:-1] / energy[-1]).clamp(1 / LARGEST_RATIO, LARGEST_RATIO)

    def root(self, layer):
        "Compute a layer's metric M = F^1/2, (width, width), which weighs errors by the answer."
        values, vectors = torch.linalg.eigh(self.fisher[layer])
        return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def stream_gradients(
    model,  # a vision transformer
    images,  # some hundred calibration images: a tensor, a Dataset or a DataLoader
    answer=None,  # "classifier", "features" (pooled, in a random direction), or None = a classifier if there is one
    seed=0,  # of the drawn classes, or of the directions
    batch_size=64,  # images a pass
    max_images=512,  # look at no more than so many; None = all
) -> StreamGradients:
    """Differentiate a model's answer by its stream behind every layer; no labels are read.

    Of a classifier: the cross-entropy of a class drawn from the model's own softmax, so that the mean of g g' is
    Fisher's information. Of features: a random direction of the pooled features, each divided by its spread.
    ValueError for a model with neither a classifier nor pooled features.
    """
    check_vit(model)
    answer = ("classifier" if model.num_classes else "features") if answer is None else answer
    check_choices(answer=(answer, ANSWERS))
    batches, sums = calibration_batches(images, batch_size, max_images, model), None
    loss_of = Answer(model, answer, seed)
    with eval_mode(model), torch.enable_grad():
        for x in track(batches, "differentiating"):
            gradients = _gradients(model, x, loss_of)
            sums = sums or [_LayerSums(g, getattr(model, "num_prefix_tokens", 0)) for g in gradients]
            for of_layer, g in zip(sums, gradients):
                of_layer.add(g)
    if not all(s.fisher.isfinite().all() for s in sums):
        raise ValueError("the gradients are not finite; look for NaN in the images or the weights.")
    n = sum(map(len, batches))
    return StreamGradients(answer, [s.energy / n for s in sums], [s.fisher / (n * s.tokens) for s in sums],
                           [s.tokens for s in sums], n)


def _gradients(model, images, loss_of):
    "Differentiate the loss by the stream behind each layer: (B, tokens, width) each."
    streams = []

    def keep(block, args, stream):
        stream = stream if streams else stream.detach().requires_grad_()  # nothing before it is differentiated
        streams.append(stream)
        return stream

    with ExitStack() as undo:
        for block in blocks_of(model):
            undo.callback(block.register_forward_hook(keep).remove)
        loss = loss_of(to_model(images, model))
    gradients = torch.autograd.grad(loss, streams, allow_unused=True)
    return [torch.zeros_like(stream) if g is None else g for stream, g in zip(streams, gradients)]


class _LayerSums:
    "Running sums of one layer's gradients."
    def __init__(self, gradient, prefix):
        windowed, width = gradient.ndim == 4, gradient.shape[-1]
        self.prefix = 0 if windowed else prefix  # tokens without a place have no window
        self.tokens = gradient[0, ..., 0].numel()
        self.energy = torch.zeros(self.prefix + 1, dtype=torch.float64, device=gradient.device)
        self.fisher = torch.zeros(width, width, dtype=torch.float64, device=gradient.device)

    def add(self, gradient):
        g = gradient.flatten(1, -2).double()
        by_token = g.square().sum((0, 2))
        self.energy[:-1] += by_token[:self.prefix]
        self.energy[-1] += by_token[self.prefix:].mean()
        self.fisher.addmm_(g.flatten(0, 1).T, g.flatten(0, 1))


class Answer:
    "Something to differentiate that needs no label, for a batch of images."
    def __init__(self, model, answer, seed):
        self.model, self.answer, self.generator = model, answer, torch.Generator().manual_seed(seed)
        self.spread = None  # of the features, from the first batch

    def __call__(self, images):
        model = self.model
        if self.answer == "classifier":
            logits = wide(model(images))
            if not logits.isfinite().all():
                raise ValueError("the answers are not finite, so the streams are not finite; look for NaN in the "
                                 "images or the weights.")
            drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=self.generator).flatten()
            return nn.functional.cross_entropy(logits, drawn.to(logits.device), reduction="sum")
        features = wide(model.forward_head(model.forward_features(images), pre_logits=True))
        if features.ndim != 2:
            raise ValueError(f"this {type(model).__name__} has neither a classifier nor pooled features, so there is "
                             "no answer to differentiate; give token_weights=None, and prices=\"variance\" with a "
                             "budget, neurons=\"qr\" with narrower FFNs.")
        if self.spread is None:
            self.spread = features.detach().std(0, correction=0).clamp_min(1e-6)
        direction = torch.randn(features.shape, generator=self.generator).to(features)
        return (features / self.spread * direction).sum()


@dataclass
class Judge:
    "How much an error of the stream counts: by token, and in which directions."
    token_weights: Any = None  # "gradient", a number for class tokens beside a patch's 1, or None = all alike
    gradients: StreamGradients | None = None  # for "gradient", and for the metric
    prefix: int = 0  # tokens without a place
    registers: int = 0  # those of them, the last, that weigh as a patch does where a number is given

    @property
    def weighs(self):
        "Whether some tokens weigh more than others."
        return self.token_weights is not None and self.prefix > 0

    def weights(
        self,
        layer: int,  # of the ancestry, from 0
        stream,  # (B, tokens, width) behind it, or (B, rows, columns, width)
        norm=False,  # also divide each by the variance of its stream
    ):  # (B, tokens), mean 1 but for `norm`; None where all weigh the same
        "Weigh tokens by the square root of their gradient energy."
        scale = 1 / stream.var(-1).clamp_min(1e-12) if norm else None
        if not self.weighs or stream.ndim == 4:
            return scale
        weights = torch.ones(stream.shape[1], dtype=torch.float64, device=stream.device)
        if self.token_weights == "gradient":
            weights[:self.prefix] = self.gradients.ratios(layer).sqrt()
        else:
            weights[:self.prefix - self.registers] = self.token_weights
        weights = (weights / weights.mean()).expand(stream.shape[:2])
        return weights if scale is None else weights * scale

    def metric(
        self,
        layer: int,  # of the ancestry, from 0
    ):  # (M = F^1/2, nats of an image for each unit of the mean squared error that M measures)
        "Say in which directions, and how much, the answer feels an error of a layer's tokens."
        return self.gradients.root(layer), self.gradients.tokens[layer] / 2

    def __str__(self):
        if not self.weighs:
            return "all tokens weigh the same" + ("" if self.token_weights is None else ": each has a place")
        if self.token_weights == "gradient":
            return f"tokens weigh by the gradients of the {self.gradients.answer}"
        return f"class tokens weigh {self.token_weights:g} times a patch"


def judge_of(
    model,  # the ancestry
    images,  # calibration images
    token_weights="gradient",  # as in `Judge`, or one that is known
    metric=False,  # whether the directions matter, too
    answer=None,  # as in `stream_gradients`
    batch_size=64,  # images a pass
    max_images=512,  # look at no more than so many
) -> Judge:
    "Measure what is needed to judge errors of a model's stream, and no more."
    check_token_weights(token_weights)
    if isinstance(token_weights, Judge):
        return token_weights
    prefix = getattr(model, "num_prefix_tokens", 0)  # Swin and SAM have none
    needed = metric or token_weights == "gradient" and prefix
    options = dict(answer=answer, batch_size=batch_size, max_images=max_images)
    gradients = stream_gradients(model, images, **options) if needed else None
    return Judge(token_weights, gradients, prefix, getattr(model, "num_reg_tokens", 0))


def check_token_weights(token_weights) -> None:
    "Raise ValueError unless tokens can be weighed so."
    number = isinstance(token_weights, Real) and not isinstance(token_weights, bool)
    known = token_weights is None or token_weights == "gradient" or isinstance(token_weights, Judge)
    if not (known or number and 0 < token_weights < float("inf")):
        raise ValueError(f"token_weights is {token_weights!r}; give \"gradient\", None, or a number above 0: what a "
                         "class token weighs beside a patch.")
