"""Download from a real HTTP server on this machine: good, broken and hostile ones."""

import io
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from utils import download
from utils.download import DownloadError, fetch_challenge
from utils.images import git_blob_sha1

FILES = {
    "two/train/covid/a.png": b"first image",
    "two/test/normal/b.jpeg": b"second image",
    "all/train/pneumonia_vir/c.jpeg": b"third image",
}
MANIFEST = {path: git_blob_sha1(content) for path, content in FILES.items()}


def zipped(files, *extra):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(f"repository-abc/{path}", content)
        for info in extra:
            archive.writestr(info, b"evil")
    return stream.getvalue()


GOOD = zipped(FILES | {"README.md": b"not wanted", "all/train/pneumonia_vir/desktop.ini": b"nor this"})


def symlink(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.fixture
def server():
    """Local server: `server.pages` maps a path to bytes, and `server.cut` names pages that break off."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            body = self.server.pages.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            if self.path not in self.server.chunkless:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path in self.server.cut else body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.pages, running.cut, running.chunkless, running.asked = {}, set(), set(), []
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server, cache, *names, progress=False):
    return fetch_challenge(cache, MANIFEST, [server.url + name for name in names], progress)


def test_good_archive_gives_exactly_the_manifest_s_files(server, tmp_path):
    server.pages["/good.zip"] = GOOD
    root = fetch(server, tmp_path / "cache", "/good.zip")
    written = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert written == FILES
    assert list((tmp_path / "cache").iterdir()) == [root]  # neither archive nor temporary folder stays


def test_folder_appears_all_at_once(server, tmp_path, monkeypatch):
    server.pages["/good.zip"] = GOOD
    monkeypatch.setattr(download.os, "replace", None)  # a move file by file would need it
    assert (fetch(server, tmp_path, "/good.zip") / "two/train/covid/a.png").is_file()


def test_what_is_there_is_not_downloaded_again(server, tmp_path):
    server.pages["/good.zip"] = GOOD
    assert fetch(server, tmp_path, "/good.zip") == fetch(server, tmp_path, "/good.zip")
    assert server.asked == ["/good.zip"]


def test_deleted_file_is_restored_and_nothing_else_touched(server, tmp_path):
    server.pages["/good.zip"] = GOOD
    root = fetch(server, tmp_path, "/good.zip")
    (root / "two/train/covid/a.png").unlink()
    for name in ("two/train/covid/mine.png", "two/test/normal/b.jpeg"):
        (root / name).write_bytes(b"own")
    fetch(server, tmp_path, "/good.zip")
    assert (root / "two/train/covid/a.png").read_bytes() == FILES["two/train/covid/a.png"]
    for name in ("two/train/covid/mine.png", "two/test/normal/b.jpeg"):
        assert (root / name).read_bytes() == b"own"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "HTTP status 404"),
        (b"<html>quota exceeded</html>", "not a zip file"),
        (GOOD[:-40], "not a zip file"),
        (zipped({}), "3 of 3 files are missing"),
        (
            zipped(dict(list(FILES.items())[:2])),
            "1 of 3 files are missing, first all/train/pneumonia_vir/c.jpeg",
        ),
        (
            zipped(FILES | {"two/train/covid/a.png": b"other"}),
            f"a.png has git blob SHA-1 {git_blob_sha1(b'other')}",
        ),
        (zipped(FILES, "../two/train/covid/a.png"), "unsafe member '../two/train/covid/a.png'"),
        (zipped(FILES, "x/../../two/train/covid/a.png"), "unsafe member"),
        (zipped(FILES, "/two/train/covid/a.png"), "unsafe member '/two/train/covid/a.png'"),
        (zipped(FILES, "C:/two/train/covid/a.png"), "unsafe member 'C:/two"),
        (zipped(FILES, "..\\two\\a.png"), "unsafe member"),
        (zipped(FILES, symlink("two/link.png")), "unsafe member 'two/link.png'"),
    ],
)
def test_bad_source_is_told_and_the_next_one_tried(body, reason, server, tmp_path):
    server.pages.update({"/good.zip": GOOD} | ({} if body is None else {"/bad.zip": body}))
    cache = tmp_path / "inner" / "cache"
    with pytest.raises(DownloadError) as caught:
        fetch(server, cache, "/bad.zip")
    message = str(caught.value)
    assert reason in message and "/bad.zip" in message and "XRAY_DATA" in message
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []  # nothing kept, nothing escaped
    assert (fetch(server, cache, "/bad.zip", "/good.zip") / "two/train/covid/a.png").is_file()


@pytest.mark.parametrize("announced", [True, False])
def test_server_that_breaks_off_in_the_middle(announced, server, tmp_path):
    server.pages.update({"/cut.zip": GOOD, "/good.zip": GOOD})
    server.cut.add("/cut.zip")
    server.chunkless |= set() if announced else {"/cut.zip"}
    with pytest.raises(DownloadError, match="broken off" if announced else "not a zip file"):
        fetch(server, tmp_path, "/cut.zip")
    assert list(tmp_path.iterdir()) == []
    assert fetch(server, tmp_path, "/cut.zip", "/good.zip").is_dir()


def test_all_reasons_are_listed_in_order(server, tmp_path):
    server.pages["/wrong.zip"] = zipped({})
    with pytest.raises(DownloadError) as caught:
        fetch(server, tmp_path, "/none.zip", "/wrong.zip")
    message = str(caught.value)
    assert message.index("404") < message.index("missing") < message.index("Remedy")


def test_nobody_listens_fails_at_once(tmp_path):
    with pytest.raises(DownloadError, match="no connection") as caught:
        fetch_challenge(tmp_path, MANIFEST, ["http://127.0.0.1:9/x.zip"], progress=False)
    assert "0x" not in str(caught.value)  # no addresses in memory: the text lands in notebooks


def test_silent_server_times_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.2))
    release = threading.Event()
    monkeypatch.setattr(server.RequestHandlerClass, "do_GET", lambda self: release.wait(5))
    with pytest.raises(DownloadError, match="no answer in time"):
        fetch(server, tmp_path, "/x.zip")
    release.set()


def test_zip_bomb_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_MEMBER", 1000)
    server.pages["/bomb.zip"] = zipped(FILES | {"two/train/covid/a.png": bytes(10**6)})
    with pytest.raises(DownloadError, match=r"a\.png is larger than 1000 bytes"):
        fetch(server, tmp_path, "/bomb.zip")


def test_interrupted_unpacking_leaves_nothing_that_looks_whole(server, tmp_path, monkeypatch):
    server.pages["/good.zip"] = GOOD
    calls = []

    def interrupted(content):
        calls.append(content)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return git_blob_sha1(content)

    monkeypatch.setattr(download, "git_blob_sha1", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, "/good.zip")
    assert len(calls) == 2 and list(tmp_path.iterdir()) == []
    assert (fetch(server, tmp_path, "/good.zip") / "two/train/covid/a.png").is_file()


def test_cache_that_cannot_be_written_is_a_reason(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    server.pages["/good.zip"] = GOOD
    with pytest.raises(DownloadError, match="File exists") as caught:
        fetch(server, tmp_path / "cache", "/good.zip")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("announced", [True, False])
def test_bar_is_on_stdout_and_can_be_silent(announced, server, tmp_path, capsys):
    server.pages["/good.zip"] = GOOD
    server.chunkless |= set() if announced else {"/good.zip"}
    fetch(server, tmp_path / "a", "/good.zip")
    assert capsys.readouterr() == ("", "")
    fetch(server, tmp_path / "b", "/good.zip", progress=True)
    out, err = capsys.readouterr()
    assert "B" in out and not err


def test_drive_without_gdown_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)
    with pytest.raises(DownloadError, match="gdown, which is not installed"):
        fetch_challenge(tmp_path, MANIFEST, ["https://drive.google.com/uc?id=x"], progress=False)


def test_drive_with_gdown(tmp_path, monkeypatch):
    class Fake:
        @staticmethod
        def download(url, output, quiet):
            assert url.endswith("id=x")
            with open(output, "wb") as file:
                file.write(GOOD)
            return output

    monkeypatch.setitem(__import__("sys").modules, "gdown", Fake)
    monkeypatch.setattr(download.requests, "head", lambda url, timeout: None)
    root = fetch_challenge(tmp_path, MANIFEST, ["https://drive.google.com/uc?id=x"], progress=False)
    assert (root / "two/train/covid/a.png").is_file()
