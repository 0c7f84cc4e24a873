"""Decode radiographs: a file of any usual format becomes an RGB array of one size, or an error that helps."""

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from tqdm import tqdm

# No other decoder is let near a file, whatever its name: Pillow would run Ghostscript on PostScript, say.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
DECODER_VERSION = 1  # part of the cache's name: raise it whenever the same file would decode to other pixels


class ImageError(ValueError):
    """A file that cannot be decoded; the message names the file, the cause and the remedy."""


def _bad_file(path: str | os.PathLike, cause: str) -> ImageError:
    remedy = "make it readable, restore it, or take it out of its folder"
    return ImageError(f"{os.fspath(path)} {cause}. Remedy: {remedy}.")


def git_blob_sha1(path_or_bytes: str | os.PathLike | bytes) -> str:
    """Hash a file, or its content, as git does: 40 hex digits that a public repository's blobs bear, too.

    Raises ImageError if the file cannot be read.
    """
    try:
        content = path_or_bytes if isinstance(path_or_bytes, bytes) else Path(path_or_bytes).read_bytes()
    except OSError as error:
        raise _bad_file(path_or_bytes, f"cannot be read: {error.strerror or error}") from error
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _eight_bit(image: Image.Image, is_png: bool) -> Image.Image:
    """Bring 16-bit, 32-bit and float grey (I;16, I, F) to 8 bits."""
    grey = np.asarray(image).astype(np.float64)
    # Pillow before 11 opens a 16-bit PNG as "I"; its range is known all the same.
    if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
        grey = grey / 257  # 65535 / 255: the format's whole range, so that dark films stay dark
    else:
        if not np.isfinite(grey).all():
            raise ValueError("its pixels are not all finite numbers")
        low, high = grey.min(), grey.max()
        # Values that fit 8 bits are grey levels already; a float image within 0..1 plainly is not.
        if low < 0 or high > 255 or (image.mode == "F" and high <= 1):
            grey = (grey - low) * (255 / (high - low)) if high > low else np.zeros_like(grey)
    return Image.fromarray(np.rint(grey).astype(np.uint8))


def _grey_or_rgb(image: Image.Image, is_png: bool) -> Image.Image:
    """Bring any of Pillow's modes to L or RGB.

    Transparency is composited over black, the colour of a film's background: the hidden colour under a
    transparent pixel means nothing. (The challenge's ten RGBA files are opaque throughout, so that nothing
    changes in them.)
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bit(image, is_png)
    if image.has_transparency_data:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    return image.convert("L") if image.mode in ("1", "L") else image.convert("RGB")


def _decode(path: str | os.PathLike, size: int) -> np.ndarray:
    """Decode one file; expects that DecompressionBombWarning is an error."""
    try:
        with Image.open(path, formats=FORMATS) as image:  # an animation stands at its first frame
            is_png = image.format == "PNG"
            image = _grey_or_rgb(ImageOps.exif_transpose(image), is_png)
    except Exception as error:  # on broken bytes Pillow's plugins raise nearly anything
        if isinstance(error, Image.UnidentifiedImageError):
            cause = "is empty" if os.path.getsize(path) == 0 else f"is no image ({', '.join(FORMATS)})"
        elif isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
            cause = "has far too many pixels (decompression bomb)"
        else:
            cause = f"cannot be decoded: {getattr(error, 'strerror', None) or error or type(error).__name__}"
        raise _bad_file(path, cause) from error
    # Pillow widens the filter's support when it shrinks, so that bilinear resizing does not alias here.
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR).convert("RGB"))


def read_xray(path: str | os.PathLike, size: int = 224) -> np.ndarray:
    """Read one radiograph as RGB of a fixed size; the aspect ratio is not kept.

    Parameters
    ----------
    path : file of one of `FORMATS`, in any mode; EXIF orientation is applied
    size : side of the result in pixels

    Returns
    -------
    uint8 [size, size, 3], values 0 to 255

    Raises
    ------
    ImageError
        The file is missing, unreadable, empty, truncated, no image, or has too many pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _decode(path, size)


def _load_cache(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Load cached images; None where there are none, or not what they should be: they are then replaced."""
    try:
        images = np.load(file, allow_pickle=False)
        return images if images.shape == shape and images.dtype == np.uint8 else None
    except Exception:  # absent, cut off, a pickle, half an .npz: on broken bytes NumPy raises nearly anything
        return None


def _save_cache(file: Path, images: np.ndarray) -> None:
    """Write aside, then move into place: no reader ever sees half a file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.save(stream, images, allow_pickle=False)
            os.replace(aside, file)
        finally:
            Path(aside).unlink(missing_ok=True)
    except OSError as error:  # a full disk must not cost the images that are decoded already
        warnings.warn(f"Decoded images are not cached: {error}", stacklevel=3)


def read_xrays(
    paths: Sequence[str | os.PathLike],
    size: int = 224,
    n_jobs: int = -1,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
    digests: Sequence[str] | None = None,
) -> np.ndarray:
    """Read many radiographs in parallel, once: later calls load the decoded array from the cache.

    Parameters
    ----------
    paths : n files, as for `read_xray`
    size : side of the result in pixels
    n_jobs : number of threads, -1 for all cores (Pillow releases Python's lock while it decodes)
    cache_dir : folder of the cache, or None to decode anew
    progress : show a bar on stdout
    digests : the files' `git_blob_sha1` where the caller has them, so that each file is hashed once only

    Returns
    -------
    uint8 [n, size, size, 3], in the order of `paths`

    Raises
    ------
    ImageError
        As for `read_xray`, for the first file that cannot be decoded.
    """
    cache = None
    if cache_dir is not None:
        digests = [git_blob_sha1(path) for path in paths] if digests is None else digests
        key = " ".join([f"v{DECODER_VERSION}", str(size), *digests])
        cache = Path(cache_dir) / f"xrays-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        images = _load_cache(cache, (len(paths), size, size, 3))
        if images is not None:
            return images
    images = np.empty((len(paths), size, size, 3), np.uint8)
    # The filter is set here and not in the threads: catch_warnings is not safe there.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        jobs = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
            delayed(_decode)(path, size) for path in paths
        )
        bar = tqdm(jobs, "Decoding", len(paths), leave=False, file=sys.stdout, disable=not progress)
        for position, image in enumerate(bar):
            images[position] = image
    if cache is not None:
        _save_cache(cache, images)
    return images
