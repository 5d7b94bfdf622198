"Attention of several models side by side: what their layers look at in one image."
import torch

from .anatomy import blocks_of, image_shape, places_of
from .density import attention_maps


def received_attention(
    model,  # a vision transformer
    image: torch.Tensor,  # (C, H, W), normalised as the model wants it
    layer: int,  # from 0
) -> torch.Tensor:  # (rows, columns) of the layer's patches; they sum to 1
    "Compute how much attention each patch receives from all tokens, on average over heads."
    attention = attention_maps(model, image[None], [layer])[0].mean(1).sum(1)  # (windows, tokens)
    places = places_of(model, tuple(image.shape[-2:]))[layer]
    seen = places.patch >= 0
    received = torch.zeros(len(places.centres)).index_add(0, places.patch[seen], attention[seen])
    rows = len(places.centres[:, 0].unique())
    return received.view(rows, -1) / received.sum()


def draw_attention(
    models: dict,  # name -> vision transformer, e.g. {"ancestry": model, "descendant": child}
    image: torch.Tensor,  # (C, H, W), normalised as the models want it
    panels: int = 3,  # layers to show of each model, from the first to the last
):  # the figure
    """Draw what layers of several models look at, a row for each model.

    Dark patches receive much attention. Raises ValueError for an image of another shape than a model takes.
    """
    import matplotlib.pyplot as plt

    for name, model in models.items():
        if tuple(image.shape) != image_shape(model):
            raise ValueError(f"the image has shape {tuple(image.shape)}, {name} takes {image_shape(model)}; give one "
                             "image of that shape, without a batch axis.")
    size = (1.7 * (panels + 1), 1.8 * len(models))
    fig, axes = plt.subplots(len(models), panels + 1, figsize=size, squeeze=False, layout="constrained")
    picture = image.movedim(0, -1).float()
    picture = (picture - picture.min()) / (picture.max() - picture.min()).clamp(min=1e-6)
    for row, (name, model) in zip(axes, models.items()):
        row[0].imshow(picture.squeeze(-1).numpy(), cmap="gray")
        row[0].set_ylabel(name, fontsize=8)
        depth = len(blocks_of(model))
        for ax, layer in zip(row[1:], torch.linspace(0, depth - 1, panels).round().int().tolist()):
            ax.imshow(received_attention(model, image, layer).numpy(), cmap="gray_r", vmin=0)
            ax.set_title(f"layer {layer + 1} of {depth}", fontsize=8)
        for ax in row:
            ax.set(xticks=[], yticks=[])
    return fig
