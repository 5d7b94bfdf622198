"""Which heads can stand for each other: how alike the outputs of a layer's heads are, and what a choice of heads loses.

Clustering heads by distance presumes that heads at nearly one distance do nearly one thing. Here nothing is presumed:
everything follows from the covariance of what the heads of a layer hand to W^O.
"""
from contextlib import ExitStack
from functools import partial
from itertools import combinations
from math import comb

import torch

from .anatomy import blocks_of
from .calibration import calibration_batches
from .model_input import to_model
from .vit import eval_mode

MOST_CHOICES = 1000  # sets of heads that are compared one by one; of more, so many are drawn


@torch.no_grad()
def output_covariances(
    model,  # a vision transformer
    images,  # calibration images: a tensor, a Dataset or a DataLoader
    batch_size=64,  # images a pass
    max_images=None,  # use no more images than this
) -> list:  # for each layer (heads x head_dim, heads x head_dim), float64
    "Measure the covariance, over all tokens of all images, of what enters W^O in each layer."
    blocks = blocks_of(model)
    sums = [[0, 0, 0] for _ in blocks]  # tokens, sums, products

    def add(layer, module, args):
        x = args[0].flatten(0, -2).double()
        for i, term in enumerate((len(x), x.sum(0), x.T @ x)):
            sums[layer][i] = sums[layer][i] + term

    with eval_mode(model), ExitStack() as undo:
        for layer, block in enumerate(blocks):
            undo.callback(block.attn.proj.register_forward_pre_hook(partial(add, layer)).remove)
        for x in calibration_batches(images, batch_size, max_images, model):
            model(to_model(x, model))
    return [products / n - torch.outer(total / n, total / n) for n, total, products in sums]


def head_cka(
    covariance,  # (heads x head_dim, heads x head_dim), from `output_covariances`
    n_heads: int,
) -> torch.Tensor:  # (heads, heads), from 0 (unlike) to 1 (alike up to rotation and scale)
    "Compare the outputs of all pairs of heads by linear CKA."
    squares = _by_heads(covariance, n_heads).square().sum((2, 3))  # squared norms of the blocks
    own = squares.diagonal().sqrt()
    return squares / torch.outer(own, own)


def kept_error(
    covariance,  # (heads x head_dim, heads x head_dim), from `output_covariances`
    proj,  # (width, heads x head_dim), W^O
    n_heads: int,
    kept,  # heads that stay, from 0
    lost=None,  # heads whose share of the output is asked for; None = all
) -> float:  # from 0 (nothing is lost) to 1 (nothing is left)
    """Measure what a layer's output loses when some heads stay and W^O is fitted anew.

    The share of the output's variance that no linear map of the kept heads' outputs gives:
    tr(W (S - S_k S_kk^-1 S_k^T) W^T) / tr(W S W^T).
    """
    d = len(covariance) // n_heads
    columns = torch.arange(len(covariance)).view(n_heads, d)
    k = columns[list(kept)].flatten()
    at = columns[list(range(n_heads) if lost is None else lost)].flatten()
    S, W = covariance[at][:, at], proj.double()[:, at]
    explained = covariance[at][:, k] @ torch.linalg.pinv(covariance[k][:, k], rtol=1e-10, hermitian=True)
    rest = S - explained @ covariance[at][:, k].T
    return float(((W @ rest) * W).sum() / ((W @ S) * W).sum())


def stand_in_errors(
    covariance,  # (heads x head_dim, heads x head_dim), from `output_covariances`
    proj,  # (width, heads x head_dim), W^O
    n_heads: int,
) -> torch.Tensor:  # (heads, heads): [i, j] is what head j's output loses when head i stands for it
    "Measure for all pairs of heads what one loses when the other stands for it, W^O refitted."
    every = range(n_heads)
    errors = [[kept_error(covariance, proj, n_heads, [i], [j]) for j in every] for i in every]
    return torch.tensor(errors, dtype=torch.float64)


def rank_choice(
    covariance,  # (heads x head_dim, heads x head_dim), from `output_covariances`
    proj,  # (width, heads x head_dim), W^O
    n_heads: int,
    kept,  # the chosen heads, from 0
) -> dict:  # error of the choice; mean and best of all choices of as many; `beats`, the share of them with more
    """Rank a choice of heads among all choices of as many.

    Where there are more than `MOST_CHOICES`, so many are drawn.
    """
    if comb(n_heads, len(kept)) <= MOST_CHOICES:
        sets = list(combinations(range(n_heads), len(kept)))
    else:
        generator = torch.Generator().manual_seed(0)
        sets = [torch.randperm(n_heads, generator=generator)[: len(kept)].tolist() for _ in range(MOST_CHOICES)]
    errors = torch.tensor([kept_error(covariance, proj, n_heads, heads) for heads in sets], dtype=torch.float64)
    own = kept_error(covariance, proj, n_heads, kept)
    beats = ((errors > own + 1e-9).double() + 0.5 * ((errors - own).abs() <= 1e-9)).mean()
    return dict(error=own, mean=float(errors.mean()), best=float(errors.min()), beats=float(beats))


def _by_heads(covariance, n_heads):
    "(heads, heads, head_dim, head_dim)."
    return covariance.unflatten(1, (n_heads, -1)).unflatten(0, (n_heads, -1)).transpose(1, 2)
