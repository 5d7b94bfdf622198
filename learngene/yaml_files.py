"""Reading YAML as people write it: 5e-4 is a number, and a key that is given twice is refused."""
import re
from pathlib import Path

import yaml

EXPONENT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")  # YAML 1.1 takes such numbers for text


class StrictLoader(yaml.SafeLoader):
    "PyYAML's safe loader with two of YAML 1.2's rules."

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice")
        return super().construct_mapping(node, deep)


StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def read_yaml(path) -> dict:
    "Read a file that holds a mapping. ValueError names the file and what is wrong."
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, wanted a mapping of keys to values.")
    return content
