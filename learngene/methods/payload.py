"What stage 1 of a method leaves: tensors, the architecture that they belong to, and what they cost."
from dataclasses import dataclass, field
from pathlib import Path

from ..files import load_tensors, save_tensors
from ..model_input import common_type

PAYLOAD_FORMAT = "learngene-payload"  # marks the folder's config.json


@dataclass
class Payload:
    "Trained tensors that start descendants, without the model that they were trained in."
    config: dict  # JSON-able: the architecture, as the method describes it
    tensors: dict  # what is stored, by name
    cost: dict = field(default_factory=dict)  # of stage 1: steps, images, seconds

    @property
    def n_params(self):
        "Number of stored values."
        return sum(t.numel() for t in self.tensors.values())

    def __str__(self):
        steps, images = self.cost.get("steps", 0), self.cost.get("images", 0)
        trained = f", trained in {steps:,} steps on {images:,} images" if steps else ""
        return f"{self.n_params / 1e6:.2f} M values{trained}"

    def save(self, path) -> Path:
        "Save as a folder of safetensors and JSON."
        return save_tensors(path, PAYLOAD_FORMAT, self.tensors, dict(config=self.config, cost=self.cost))

    @classmethod
    def load(cls, path):
        "Read what `save` wrote. ValueError for anything else, FileNotFoundError for no folder."
        tensors, values = load_tensors(path, PAYLOAD_FORMAT, dtype=common_type)
        if not isinstance(values.get("config"), dict) or not isinstance(values.get("cost"), dict):
            raise ValueError(f"{path} holds no payload (config and cost are missing); remove it and run again.")
        return cls(values["config"], tensors, values["cost"])
