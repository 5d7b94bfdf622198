"The residual stream of a model, walked part by part for all calibration images."
import tempfile
from pathlib import Path

import torch

from .model_input import to_model, wide


def embed_patches(
    model,  # a timm VisionTransformer
    images,  # (B, channels, height, width), on any device and of any float type
) -> torch.Tensor:  # (B, tokens, width)
    "Return the stream that enters the first layer."
    return model.norm_pre(model._pos_embed(model.patch_embed(to_model(images, model))))


def after_attention(block, stream):
    "Add what a layer's attention makes of the stream (B, tokens, width)."
    return stream + block.ls1(block.attn(block.norm1(stream)))


def after_ffn(block, stream):
    "Add what a layer's FFN makes of the stream (B, tokens, width)."
    return stream + block.ls2(block.mlp(block.norm2(stream)))


def after_layers(blocks, stream):
    "Pass the stream (B, tokens, width) through whole layers."
    for block in blocks:
        stream = after_ffn(block, after_attention(block, stream))
    return stream


def record_inputs(
    linear,  # a module inside `step`
    step,  # function of the stream, such as `after_attention` of one block
    stream,  # (B, tokens, width)
):  # (what enters `linear`, the stream after the step)
    "Run a step of the stream and catch what enters one of its linear layers."
    caught = []
    hook = linear.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    try:
        arrived = step(stream)
    finally:
        hook.remove()
    return caught[0], arrived


def check_adds_last(
    model,  # a timm VisionTransformer
    remedy,  # what to do instead, for the error
) -> None:
    "Raise ValueError unless W^O and W_2 are the last matrices before the stream."
    if not hasattr(model.blocks[0], "ls1"):
        raise ValueError(f"blocks of type {type(model.blocks[0]).__name__} normalise after W^O, "
                         f"where least squares does not apply; {remedy}.")


class StreamStore:
    "Hold tensors in memory; those beyond `memory_mb` in files of a temporary folder."
    def __init__(self, memory_mb):
        self.bytes_left, self.folder, self.n_files = memory_mb * 2**20, None, 0

    def keep(self, tensor):
        "Return a tensor of the same values that stays, here or in a file."
        self.bytes_left -= tensor.nbytes
        if self.bytes_left >= 0:
            return tensor
        self.folder = self.folder or tempfile.TemporaryDirectory(prefix="learngene-")
        self.n_files += 1
        path = str(Path(self.folder.name) / str(self.n_files))
        stored = torch.from_file(path, shared=True, size=tensor.numel(), dtype=tensor.dtype)
        return stored.view(tensor.shape).copy_(tensor)


class Stream:
    "One model's stream for all calibration images, batch by batch; it advances in place."
    def __init__(
        self,
        model,  # a timm VisionTransformer
        batches,  # list of image tensors (B, channels, height, width)
        store,  # a StreamStore for the states
    ):
        self.model, self.batches, self.device = model, batches, next(model.parameters()).device
        self.states = [store.keep(embed_patches(model, x)) for x in batches]

    @property
    def tokens(self):
        "Tokens of all images together."
        return sum(state.shape[0] * state.shape[1] for state in self.states)

    def __iter__(self):
        return (state.to(self.device) for state in self.states)

    def advance(self, step):
        "Replace every state by `step(state)`."
        for state in self.states:
            state.copy_(step(state.to(self.device)))

    def restart(self):
        "Go back to the patch embedding."
        for state, x in zip(self.states, self.batches):
            state.copy_(embed_patches(self.model, x))


def relative_error(
    stream,  # a Stream
    reference,  # a Stream of the same images
) -> float:
    "Norm of the difference of two streams / norm of the reference, over all tokens."
    sums = torch.zeros(2, dtype=torch.float64)
    for state, wanted in zip(stream, reference):
        sums += error_sums(state, wanted)
    return (sums[0] / sums[1]).sqrt().item()


def error_sums(
    state,  # (B, tokens, width), of any number type
    wanted,  # likewise
) -> torch.Tensor:  # (2,), float64 on the CPU
    "Sum the squares of a difference of two streams, and those of what is wanted."
    state, wanted = wide(state), wide(wanted)  # half-precision squares overflow, or vanish
    return torch.stack([t.square().sum().double().cpu() for t in (state - wanted, wanted)])
