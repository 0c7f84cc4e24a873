"""Zip what a grader needs, the same bytes each time: tracked files, and the report's PDF if it was made."""

import argparse
import os
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPORT = Path("report/report.pdf")
TOP = "xray-classification"  # the one folder in the zip
STAMP = (2021, 1, 1, 0, 0, 0)  # of every entry, so that equal files make equal zips


def tracked(root):
    """The files below the folder `root` that git tracks, relative to it; empty where there is no git."""
    try:
        run = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [Path(os.fsdecode(name)) for name in run.stdout.split(b"\0")[:-1]]


def walked(root):
    """The files below `root` that its .gitignore (plain names and `*` only) leaves, relative to it."""
    file = root / ".gitignore"
    patterns = [".git", ".git/", *(file.read_text(encoding="utf-8").split() if file.is_file() else [])]
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not any(fnmatch(f"{name}/", pattern) for pattern in patterns)]
        for path in ((Path(folder) / name).relative_to(root) for name in names):
            if not any(fnmatch(text, x) for text in (path.name, path.as_posix()) for x in patterns):
                found.append(path)
    return found


def write(root, out):
    """Zip the files of the folder `root` to `out`, aside first, and return their names in the zip, in order.

    FileNotFoundError if a tracked file is missing, ValueError if the report is older than a notebook.
    """
    files = {path for path in tracked(root) or walked(root) if (root / path).resolve() != out.resolve()}
    if (root / REPORT).is_file():
        files.add(REPORT)
        made = (root / REPORT).stat().st_mtime
        if newer := [path.name for path in sorted(root.glob("*.ipynb")) if path.stat().st_mtime > made]:
            raise ValueError(f"{root / REPORT} is older than {newer[0]}. Run `make report`, or delete it.")
    if missing := [path for path in sorted(files) if not (root / path).is_file()]:
        raise FileNotFoundError(f"{root / missing[0]} is tracked, but missing. Restore it, or `git rm` it.")
    aside = out.with_name(f".{out.name}.part")
    with zipfile.ZipFile(aside, "w") as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(f"{TOP}/{path.as_posix()}", STAMP)
            entry.create_system = 3  # Unix, on every system: only so are modes kept
            entry.external_attr = (0o100755 if os.access(root / path, os.X_OK) else 0o100644) << 16
            archive.writestr(entry, (root / path).read_bytes(), zipfile.ZIP_DEFLATED)
    os.replace(aside, out)
    return [f"{TOP}/{path.as_posix()}" for path in sorted(files)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "submission.zip")
    out = parser.parse_args().out
    try:
        names = write(ROOT, out)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    report = "with" if f"{TOP}/{REPORT.as_posix()}" in names else "without (see `make report`)"
    print(f"{out}: {len(names)} files, {out.stat().st_size / 1e6:.1f} MB, {report} the report's PDF")
    return 0


if __name__ == "__main__":
    sys.exit(main())
