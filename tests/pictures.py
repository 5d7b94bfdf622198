"""A folder of tiny pictures, one of each kind, with the pixel values that are right.

`kinds()` makes them by the same steps each time; `python tests/pictures.py FOLDER` writes them to look at.
"""
import io
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, features

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
SHOWN = np.kron(np.array([[RED, GREEN, BLUE], [BLACK, WHITE, (128, 64, 32)]], np.uint8), np.ones((8, 8, 1), np.uint8))
GREY = np.array([[0, 1, 128], [64, 254, 255]], np.uint8)
RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)  # 16 bits
SHADES = np.arange(256, dtype=np.uint8).reshape(16, 16)  # the same ramp in 8 bits
INK = np.array([[[0, 0, 0, 255], [0, 0, 0, 0]], [[0, 0, 0, 128], [200, 100, 0, 51]]], np.uint8)  # black, and clear
INK_ON_WHITE = np.array([[BLACK, WHITE], [(127, 127, 127), (244, 224, 204)]], np.uint8)
INK_ON_RED = np.array([[BLACK, RED], [(127, 0, 0), (244, 20, 0)]], np.uint8)


@dataclass
class Kind:
    "One picture, and what it shows."
    name: str  # of its file
    item: object  # encoded bytes, an array or a PIL image
    right: np.ndarray  # (H, W, 3) of uint8
    tolerance: int = 0  # shades, for lossy formats
    changed: bool = False  # whether a bare `convert("RGB")` shows other pixels


def encode(image, format, **options):
    "Bytes of an image file."
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file := io.BytesIO(), format, **options)
    return file.getvalue()


def ycck(inks):
    "A CMYK image as a YCCK JPEG: cyan, magenta and yellow as luma and chroma. Pillow inverts, Adobe's mark says which."
    *colours, black = (np.asarray(band) for band in inks.split())
    ycc = Image.fromarray(np.stack(colours, -1)).convert("YCbCr")
    stored = np.concatenate([np.asarray(ycc), 255 - black[..., None]], -1)
    raw = bytearray(encode(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=98, subsampling=0))
    raw[raw.index(b"Adobe") + 11] = 2  # the transform: 0 is CMYK, 2 is YCCK
    return bytes(raw)


def grey(shades):
    "One shade a pixel as RGB."
    return np.repeat(np.asarray(shades, np.uint8)[..., None], 3, -1)


def png(rows, depth, colour_type, before=(), after=()):
    "A PNG chunk by chunk, for what Pillow does not write; `rows` are packed bytes of one row each."
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = len(rows[0]) * 8 // depth // samples
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", head), *before, (b"IDAT", pixels), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def tiff(pixels, width, height, bits, photometric=1, sample_format=1, order="<", samples=1, extra=()):
    "An uncompressed TIFF tag by tag, for what Pillow does not write."
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, None),
            (277, 3, samples), (278, 3, height), (279, 4, len(pixels)), *extra, (339, 3, sample_format)]
    start = 8 + 2 + 12 * len(tags) + 4
    body, place, values = b"", start, {}
    for tag, _, value in tags:  # values of more than four bytes lie behind the tags
        if isinstance(value, tuple):
            data = struct.pack(f"{order}{len(value)}H", *value)
            values[tag] = (len(value), place if len(data) > 4 else None, data)
            if len(data) > 4:
                body, place = body + data, place + len(data)
    entries = b""
    for tag, kind, value in tags:
        count, offset, data = values.get(tag, (1, None, None))
        number = place if value is None else offset if offset is not None else value
        packed = struct.pack(order + "I", number)
        if data is not None and offset is None:
            packed = data.ljust(4, b"\0")
        elif kind == 3 and offset is None:
            packed = struct.pack(order + "HH", number, 0)
        entries += struct.pack(order + "HHI", tag, kind, count) + packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "IH", 8, len(tags)) + entries + struct.pack(order + "I", 0)
    return head + body + pixels


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def lying(shown, orientation):
    "The pixels that a file of this EXIF orientation stores, so that it shows `shown`."
    store = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
             5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
             7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}
    return np.ascontiguousarray(store[orientation](shown))


def plain():
    "Kinds that a bare conversion shows right, too."
    image, palette = Image.fromarray(SHOWN), Image.fromarray(SHOWN).quantize(6)
    for ending, format, options in [
            ("png", "PNG", {}), ("bmp", "BMP", {}), ("dib", "DIB", {}), ("tif", "TIFF", {}),
            ("webp", "WEBP", dict(lossless=True)),
            ("ppm", "PPM", {}), ("tga", "TGA", {}), ("pcx", "PCX", {}), ("sgi", "SGI", {}), ("qoi", "QOI", {}),
            ("jp2", "JPEG2000", {}), ("lzw.tiff", "TIFF", dict(compression="tiff_lzw"))]:
        yield Kind(f"plain.{ending}", encode(image, format, **options), SHOWN)
    yield Kind("plain.jpg", encode(image, "JPEG", quality=98, subsampling=0), SHOWN, 4)
    if features.check("avif"):
        yield Kind("plain.avif", encode(image, "AVIF", quality=95, subsampling="4:4:4"), SHOWN, 8)
    yield Kind("palette.png", encode(palette, "PNG"), SHOWN)
    yield Kind("plain.gif", encode(palette, "GIF"), SHOWN)
    yield Kind("grey.png", encode(GREY, "PNG"), grey(GREY))
    yield Kind("grey.pgm", encode(GREY, "PPM"), grey(GREY))
    yield Kind("one-bit.png", encode(Image.fromarray(GREY > 100), "PNG"), grey((GREY > 100) * np.uint8(255)))
    yield Kind("one-bit.tif", encode(Image.fromarray(GREY > 100), "TIFF"), grey((GREY > 100) * np.uint8(255)))
    yield Kind("two-bit.png", png([b"\x1b"], 2, 0), grey([[0, 85, 170, 255]]))
    yield Kind("white-is-zero.tif", tiff(GREY.tobytes(), 3, 2, 8, photometric=0), grey(255 - GREY))
    yield Kind("deep-colour.png", png([struct.pack(">6H", 65535, 0, 32896, 257, 65535, 0)], 16, 2),
               np.array([[(255, 0, 128), (1, 255, 0)]], np.uint8))
    inks = Image.fromarray(np.array([[(255, 0, 0, 0), (0, 255, 0, 0)], [(0, 0, 0, 255), (0, 0, 0, 0)]], np.uint8)
                           .repeat(8, 0).repeat(8, 1), "CMYK")
    shown = np.array([[(0, 255, 255), (255, 0, 255)], [BLACK, WHITE]], np.uint8).repeat(8, 0).repeat(8, 1)
    yield Kind("cmyk.jpg", encode(inks, "JPEG", quality=98, subsampling=0), shown, 4)  # inverted, as Adobe's
    yield Kind("ycck.jpg", ycck(inks), shown, 6)
    yield Kind("cmyk.tif", encode(inks, "TIFF"), shown)
    yield Kind("ycbcr.tif", encode(image.convert("YCbCr"), "TIFF"), SHOWN, 3)
    yield Kind("lab.tif", encode(Image.new("LAB", (2, 2), (128, 128, 128)), "TIFF"),
               np.full((2, 2, 3), 119, np.uint8), 2)
    yield Kind("as-an-array", SHOWN, SHOWN)
    yield Kind("as-a-grey-array", GREY, grey(GREY))
    yield Kind("as-hsv", image.convert("HSV"), SHOWN, 3)


def turned():
    "Lying files whose EXIF says how to turn them."
    for n in range(1, 9):
        stored = lying(SHOWN, n)
        yield Kind(f"turned-{n}.jpg", encode(stored, "JPEG", quality=98, subsampling=0, exif=exif(n)), SHOWN, 4, n > 1)
        yield Kind(f"turned-{n}.png", encode(stored, "PNG", exif=exif(n)), SHOWN, changed=n > 1)
        yield Kind(f"turned-{n}.webp", encode(stored, "WEBP", lossless=True, exif=exif(n)), SHOWN, changed=n > 1)
        yield Kind(f"turned-{n}.tif", encode(stored, "TIFF", exif=exif(n)), SHOWN)  # Pillow turns them
        if features.check("avif"):
            encoded = encode(stored, "AVIF", quality=95, subsampling="4:4:4", exif=exif(n))
            yield Kind(f"turned-{n}.avif", encoded, SHOWN, 8, n > 1)
    two = np.array([[BLACK, (9, 9, 9)]], np.uint8)
    late = png([b"\0\x09"], 8, 0, after=[(b"eXIf", exif(2).tobytes()[6:])])
    yield Kind("late-exif.png", late, np.fliplr(two), changed=True)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    yield Kind("xmp.jpg", encode(lying(SHOWN, 3), "JPEG", quality=98, subsampling=0, xmp=xmp), SHOWN, 4, True)
    encoded = encode(SHOWN, "JPEG", quality=98, subsampling=0, exif=b"Exif\0\0nonsense")
    yield Kind("damaged-exif.jpg", encoded, SHOWN, 4)
    yield Kind("turned-9.png", encode(SHOWN, "PNG", exif=exif(9)), SHOWN)


def deep():
    "Files of more than 8 bits."
    shades, swapped = grey(SHADES), RAMP.astype(">u2").tobytes()
    little, twelve = RAMP.astype("<u2").tobytes(), np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(16, 16)
    yield Kind("ramp.png", encode(RAMP, "PNG"), shades, changed=True)
    yield Kind("ramp.tif", encode(RAMP, "TIFF"), shades, changed=True)
    yield Kind("ramp.pgm", encode(RAMP, "PPM"), shades, changed=True)
    yield Kind("ramp.jp2", encode(RAMP, "JPEG2000"), shades, changed=True)
    yield Kind("ramp-little-endian.tif", tiff(little, 16, 16, 16), shades, changed=True)
    yield Kind("ramp-big-endian.tif", tiff(swapped, 16, 16, 16, order=">"), shades, changed=True)
    yield Kind("ramp-white-is-zero.tif", tiff(little, 16, 16, 16, photometric=0), 255 - shades, changed=True)
    bits = np.unpackbits(twelve.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, 4:]
    yield Kind("ramp-12-bits.tif", tiff(np.packbits(bits).tobytes(), 16, 16, 12), shades, changed=True)
    half = grey((RAMP // 2 / 257 + 0.5).astype(np.uint8))
    yield Kind("half-bright.png", encode(RAMP // 2, "PNG"), half, changed=True)
    yield Kind("ramp-as-an-array", RAMP, shades, changed=True)
    key = png([struct.pack(">2H", 0x1234, 65535)], 16, 0, [(b"tRNS", struct.pack(">H", 0x1234))])
    yield Kind("ramp-key.png", key, grey([[255, 255]]))  # a bare conversion fails


def own_range():
    "Files of 32 bits, which are scaled by their own smallest and largest value."
    shades, whole = grey(SHADES), SHADES.astype(np.int32) * 1000
    unsigned = SHADES.astype(np.uint32) * 16843009  # up to 2^32 - 1
    yield Kind("integers.tif", encode(whole - 70_000, "TIFF"), shades, changed=True)
    yield Kind("unsigned.tif", tiff(unsigned.astype("<u4").tobytes(), 16, 16, 32), shades, changed=True)
    yield Kind("signed-16.tif", tiff((SHADES.astype("<i2") - 100).tobytes(), 16, 16, 16, sample_format=2), shades,
               changed=True)
    yield Kind("floats.tif", encode(SHADES.astype(np.float32) / 255, "TIFF"), shades, changed=True)
    large = ((SHADES - 127.5) * 2e36).astype(np.float32)
    yield Kind("large-floats.tif", encode(large, "TIFF"), shades, changed=True)
    yield Kind("floats-as-an-array", SHADES.astype(np.float32) * 3 - 1, shades, changed=True)


def transparent():
    "Files with transparent parts; on white."
    ink = Image.fromarray(INK)
    for ending, format, options in [
            ("png", "PNG", {}), ("webp", "WEBP", dict(lossless=True, exact=True)), ("tif", "TIFF", {}),
            ("jp2", "JPEG2000", {}), ("tga", "TGA", {}), ("qoi", "QOI", {}), ("sgi", "SGI", {})]:
        yield Kind(f"ink.{ending}", encode(ink, format, **options), INK_ON_WHITE, changed=True)
    yield Kind("ink.ico", encode(ink, "ICO", sizes=[(2, 2)]), INK_ON_WHITE, changed=True)
    premultiplied = INK.copy()
    premultiplied[..., :3] = np.round(INK[..., :3] * (INK[..., 3:] / 255))
    extra = [(338, 3, 1)]
    encoded = tiff(premultiplied.tobytes(), 2, 2, (8, 8, 8, 8), 2, (1, 1, 1, 1), samples=4, extra=extra)
    yield Kind("premultiplied.tif", encoded, INK_ON_WHITE, 1, True)
    yield Kind("as-RGBa", Image.frombytes("RGBa", (2, 2), premultiplied.tobytes()), INK_ON_WHITE, 1, True)
    two = np.array([[0, 100]], np.uint8)
    shade = np.stack([two, np.array([[0, 255]], np.uint8)], -1)
    yield Kind("grey-alpha.png", encode(Image.fromarray(shade, "LA"), "PNG"), grey([[255, 100]]), changed=True)
    yield Kind("as-La", Image.fromarray(shade, "LA").convert("La"), grey([[255, 100]]))
    yield Kind("as-an-array-of-4", INK, INK_ON_WHITE, changed=True)
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([*BLACK, *RED, *BLUE])
    on_white = np.array([[WHITE, RED, (127, 127, 255)]], np.uint8)
    yield Kind("palette-bytes.png", encode(palette, "PNG", transparency=bytes([0, 255, 128])), on_white, changed=True)
    one = np.array([[WHITE, RED, BLUE]], np.uint8)
    yield Kind("palette-index.png", encode(palette, "PNG", transparency=0), one, changed=True)
    yield Kind("clear.gif", encode(palette, "GIF", transparency=0), one, changed=True)
    with_alpha = palette.copy()
    with_alpha.info["transparency"] = bytes([0, 255, 128])
    yield Kind("as-PA", with_alpha.convert("RGBA").convert("PA"), on_white, 1, True)
    yield Kind("key.png", png([b"\x10\xff"], 8, 0, [(b"tRNS", b"\0\x10")]), grey([[255, 255]]), changed=True)
    yield Kind("one-bit-key.png", png([b"\x60"], 1, 0, [(b"tRNS", b"\0\0")]), grey([[255] * 8]), changed=True)
    yield Kind("two-bit-key.png", png([b"\x1b"], 2, 0, [(b"tRNS", b"\0\1")]), grey([[0, 255, 170, 255]]), changed=True)
    colours = [(b"tRNS", struct.pack(">3H", 1, 2, 3))]
    yield Kind("colour-key.png", png([bytes([1, 2, 3, 1, 2, 4])], 8, 2, colours),
               np.array([[WHITE, (1, 2, 4)]], np.uint8), changed=True)
    colours = [(b"tRNS", struct.pack(">3H", 0x1234, 0x1234, 0x1234))]
    yield Kind("deep-colour-key.png", png([struct.pack(">6H", *[0x1234] * 3, 65535, 0, 65535)], 16, 2, colours),
               np.array([[WHITE, (255, 0, 255)]], np.uint8), changed=True)
    if features.check("avif"):
        blocks, shown = INK.repeat(8, 0).repeat(8, 1), INK_ON_WHITE.repeat(8, 0).repeat(8, 1)
        encoded = encode(blocks, "AVIF", quality=100, subsampling="4:4:4")
        yield Kind("ink.avif", encoded, shown, 8, True)
    opaque = INK.copy()
    opaque[..., 3] = 255
    yield Kind("opaque.png", encode(opaque, "PNG"), opaque[..., :3])
    opaque[..., 3] = 0
    yield Kind("unused-alpha.tga", encode(opaque, "TGA"), opaque[..., :3])
    frame = bytearray(encode(Image.fromarray(np.zeros((1, 2), np.uint8), "P"), "GIF"))
    frame[6:10] = struct.pack("<HH", 3, 2)  # a canvas larger than its first frame
    shown = np.full((2, 3, 3), 255, np.uint8)
    shown[0, :2] = 0
    yield Kind("partial.gif", bytes(frame), shown, changed=True)


def animated():
    "Files of several frames, of which the first one counts."
    first, second = Image.fromarray(SHOWN), Image.new("RGB", SHOWN.shape[1::-1], "magenta")
    more = dict(save_all=True, append_images=[second])
    yield Kind("pages.tif", encode(first, "TIFF", **more), SHOWN)
    yield Kind("frames.gif", encode(first.quantize(6), "GIF", **more), SHOWN)
    yield Kind("frames.webp", encode(first, "WEBP", lossless=True, **more), SHOWN)
    yield Kind("frames.png", encode(first, "PNG", **more), SHOWN)
    yield Kind("default-image.png", encode(first, "PNG", default_image=True, **more), SHOWN)
    yield Kind("two.mpo", encode(first, "MPO", quality=98, subsampling=0, **more), SHOWN, 4)
    if features.check("avif"):
        yield Kind("frames.avif", encode(first, "AVIF", quality=95, subsampling="4:4:4", **more), SHOWN, 8)


def kinds():
    "All of them."
    return [*plain(), *turned(), *deep(), *own_range(), *transparent(), *animated()]


def refused():
    "Name and bytes of files that are refused, and a part of the reason."
    flat = np.full((4, 4), 7, np.float32)
    missing, infinite = flat.copy(), flat.copy()
    missing[0, 0], infinite[0, 0] = np.nan, np.inf
    picture = np.random.RandomState(0).randint(0, 256, (16, 16, 3), np.uint8)
    yield "constant.tif", encode(flat, "TIFF"), "all its values are 7"
    yield "nan.tif", encode(missing, "TIFF"), "NaN or infinite"
    yield "infinite.tif", encode(infinite, "TIFF"), "NaN or infinite"
    yield "script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "cannot identify"
    yield "empty.png", b"", "cannot identify"
    yield "text.jpg", b"not an image", "cannot identify"
    for format in "PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", *["AVIF"] * features.check("avif"):
        yield f"truncated.{format.lower()}", encode(picture, format)[:200 if format != "AVIF" else 400], ""
    bomb = png([bytes(1)], 8, 0)
    for side, reason in (11_000, "PIL.Image.MAX_IMAGE_PIXELS"), (30_000, "decompression bomb"):
        yield f"bomb-{side}.png", bomb[:16] + struct.pack(">II", side, side) + bomb[24:29] + struct.pack(
            ">I", zlib.crc32(bomb[12:16] + struct.pack(">II", side, side) + bomb[24:29])) + bomb[33:], reason


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds():
        if isinstance(kind.item, bytes):
            (folder / kind.name).write_bytes(kind.item)
    for name, encoded, _ in refused():
        (folder / name).write_bytes(encoded)
