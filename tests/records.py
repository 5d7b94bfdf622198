"Records of runs that never were: whole, with the key of the recipe inside."

import copy

from learngene.recipe import key_of


def make_record(of="run", accuracy=0.5, clean=True, name="demo", seed=0, recipe=None, **parts):
    "A record; `of` tells runs apart, `parts` are laid over run_info, train_info and meta_info."
    recipe = dict(recipe or dict(of=of)) | dict(name=name, seed=seed)
    record = dict(
        schema=1,
        run_info=dict(name=name, key=key_of(recipe), seed=seed, code=dict(clean=clean)),
        train_info=dict(test_accuracy=accuracy, seconds=1.0, history=[]),
        meta_info=dict(
            recipe=recipe, data_fingerprint="0" * 16, data_sizes=dict(test=10), inherited_params=0, params=1, flops=1
        ),
    )
    for part, values in parts.items():
        record[part] |= values
    return copy.deepcopy(record)


def with_own_key(record):
    "The record under the key of the recipe inside, which was changed."
    return record | dict(run_info=record["run_info"] | dict(key=key_of(record["meta_info"]["recipe"])))
