"Table 6: every dataset once, and the whole of it, even where runs took a share."

import json
from pathlib import Path

import pytest

from learngene import dataset_sizes as S

PICO = Path(__file__).parents[1] / "results/pico/records"


def test_a_dataset_has_one_name_wherever_it_comes_from():
    assert S.dataset_name("parquet:cifar-10") == S.dataset_name("cifar10") == "cifar10"
    assert S.dataset_name("parquet:caltech-101") == "caltech-101" and S.dataset_name("digits") == "digits"


def record(fraction, val_fraction, train, val):
    data = dict(name="parquet:cifar-10", fraction=fraction, val_fraction=val_fraction)
    return dict(meta_info=dict(recipe=dict(data=data), data_sizes=dict(train=train, val=val, test=10)))


@pytest.mark.parametrize(
    "records, whole",
    [
        ([record(1.0, 0.1, 900, 100)], 1000),
        ([record(0.1, 0.1, 90, 100)], 1000),
        ([record(0.1, 0.1, 90, 101), record(1.0, 0.1, 900, 100)], 1000),
    ],
)
def test_the_whole_of_a_share(records, whole):
    assert S.recorded_sizes(records) == {"cifar10": {"training images": whole, "held-out images": 10}}


def test_a_share_without_validation_images_tells_nothing():
    assert S.recorded_sizes([record(0.1, 0.0, 90, 0)]) == {}


def test_the_datasets_of_pico_from_its_records():
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(PICO.glob("*-s0-*.json"))]
    recorded = S.recorded_sizes(records)
    assert {name: sizes["training images"] for name, sizes in recorded.items()} == {
        "cifar10": 50000,
        "sign-digits": 1551,
        "caltech-101": 5784,
        "tiny-imagenet-100": 50000,
    }
    table = S.sizes_table(S.stated_sizes(), {}, recorded, S.used_data("pico"))
    assert (
        table.index.is_unique
        and table.loc["cifar10", "training images, counted"]
        == "50,000"
        == table.loc["cifar10", "training images, stated"]
    )
    assert (table.loc["cifar10", "use"], table.loc["tiny-imagenet-100", "use"]) == ("10%", "100%, 10%")


def test_digits_are_always_here():
    assert S.counted_sizes(["digits"]) == {"digits": {"training images": 1438, "held-out images": 359, "classes": 10}}
