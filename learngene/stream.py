"The residual stream of a model, walked part by part for all calibration images."
import tempfile
from pathlib import Path

import torch

from .anatomy import as_layer, first_stream, layers_of
from .model_input import to_model, wide


def embed_patches(
    model,  # a vision transformer
    images,  # (B, channels, height, width), on any device and of any float type
) -> torch.Tensor:  # (B, tokens, width), or (B, rows, columns, width) where patches attend in windows
    "Return the stream that enters the first layer."
    return first_stream(model, to_model(images, model))


def after_attention(layer, stream):
    "Add what the attention of a `Layer`, or of a plain block, makes of the stream."
    return as_layer(layer).after_attention(stream)


def after_ffn(layer, stream):
    "Add what the FFN of a `Layer`, or of a plain block, makes of the stream."
    return as_layer(layer).after_ffn(stream)


def after_layers(layers, stream):
    "Pass the stream through whole layers, and what merges patches before them."
    for layer in layers:
        stream = as_layer(layer)(stream)
    return stream


def last_stream(
    model,  # a vision transformer
    images,  # (B, channels, height, width)
) -> torch.Tensor:  # the stream behind the last layer
    "Pass images through all layers of a model."
    return after_layers(layers_of(model, images), embed_patches(model, images))


def record_attention(
    layer,  # a `Layer`, or a plain block
    stream,
):  # (what enters W^O, token by token of the stream; the stream after attention)
    "Run a layer's attention and catch what enters its output matrix."
    layer = as_layer(layer)
    inputs, arrived = record_inputs(layer.proj, layer.after_attention, stream)
    return layer.in_order(inputs, stream), arrived


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
    model,  # a vision transformer
    remedy,  # what to do instead, for the error
) -> None:
    "Raise ValueError unless W^O and W_2 are the last matrices before the stream."
    first = layers_of(model)[0]
    if not first.adds_last:
        raise ValueError(f"blocks of type {type(first.block).__name__} normalise after W^O, "
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
        model,  # a vision transformer
        batches,  # list of image tensors (B, channels, height, width)
        store,  # a StreamStore for the states
    ):
        self.model, self.batches, self.device = model, batches, next(model.parameters()).device
        self.store, self.layers = store, layers_of(model, to_model(batches[0], model))
        self.states = [store.keep(embed_patches(model, x)) for x in batches]

    @property
    def tokens(self):
        "Tokens of all images together."
        return sum(state[..., 0].numel() for state in self.states)

    def __iter__(self):
        return (state.to(self.device) for state in self.states)

    def advance(self, step):
        "Replace every state by `step(state)`."
        for batch, state in enumerate(self.states):
            self.put(batch, step(state.to(self.device)))

    def put(self, batch, stream):
        "Replace the state of one batch; where patches were merged it gets a new shape."
        if self.states[batch].shape == stream.shape:
            self.states[batch].copy_(stream)
        else:
            self.states[batch] = self.store.keep(stream)

    def restart(self):
        "Go back to the patch embedding."
        for batch, x in enumerate(self.batches):
            self.put(batch, embed_patches(self.model, x))


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
