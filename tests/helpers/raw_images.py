"""PNG and TIFF files written sample by sample after the specifications, rather than by a library under test."""

import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""Colour types of a PNG (PNG specification, table 11.1)."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB_TIFF = 0, 1, 2
"""Photometric interpretations of a TIFF (TIFF 6.0, section 8)."""


def chunk(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(kind + contents))


def png(levels: np.ndarray, colour_type: int, before: bytes = b"") -> bytes:
    """A PNG file of H x W (x C) samples; before: chunks before the pixels."""
    height, width = levels.shape[:2]
    samples = levels.astype(levels.dtype.newbyteorder(">"))
    lines = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 8 * levels.itemsize, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(lines))
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), before, data, chunk(b"IEND", b"")])


def tiff(
    levels: np.ndarray, photometric: int, order: str, deflate: bool = False, orientation: int = 1, planar: int = 1
) -> bytes:
    """A TIFF file of one strip of H x W (x C) samples; order: "<" little-, ">" big-endian.

    planar: 2 to say, in the header only, that each colour is stored on its own.
    """
    height, width, *channels = levels.shape
    count = channels[0] if channels else 1
    contents = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    contents = zlib.compress(contents) if deflate else contents
    contents += bytes(len(contents) % 2)
    lists = 8 + len(contents)
    sample_format = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    per_sample = struct.pack(f"{order}{2 * count}H", *[8 * levels.itemsize] * count, *[sample_format] * count)
    tags = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, count, lists if count > 2 else 8 * levels.itemsize),
        259: (3, 1, 8 if deflate else 1),
        262: (3, 1, photometric),
        273: (4, 1, 8),
        274: (3, 1, orientation),
        277: (3, 1, count),
        278: (4, 1, height),
        279: (4, 1, len(contents)),
        284: (3, 1, planar),
        339: (3, count, lists + 2 * count if count > 2 else sample_format),
    }
    entries = b"".join(
        struct.pack(order + ("HHIHH" if kind == 3 and number <= 2 else "HHII"), tag, kind, number, value, *rest)
        for tag, (kind, number, value) in tags.items()
        for rest in [[0] if kind == 3 and number <= 2 else []]
    )
    start = lists + len(per_sample)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    return magic + contents + per_sample + struct.pack(order + "H", len(tags)) + entries + bytes(4)
