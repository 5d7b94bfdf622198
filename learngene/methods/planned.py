"Methods whose descendants follow a plan."
from ..inheriting import build
from .core import Shape


class PlannedMethod:
    "Expand and count by the method's plan; a subclass defines `condense` and `plan`."
    def expand(self, payload, shape=Shape()):
        "Make a timm VisionTransformer that starts as planned."
        return build(payload, self.plan(payload, shape))

    def inherited_params(self, payload, shape=Shape()):
        "Count the distinct values taken from the ancestry."
        return self.plan(payload, shape).inherited_params
