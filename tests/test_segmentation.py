"Segmentation: mIoU against scikit-learn, folder layouts, generated shapes, decoders on backbones, learning, refusals."
import copy

import numpy as np
import pytest
import torch
from conftest import make
from PIL import Image
from sklearn.metrics import confusion_matrix as by_sklearn
from sklearn.metrics import jaccard_score
from torch import nn

from learngene.families.examples import small_model
from learngene.segmentation import (CITYSCAPES_IDS, IGNORED, Segmenter, Shapes, ade20k, cityscapes, confusion_matrix,
                                    evaluate_segmenter, fit_segmenter, mean_iou, pascal_context)


def test_miou_against_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (3, 20, 20)), rng.integers(0, 6, (3, 20, 20))
    labels[0, :4] = IGNORED
    ours = sum(confusion_matrix(torch.tensor(y), torch.tensor(p), 7) for y, p in zip(labels, predicted))
    seen = labels != IGNORED
    assert np.array_equal(ours.numpy(), by_sklearn(labels[seen], predicted[seen], labels=range(7)))
    expected = jaccard_score(labels[seen], predicted[seen], average="macro")  # over classes that occur
    assert mean_iou(ours) == pytest.approx(expected)
    with pytest.raises(ValueError, match="masks have class 4, but there are 3"):
        confusion_matrix(torch.tensor(labels), torch.tensor(predicted), 3)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def mask(*numbers):
    "A mask of 8 x 8 pixels in horizontal bands."
    return np.repeat(np.array(numbers), 8 // len(numbers))[:, None].repeat(8, 1)


def classes_of(data):
    x, y = data[0]
    assert x.shape == (3, 8, 8) and x.dtype == torch.float32 and y.shape == (8, 8) and y.dtype == torch.int64
    return y[::8 // 4, 0].tolist()


def test_ade20k(tmp_path):
    for split in ("training", "validation"):
        write(tmp_path / f"images/{split}/ADE_1.jpg", np.zeros((8, 8, 3)))
        write(tmp_path / f"annotations/{split}/ADE_1.png", mask(0, 1, 2, 150))
    assert classes_of(ade20k(tmp_path, "val", image_size=8)) == [IGNORED, 0, 1, 149]
    assert len(ade20k(tmp_path)) == 1 and ade20k(tmp_path).num_classes == 150
    (tmp_path / "annotations/training/ADE_1.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 masks are missing"):
        ade20k(tmp_path)
    with pytest.raises(FileNotFoundError, match="no images below"):
        ade20k(tmp_path / "images")
    with pytest.raises(ValueError, match="split"):
        ade20k(tmp_path, "test")


def test_pascal_context(tmp_path):
    write(tmp_path / "JPEGImages/a.jpg", np.zeros((8, 8, 3)))
    write(tmp_path / "JPEGImages/not_listed.jpg", np.zeros((8, 8, 3)))
    write(tmp_path / "SegmentationClassContext/a.png", mask(0, 1, 59, 255))
    (lists := tmp_path / "ImageSets/SegmentationContext").mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    assert classes_of(pascal_context(tmp_path, image_size=8)) == [IGNORED, 0, 58, IGNORED]
    assert classes_of(pascal_context(tmp_path, background=True, image_size=8)) == [0, 1, 59, IGNORED]
    with pytest.raises(FileNotFoundError, match="convert trainval_merged.json"):
        pascal_context(tmp_path, "val")


def test_cityscapes(tmp_path):
    write(tmp_path / "leftImg8bit/train/bern/bern_1_leftImg8bit.png", np.zeros((8, 8, 3)))
    write(tmp_path / "gtFine/train/bern/bern_1_gtFine_labelIds.png", mask(7, 9, 33, 0))
    assert classes_of(cityscapes(tmp_path, image_size=8)) == [0, IGNORED, 18, IGNORED]
    assert len(set(CITYSCAPES_IDS)) == 19
    write(tmp_path / "gtFine/train/bern/bern_1_gtFine_labelIds.png", np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="mode RGB"):
        cityscapes(tmp_path)[0]


def test_what_cannot_be_read_is_named(tmp_path):
    for name, image, of_mask in [("a", np.zeros((8, 8, 3)), np.zeros((8, 4))), ("b", np.zeros((8, 8, 3)), mask(1, 2))]:
        write(tmp_path / f"images/training/{name}.jpg", image)
        write(tmp_path / f"annotations/training/{name}.png", of_mask)
    data = ade20k(tmp_path, image_size=8)
    with pytest.raises(ValueError, match=r"a.jpg has \(8, 8\) pixels, its mask .*a.png \(4, 8\)"):
        data[0]
    (tmp_path / "images/training/b.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="b.jpg cannot be read"):
        data[1]


def test_generated_shapes():
    data, again, other = Shapes(20, seed=1), Shapes(20, seed=1), Shapes(20, seed=2)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(data, again))
    assert not torch.equal(data[0][0], other[0][0])
    masks = torch.stack([y for _, y in data])
    assert masks.unique().tolist() == [0, 1, 2, 3] and masks.shape == (20, 32, 32)


@pytest.mark.parametrize("decoder", ["linear", "upernet"])
@pytest.mark.parametrize("kind", ["plain", "registers", "avg", "not square", "Swin"])
def test_every_backbone(kind, decoder):
    backbone = small_model(kind) if kind == "Swin" else make(kind)
    model = Segmenter(backbone, 4, decoder, width=8).eval()
    size = getattr(backbone.patch_embed, "img_size", None)
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 4, *size)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.decoder.parameters())


def test_it_learns_and_repeats():
    data, histories = Shapes(32), []
    first = Segmenter(make("plain"), 4)
    before = torch.get_rng_state()
    for model in (first, copy.deepcopy(first)):
        histories.append(fit_segmenter(model, data, epochs=5, batch_size=8, lr=2e-3))
    assert torch.equal(before, torch.get_rng_state())
    assert histories[0] == histories[1] and histories[0][-1] < 0.9 * histories[0][0]
    result = evaluate_segmenter(model, data)
    assert 0 < result["miou"] <= result["pixel_accuracy"] <= 1


def test_refused():
    with pytest.raises(ValueError, match="decoder"):
        Segmenter(make("plain"), 4, "mask2former")
    with pytest.raises(ValueError, match="num_classes is 1"):
        Segmenter(make("plain"), 1)
    with pytest.raises(TypeError, match="does not give maps"):
        Segmenter(nn.Linear(1, 1), 4)
    with pytest.raises(ValueError, match="no pixel to evaluate"):
        x = torch.zeros(3, 32, 32)
        evaluate_segmenter(Segmenter(make("plain"), 4), [(x, torch.full((32, 32), IGNORED))])
