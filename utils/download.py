"""Fetch images from public mirrors, and take nothing that is not what it should be."""

import os
import re
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from .images import git_blob_sha1

SOURCES = (
    "https://github.com/randreas/Covid-Classification/archive/3bebabca8840c9d4227d75d6cac86ac9d69c06d1.zip",
    "https://github.com/jgj98/Covid-19-Neural-Network/archive/7569ced49911d2deeb97859f127a1763205c6f4d.zip",
    "https://drive.google.com/uc?id=1Y88tgqpQ1Pjko_7rntcPowOJs_QNOrJ-",
    "https://drive.google.com/uc?id=1coM7x3378f-Ou2l6Pg2wldaOI7Dntu1a",
)
TIMEOUT = (5, 30)  # seconds to connect, and between two pieces of the body: no route must show at once
MAX_MEMBER = 20 * 2**20  # bytes; the largest image has 2.5 MB, and a zip bomb ends here
MAX_ARCHIVE = 4 * 2**30  # bytes, packed and unpacked: neither a bomb nor a body without end fills the disk


class DownloadError(RuntimeError):
    """The images cannot be had; the message names each source, its reason and the remedy."""


def _fetch(url: str, file: Path, progress: bool) -> None:
    """Download one archive to `file`."""
    if url.startswith("https://drive.google.com/"):
        try:
            import gdown  # optional: Drive puts a confirmation page before large files
        except ImportError:
            raise DownloadError("needs the package gdown, which is not installed") from None
        requests.head(url, timeout=TIMEOUT)  # gdown itself has no timeout
        try:
            found = gdown.download(url, str(file), quiet=True)
        except Exception as error:  # its own exceptions changed from version to version
            raise DownloadError(f"gdown failed: {type(error).__name__}") from error
        if not found:
            raise DownloadError("gdown found no file")
        return
    with requests.get(url, stream=True, timeout=TIMEOUT) as answer, open(file, "wb") as out:
        answer.raise_for_status()
        total = int(answer.headers.get("Content-Length", 0)) or None
        # On stdout: stderr is red in a notebook.
        bar = tqdm(total=total, unit="B", unit_scale=True, leave=False, file=sys.stdout, disable=not progress)
        with bar:
            for piece in answer.iter_content(2**16):
                bar.update(out.write(piece))
                if out.tell() > MAX_ARCHIVE:
                    raise DownloadError(f"sends more than {MAX_ARCHIVE} bytes")


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong, without paths of the machine or addresses in memory."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broken off in the middle"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection, or it was lost"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _check_member(info: zipfile.ZipInfo) -> None:
    """Refuse a member that could be meant to land outside the folder, whatever the manifest says of it."""
    name = info.orig_filename  # `filename` is already cleaned, differently on each platform
    if (
        name.startswith("/")
        or "\\" in name
        or "\0" in name
        or re.match("[A-Za-z]:", name)
        or ".." in name.split("/")
        or stat.S_ISLNK(info.external_attr >> 16)
    ):
        raise DownloadError(f"unsafe member {name!r} in the archive")


def _read(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with zipped.open(info) as stream:
        return stream.read(MAX_MEMBER + 1)  # what a member says of its own size is not relied on


def by_path(zipped: zipfile.ZipFile, manifest: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Pick a manifest's files by task/split/class/file, below any top folder; each must have its hash."""
    for info in zipped.infolist():
        path = "/".join(info.filename.split("/")[-4:])
        if path in manifest:
            content = _read(zipped, info)
            if len(content) > MAX_MEMBER:
                raise DownloadError(f"{info.filename} is larger than {MAX_MEMBER} bytes")
            if (actual := git_blob_sha1(content)) != manifest[path]:
                raise DownloadError(f"{path} has git blob SHA-1 {actual}, expected {manifest[path]}")
            yield path, content


def by_content(zipped: zipfile.ZipFile, manifest: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Pick a manifest's files by their hashes, which must differ, wherever they lie in the archive."""
    paths = {sha1: path for path, sha1 in manifest.items()}
    for info in zipped.infolist():
        content = _read(zipped, info)  # cut off if too large, so that its hash is unknown
        if path := paths.get(git_blob_sha1(content)):
            yield path, content


def _unpack(archive: Path, folder: Path, manifest: Mapping[str, str], pick: Callable) -> None:
    """Write the files that `pick` finds below `folder`; their names come from the manifest alone."""
    found = set()
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            _check_member(info)
        if (total := sum(info.file_size for info in zipped.infolist())) > MAX_ARCHIVE:
            raise DownloadError(f"the archive would unpack to {total} bytes, more than {MAX_ARCHIVE}")
        for path, content in pick(zipped, manifest):
            target = folder / PurePosixPath(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            found.add(path)
    if missing := sorted(set(manifest) - found):
        raise DownloadError(f"{len(missing)} of {len(manifest)} files are missing, first {missing[0]}")


def _move_in(fresh: Path, target: Path, manifest: Mapping[str, str]) -> None:
    """Move the whole folder into place at once; where one is there already, only add what it lacks."""
    try:
        os.rename(fresh, target)
    except OSError:  # left incomplete by its owner, or filled by a second notebook in the meantime
        for path in manifest:
            if not (target / path).exists():
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(fresh / path, target / path)


def fetch_files(
    target: Path,
    manifest: Mapping[str, str],
    sources: Sequence[str],
    what: str,
    remedy: str,
    pick: Callable = by_path,
    progress: bool = True,
) -> Path:
    """Download files unless they are there, verify each against its hash, and return `target`.

    The archive and the half-unpacked folder live in a temporary folder beside `target` that goes whatever
    happens; the result is moved into place only when every file of the manifest is there and right.

    Parameters
    ----------
    target : folder that will hold the files
    manifest : git blob SHA-1 by path below `target`, such as ``{"two/train/covid/x.png": "4f59…"}``
    sources : URLs of zip archives, tried in order; those of Google Drive need the package gdown
    what, remedy : for the error's text: what is fetched, and what to do without a connection
    pick : finds the manifest's files in an archive: `by_path` or `by_content`
    progress : show a bar on stdout

    Raises
    ------
    DownloadError
        Every source failed; lists each one's reason, and the remedy.
    """
    if all((target / path).is_file() for path in manifest):
        return target
    reasons = []
    for url in sources:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".incoming-", dir=target.parent) as aside:
                archive, fresh = Path(aside, "archive.zip"), Path(aside, target.name)
                _fetch(url, archive, progress)
                _unpack(archive, fresh, manifest, pick)
                _move_in(fresh, target, manifest)
            return target
        except Exception as error:  # on broken bytes zipfile and its decompressors raise nearly anything
            reasons.append(f"{url.split('/archive/')[0]}: {_reason(error)}")
    listed = "\n".join(f"  - {reason}" for reason in reasons)
    raise DownloadError(
        f"{what} could not be downloaded:\n{listed}\nRemedy: check the connection and run again, or {remedy}"
    )


def fetch_challenge(
    cache_dir: str | os.PathLike,
    manifest: Mapping[str, str],
    sources: Sequence[str] = SOURCES,
    progress: bool = True,
) -> Path:
    """Fetch the challenge's images into ``challenge/`` of the cache, and return that folder."""
    remedy = "set XRAY_DATA to a folder that holds two/ and all/, or set XRAY_DATA=phantom."
    target = Path(cache_dir) / "challenge"
    return fetch_files(target, manifest, sources, "The challenge's images", remedy, progress=progress)
