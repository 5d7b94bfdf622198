"A teacher's answers as a loss: knowledge distillation, for `fit` and for the methods that bring a teacher along."
import copy

import torch
from timm.models import get_model_input_config
from torch import nn

from .model_input import to_model, wide


DIVERGENCES = ("images", "classes", "hard")  # kinds of distillation


class Distillation:
    "Hold a teacher, and compute the loss of a student that learns from it."
    def __init__(
        self,
        teacher,  # a classifier of the same classes; a frozen copy is kept
        alpha=1.0,  # weight of the teacher; 1 = labels are not used, as in MiniViT's commands
        temperature=1.0,  # by which logits are divided
        divergence="images",  # averaged over "images", over "classes" too, or "hard": the teacher's first class alone
    ):
        self.teacher = copy.deepcopy(teacher).requires_grad_(False).eval()
        self.alpha, self.temperature, self.divergence = alpha, temperature, divergence

    def __deepcopy__(self, memo):
        return self  # a copy of the student has the same teacher

    def __call__(self, logits, images, label_loss):
        "Return (1 - alpha) label_loss + alpha T^2 KL(teacher, student), averaged as stated."
        with torch.no_grad():
            targets = wide(self.teacher(to_model(_resized(images, self.teacher), self.teacher)))
        if self.divergence == "hard":
            divergence = nn.functional.cross_entropy(wide(logits), targets.argmax(1))
            return self.alpha * divergence + (1 - self.alpha) * label_loss
        student, teacher = ((wide(z) / self.temperature).log_softmax(1) for z in (logits, targets))
        divergence = nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        divergence = divergence / (logits.shape[1] if self.divergence == "classes" else 1)
        return self.alpha * divergence * self.temperature**2 + (1 - self.alpha) * label_loss


def _resized(images, teacher):
    "Resize images to the size that a teacher was made for, where it states one."
    if not getattr(teacher, "pretrained_cfg", None):
        return images
    size = tuple(get_model_input_config(teacher)["input_size"][1:])
    if size == tuple(images.shape[2:]):
        return images
    return nn.functional.interpolate(images.float(), size, mode="bicubic", antialias=True)


def check_teacher(
    teacher,  # a classifier
    model,  # its student
) -> None:
    "Raise TypeError for no module, ValueError for other classes than the student's."
    if not isinstance(teacher, nn.Module):
        raise TypeError(f"the teacher is a {type(teacher).__name__}, wanted a model; load one by "
                        "learngene.load_teacher(name).")
    if getattr(model, "distillation", None) is not None:
        raise ValueError("the model brings its own teacher along; leave the other one out.")
    classes = getattr(teacher, "num_classes", None)
    if classes != model.num_classes:
        raise ValueError(f"the teacher has {classes} classes, its student {model.num_classes}; give a teacher that "
                         "was trained on the same classes.")
