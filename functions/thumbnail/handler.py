"""A picture in, a smaller one out: PNG where it has transparency, else JPEG."""

import os
from io import BytesIO

from PIL import Image, ImageOps

# A small file can hold a huge picture; at four bytes a pixel this one needs 200 MB of memory.
Image.MAX_IMAGE_PIXELS = 50_000_000


def handler(event: bytes, context):
    size = int(os.environ.get("MAX_SIZE", "320"))
    with Image.open(BytesIO(event)) as picture:
        if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
        context.logger.info("%s, %d x %d", picture.format, picture.width, picture.height)
        picture.thumbnail((size, size))  # a JPEG is decoded at about the size that is needed
        return encode(ImageOps.exif_transpose(picture))


def encode(picture: Image.Image) -> tuple[bytes, str]:
    out = BytesIO()
    if picture.has_transparency_data:
        picture.save(out, "PNG", optimize=True)
        return out.getvalue(), "image/png"
    picture.convert("RGB").save(out, "JPEG", quality=85, optimize=True)
    return out.getvalue(), "image/jpeg"
