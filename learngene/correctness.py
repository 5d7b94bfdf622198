"Which test images a model classifies right: as bits of a record, and compared over seeds and images at once."
import base64
import binascii

import numpy as np
from scipy import stats


def pack_bits(
    correct,  # bools, one for each test image
) -> str:
    "Write which images are classified right as base64, eight images a byte."
    return base64.b64encode(np.packbits(np.asarray(correct, dtype=bool)).tobytes()).decode()


def unpack_bits(
    text: str,  # as `pack_bits` wrote it
    images: int,  # how many
) -> np.ndarray:  # (images,), of bools
    "Read which images are classified right. ValueError for bits of another number of images."
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise ValueError(f"no base64 ({error})") from None
    bits = np.unpackbits(packed).astype(bool)
    if len(packed) != -(-images // 8) or bits[images:].any():
        raise ValueError(f"bits of {len(bits)} images, wanted {images}")
    return bits[:images]


def check_bits(
    record: dict,  # with all its fields
    path,  # how an error calls it
) -> None:
    "Raise ValueError unless a record's bits, where it has any, give its test accuracy."
    train, images = record["train_info"], record["meta_info"]["data_sizes"].get("test", 0)
    if train.get("test_correct") is None:
        return
    try:
        right = int(unpack_bits(train["test_correct"], images).sum())
    except ValueError as error:
        raise ValueError(f"{path}: train_info.test_correct has {error}; remove the record and run again.") from None
    if abs(right - train["test_accuracy"] * images) > 1e-6 * images:
        raise ValueError(f"{path}: train_info.test_correct has {right} of {images} images right, but test_accuracy is "
                         f"{train['test_accuracy']}: it was edited; remove it and run again.")


def bits_of(
    records,  # of runs on the same test images
) -> np.ndarray:  # (records, images), of bools
    "Stack the bits of records. ValueError for a record without them."
    for record in records:
        if record["train_info"].get("test_correct") is None:
            raise ValueError(f"the record of {record['run_info']['name']}, seed {record['run_info']['seed']}, does not "
                             "say which images were right (it is older than that field); run it again.")
    return np.stack([unpack_bits(r["train_info"]["test_correct"], r["meta_info"]["data_sizes"]["test"])
                     for r in records])


def compare_bits(
    a,  # (seeds, images), bools: which images are classified right
    b,  # the same seeds and images, another model
) -> dict:  # difference, low, high (percentage points), p, n (seeds) and images
    """Compare two models over seeds and images.

    Return the mean of a - b, its 95 % interval and p-value. Seeds and images are both drawn at random (two-way random
    effects): the variance of the mean is (MS_seeds + MS_images - MS_rest) / (seeds x images), but no less than that of
    the images alone, with degrees of freedom by Satterthwaite. One seed says nothing of others: its interval is over
    images alone.
    """
    d = 100 * (np.asarray(a, dtype=float) - np.asarray(b, dtype=float))
    seeds, images = d.shape
    mean, by_seed, by_image = d.mean(), d.mean(1), d.mean(0)
    ms_images = seeds * by_image.var(ddof=1)
    if seeds == 1:
        variance, df = ms_images / images, images - 1
    else:
        ms_seeds = images * by_seed.var(ddof=1)
        rest = d - by_seed[:, None] - by_image + mean
        ms_rest = (rest**2).sum() / ((seeds - 1) * (images - 1))
        total = max(ms_seeds + ms_images - ms_rest, ms_images)
        spread = ms_seeds**2 / (seeds - 1) + (ms_images**2 + ms_rest**2 / (seeds - 1)) / (images - 1)
        variance, df = total / d.size, total**2 / spread if spread else images - 1
    error = variance**0.5
    half = stats.t.ppf(0.975, df) * error
    p = 2 * stats.t.sf(abs(mean) / error, df) if error else 1.0 if mean == 0 else 0.0
    return dict(difference=mean, low=mean - half, high=mean + half, p=float(p), n=seeds, images=images)


def compare_records(
    a,  # records of one method
    b,  # records of another, with the same seeds and test images
) -> dict:  # as `compare_bits`
    """Compare two methods by the bits of their records, paired by seed.

    Raises ValueError for other seeds or images.
    """
    by_seed = [{record["run_info"]["seed"]: record for record in records} for records in (a, b)]
    seeds = sorted(by_seed[0])
    if seeds != sorted(by_seed[1]) or len(seeds) != len(a) or len(seeds) != len(b):
        raise ValueError(f"the records have seeds {seeds} and {sorted(by_seed[1])}; give the same ones, once each.")
    data = {record["meta_info"]["data_fingerprint"] for record in [*a, *b]}
    if len(data) > 1:
        raise ValueError("the records are of different images; compare runs on one dataset.")
    return compare_bits(*(bits_of([records[seed] for seed in seeds]) for records in by_seed))
