"""Decode X-rays, fetch archives, and write a file or folder whole or not at all. Imports session of ours."""

import contextlib
import hashlib
import os
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import requests
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from tqdm import tqdm

from .session import user_path

# No other decoder is let near a file, whatever its name: Pillow would run Ghostscript on PostScript, say.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = tuple(sorted(end for end, name in Image.registered_extensions().items() if name in FORMATS))
SYSTEM = re.compile(r"(?i)(^|/)(\.|(desktop\.ini|thumbs\.db|__macosx)(/|$))")  # also hidden files
MAX_PIXELS = 2**26  # below Pillow's own limit, at which it only warns; a film scanned at 50 µm has 60 million
TIMEOUT = (5, 30)  # seconds to connect, and between two pieces of the body
MAX_MEMBER, MAX_ARCHIVE = 20 * 2**20, 4 * 2**30  # bytes, against a zip bomb and a body without end
NO_IMAGE = f"is no {', '.join(FORMATS)} of up to 16 bits (nor are DICOM and JPEG 2000 read)"
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339  # TIFF tags: 0 is white (0) or black (1); unsigned (1), signed, float
REMEDY = "Remedy: restore the file, export the picture as 8-bit PNG, or take it out of its folder."


class ImageError(ValueError):
    """A file that cannot be decoded; the message names the file, the cause and the remedy."""


class DownloadError(RuntimeError):
    """Files that cannot be had; the message names each source, its reason and the remedy."""


def list_files(root, pattern, suffixes=("",)):
    """Sorted paths below `root` of matching files that are not hidden or a system's, also of broken links."""
    found = (path.relative_to(root).as_posix() for path in root.glob(pattern) if not path.is_dir())
    return sorted(name for name in found if name.lower().endswith(suffixes) and not SYSTEM.search(name))


def _why(error):
    """The cause alone, without paths of the machine or addresses in memory."""
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS error (certificate, clock or proxy)"
    if isinstance(error, requests.RequestException) and error.response is None:
        return type(error).__name__  # such as ConnectionError, ReadTimeout
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def git_blob_sha1(path_or_bytes):
    """Hash a file, or bytes, as git does (40 hex digits); ImageError if the file cannot be read."""
    try:
        content = path_or_bytes if isinstance(path_or_bytes, bytes) else Path(path_or_bytes).read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path_or_bytes} cannot be read: {_why(error)}. {REMEDY}") from error
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _grey_or_rgb(image):
    """Bring an opened file to mode L or RGB, white bright; ValueError where what it means is not certain."""
    # Pillow's mode hides the depth, sign and polarity stored: its raw mode and TIFF's tags tell them.
    raw, tags = str(image.tile) if image.format in ("PNG", "TIFF") else "", getattr(image, "tag_v2", {})
    signed = set(tags.get(SAMPLE_FORMAT, ())) - {1}
    if image.format == "TIFF" and (signed or ";32" in raw or PHOTOMETRIC not in tags):
        raise ValueError("its grey values are signed, have 32 bits, or do not say whether 0 is black")
    image = ImageOps.exif_transpose(image)
    if deep := image.mode[0] == "I":  # scaled by the format's range, so that dark films stay dark
        top = 4095 if "I;12" in raw else 65535
        image = Image.fromarray(np.rint(np.asarray(image) / (top / 255)).astype(np.uint8))
    elif image.has_transparency_data:
        # Over black, the background of a film: the colour under a transparent pixel means nothing.
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if layer.getextrema()[3][1] == 0:
            raise ValueError("it is transparent everywhere")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer)
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    # 10 to 14 bits stored in 16 would be nearly black, but for a label or frame: hence not the maximum.
    if ";16" in raw and np.quantile(image, 0.95) < 64:
        raise ValueError("it uses less than a quarter of its 16-bit range")
    return ImageOps.invert(image) if deep and tags.get(PHOTOMETRIC) == 0 else image  # 8 bits: Pillow does


def read_xray(path, size=224):
    """Read one radiograph as uint8 [size, size, 3], upright, its aspect ratio not kept; or an ImageError."""
    try:
        with Image.open(path, formats=FORMATS) as image:  # an animation stands at its first frame
            if image.width * image.height > MAX_PIXELS:
                raise ValueError("it has far too many pixels")
            image = _grey_or_rgb(image)
    except Exception as error:  # on broken bytes Pillow's plugins raise nearly anything
        cause = f"cannot be decoded: {_why(error)}"
        if isinstance(error, Image.UnidentifiedImageError):
            cause = NO_IMAGE if os.path.getsize(path) else "is empty"
        raise ImageError(f"{os.fspath(path)} {cause}. {REMEDY}") from error
    # Pillow widens the filter's support when it shrinks, so that bilinear resizing does not alias here.
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR).convert("RGB"))


def read_xrays(paths, size=224, progress=True):
    """Read n radiographs as `read_xray` does, in threads: uint8 [n, size, size, 3], in order."""
    images = np.empty((len(paths), size, size, 3), np.uint8)
    out = Parallel(-1, return_as="generator", require="sharedmem")(delayed(read_xray)(p, size) for p in paths)
    bar = tqdm(out, "Decoding", len(paths), leave=False, file=sys.stdout, disable=not progress)
    for position, image in enumerate(bar):
        images[position] = image
    return images


@contextlib.contextmanager
def writing(path):
    """Yield a temporary Path for a file or folder that moves to `path` on success only.
    A folder that is there already, perhaps since a second process was faster, only gets what it lacks."""
    path = user_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=path.parent) as folder:
        yield (draft := Path(folder, path.name))
        try:
            os.replace(draft, path)
        except OSError:
            if not (draft.is_dir() and path.is_dir()):
                raise
            for file in filter(Path.is_file, sorted(draft.rglob("*"))):
                if not (target := path / file.relative_to(draft)).exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, target)


def _fetch(url, archive, folder, manifest, progress):
    """Download an archive, and write the manifest's files below `folder`; their hashes alone tell them."""
    with requests.get(url, stream=True, timeout=TIMEOUT) as answer, open(archive, "wb") as out:
        answer.raise_for_status()
        with tqdm.wrapattr(out, "write", leave=False, file=sys.stdout, disable=not progress) as bar:
            for piece in answer.iter_content(2**16):
                if bar.write(piece) and out.tell() > MAX_ARCHIVE:
                    raise DownloadError(f"sends more than {MAX_ARCHIVE} bytes")
    paths = {sha1: [path for path in manifest if manifest[path] == sha1] for sha1 in manifest.values()}
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            content = zipped.open(info).read(MAX_MEMBER + 1)  # what it says of its size is not relied on
            for path in paths.pop(git_blob_sha1(content), ()):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
    if missing := sorted(path for left in paths.values() for path in left):
        raise DownloadError(f"{len(missing)} of {len(manifest)} files missing or changed, first {missing[0]}")


def fetch_files(target, manifest, sources, what, remedy, progress=True):
    """Download files unless they are there, each verified by its hash, all or none; return `target`.
    manifest: git blob SHA-1 by path; sources: URLs of zip archives; what, remedy: for the DownloadError."""
    if all((target / path).is_file() for path in manifest):
        return target
    reasons = []
    for url in sources:
        try:
            with writing(target) as fresh:
                _fetch(url, fresh.with_name("archive.zip"), fresh, manifest, progress)
            return target
        except Exception as error:  # on broken bytes zipfile and its decompressors raise nearly anything
            reasons.append(f"\n  - {url.split('/archive/')[0]}: {_why(error)}")
    reasons.append(f"\nRemedy: check the connection and run again, or {remedy.removeprefix('Remedy: ')}")
    raise DownloadError(f"{what} could not be downloaded:{''.join(reasons)}")
