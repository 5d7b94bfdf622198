"""One way to turn an image file into pixels, which all readers of datasets share.

The picture is what a viewer shows: upright as EXIF says, transparent parts on a background, 16 bits scaled to 8, of
several frames or pages the first. Colours are taken as they are stored; embedded ICC profiles are ignored. Only the
formats below are opened, because Pillow starts other programs for some (Ghostscript for EPS).
"""
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, ImageColor

DECODING = 1  # version: raise it when some image decodes to other pixels than before

# Pillow's name of each format that is read -> file endings
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png", ".apng"), "WEBP": (".webp",), "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"), "BMP": (".bmp",), "DIB": (".dib",), "AVIF": (".avif", ".avifs"), "MPO": (".mpo",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "ICO": (".ico",), "QOI": (".qoi",), "SGI": (".sgi", ".rgb", ".rgba", ".bw"), "PCX": (".pcx",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
WHITE = (255, 255, 255)

_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 258, 262, 339  # tags of EXIF and TIFF
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}
_KEY_SCALE = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}  # from a PNG's transparent colour to the pixels Pillow reads


def decode_image(
    item,  # a path, encoded bytes, an array (H, W) or (H, W, C), or a PIL image
    mode="RGB",  # of the result: "RGB", or "L" for one channel
    background="white",  # shows through where the image is transparent
) -> Image.Image:
    """Decode an image as a viewer shows it.

    Raises ValueError for what cannot be shown, and whatever Pillow raises for damaged files.
    """
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and (item.ndim == 2 or item.shape[2:] == (3,)):
        return Image.fromarray(item).convert(mode)
    with open_image(item) as image:
        return render_image(image, mode, background)


@contextmanager
def open_image(item):
    "Open an image for its header; the pixels are not decoded yet."
    if isinstance(item, Image.Image):
        yield item  # stays open: it is the caller's
        return
    if isinstance(item, np.ndarray):
        yield Image.fromarray(item[..., 0] if item.shape[2:] == (1,) else item)
        return
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # Pillow can be built without some
    with Image.open(BytesIO(item) if isinstance(item, (bytes, bytearray, memoryview)) else item, "r", formats) as image:
        limit, (width, height) = Image.MAX_IMAGE_PIXELS, image.size
        if limit and width * height > limit:  # Pillow only warns up to twice the limit
            raise ValueError(f"{width} x {height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS, {limit:,}")
        yield image


def render_image(image, mode="RGB", background="white"):
    "Make the picture of an opened image, as a new PIL image of `mode`."
    raw_mode, covered = _raw_mode(image), _covered_part(image)
    image.load()
    turn = _UPRIGHT.get(orientation(image))
    if not all(image.size):
        raise ValueError(f"it has {image.width} x {image.height} pixels")
    if is_deep(image):
        picture = _scale_to_8_bits(image)
    elif image.mode in ("La", "RGBa"):
        picture = image.convert(image.mode.upper())
    else:
        picture = image
    if covered or picture.has_transparency_data:
        picture = _put_on_background(picture, raw_mode, covered, background)
    if picture.mode not in ("1", "L", "RGB"):
        picture = picture.convert("RGB")
    picture = picture.convert(mode)
    return picture if turn is None else picture.transpose(turn)


def orientation(image):
    "Return the EXIF orientation of an opened image; 1 where it is not stated or damaged."
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # viewers show such an image, too
        return 1


def is_deep(image):
    "Whether the pixels of an opened image have more than 8 bits, which Pillow would clip."
    return image.mode == "F" or image.mode.startswith("I")


def full_range(image):
    """Return the largest value of a deep image's type, for example 65535 for 16 bits.

    None for 32-bit integers and floats, which are scaled by their own smallest and largest value.
    """
    if image.mode.startswith("I;16"):
        return 2 ** _tiff_tag(image, _BITS, 16) - 1
    return 65535 if image.mode == "I" and image.format in ("PNG", "PPM") else None


def _tiff_tag(image, tag, default):
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value[0] if isinstance(value, tuple) else value


def _scale_to_8_bits(image):
    "Convert a deep image to mode L, or LA where one shade is transparent."
    values = np.asarray(image)
    if image.mode == "I" and image.format == "TIFF" and _tiff_tag(image, _SAMPLE_FORMAT, 1) == 1:
        values = values.view(np.uint32)
    low, high = 0, full_range(image)
    if high is None:
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ValueError("some of its values are NaN or infinite")
        if low == high:
            raise ValueError(f"all its values are {low:g}, which no scale turns into a shade")
    shades = np.floor((values.astype(np.float64) - low) * (255 / (high - low)) + 0.5).astype(np.uint8)
    if _tiff_tag(image, _PHOTOMETRIC, 1) == 0:  # 0 is white; Pillow turns 8 bits round, but not 16
        shades = 255 - shades
    picture, transparent = Image.fromarray(shades), image.info.get("transparency")
    if isinstance(transparent, int):
        picture.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return picture


def _raw_mode(image):
    "Return how Pillow will unpack the pixels of a PNG, e.g. \"L;2\"; None for other formats."
    tile = getattr(image, "tile", None)
    return tile[0][3] if tile and image.format == "PNG" else None


def _covered_part(image):
    "Return the box of a GIF's first frame where it is smaller than the canvas, else None."
    tile = getattr(image, "tile", None)
    box = tuple(tile[0][1]) if tile and image.format == "GIF" else None
    return None if box == (0, 0, *image.size) else box


def _put_on_background(image, raw_mode, covered, background):
    "Show a background through the transparent parts of an image."
    key = image.info.get("transparency")
    if raw_mode in _KEY_SCALE and key is not None:
        scale = _KEY_SCALE[raw_mode]
        image.info["transparency"] = tuple(int(k * scale) for k in key) if isinstance(key, tuple) else int(key * scale)
    format, image = image.format, image.convert("RGBA")
    alpha = image.getchannel("A")
    if covered:
        inside = Image.new("L", image.size)
        inside.paste(alpha.crop(covered), covered)
        alpha = inside
    elif alpha.getextrema() == (0, 0) and format in ("BMP", "DIB", "TGA"):
        return image.convert("RGB")  # the fourth byte was left empty
    picture = Image.new("RGB", image.size, ImageColor.getrgb(background))
    picture.paste(image, mask=alpha)
    return picture
