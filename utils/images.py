"""Decode image files, and hash them as git does."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow has decoders that run other programs (Ghostscript for PostScript): these only.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# 16-bit grey has modes of its own. Of 16-bit colour, as in one of the challenge's
# files, Pillow takes the upper 8 bits.
MODES = ("L", "LA", "P", "RGB", "RGBA")
MAX_PIXELS = 2**26  # more than a film scanned at 50 µm; Pillow only warns at 2**26.4
TIFF_SAMPLE_FORMAT = 339  # the tag's number; 1 is unsigned, and the default
REMEDY = "Remedy: export it as 8-bit PNG, or remove it from its folder."


class ImageError(ValueError):
    """A file that cannot be read; the message names the file and the remedy."""


def read_image(path: str | Path, size: int = 224) -> np.ndarray:
    """Read an image upright, resized without keeping its aspect ratio.

    Transparent images are laid over black, the background of an X-ray.

    Returns
    -------
    uint8 array [size, size, 3]

    Raises
    ------
    ImageError
        If the file is not a single 8-bit grey, RGB, RGBA or palette image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_format(image)
            upright = ImageOps.exif_transpose(image)
            opaque = _over_black(upright)
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise ImageError(f"{path} is empty or not {formats}. {REMEDY}") from error
    except Exception as error:  # on broken bytes the decoders raise nearly anything
        raise ImageError(f"{path} cannot be read: {error}. {REMEDY}") from error
    # Pillow widens the filter when it shrinks, so this does not alias.
    resized = opaque.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(resized)


def _check_format(image: Image.Image) -> None:
    """Refuse all but single images of 8 bits a channel."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has more than {MAX_PIXELS:,} pixels")
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("it has several pages or frames")
    if image.mode not in MODES:
        raise ValueError(f"it is not 8-bit grey, RGB, RGBA or palette ({image.mode})")
    if image.format == "TIFF":
        sample_formats = image.tag_v2.get(TIFF_SAMPLE_FORMAT, (1,))
        if set(sample_formats) != {1}:
            raise ValueError("its values are signed or floating-point")


def _over_black(image: Image.Image) -> Image.Image:
    """The image in RGB, transparent pixels over black."""
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        black = Image.new("RGBA", layer.size, "black")
        image = Image.alpha_composite(black, layer)
    return image.convert("RGB")


def read_images(paths: Iterable[str | Path], size: int = 224) -> np.ndarray:
    """Read n images as `read_image` does: uint8 [n, size, size, 3], in order."""
    parallel = Parallel(n_jobs=-1, prefer="threads")
    images = parallel(delayed(read_image)(path, size) for path in paths)
    return np.array(images, dtype=np.uint8).reshape(-1, size, size, 3)


def git_blob_sha1(path: str | Path) -> str:
    """The hash (40 hex digits) by which git knows the content of a file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}. {REMEDY}") from error
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
