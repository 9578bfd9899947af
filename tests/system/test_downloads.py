"""Downloads and archives: the right bytes in the right place, or nothing."""

import hashlib
import io
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cnnlab.errors import DataError
from cnnlab.system.downloads import download, extract

CONTENTS = bytes(range(256)) * 9000  # more than two chunks
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENTS under /file, less than it announces under /short, and no HTTP under /noise."""

    asked: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/noise":
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
        elif self.path in ("/file", "/short", "/unannounced"):
            self.send_response(200)
            if self.path != "/unannounced":
                self.send_header("Content-Length", str(len(CONTENTS)))
            self.end_headers()
            self.wfile.write(CONTENTS[: 1000 if self.path == "/short" else None])
        else:
            self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running) -> Server:
    running.asked = []
    return running


@pytest.mark.parametrize("checksum", [SHA256, SHA256[:8], SHA256.upper()])
@pytest.mark.parametrize("name", ["file", "unannounced"])
def test_right_bytes_arrive(server, tmp_path, checksum, name):
    path = tmp_path / "new" / "file.bin"
    found = download(f"{server.address}/{name}", path, sha256=checksum, max_bytes=len(CONTENTS))
    assert found == path
    assert path.read_bytes() == CONTENTS
    assert list(path.parent.iterdir()) == [path]


def test_file_that_is_there_is_not_fetched_again(server, tmp_path):
    for _ in range(2):
        download(f"{server.address}/file", tmp_path / "file.bin", sha256=SHA256, max_bytes=1 << 24)
    assert server.asked == ["/file"]


@pytest.mark.parametrize(
    ("name", "checksum", "max_bytes", "message"),
    [
        ("file", "0" * 64, 1 << 24, f"not the expected file: SHA-256 {SHA256}, expected 0000"),
        ("file", SHA256, len(CONTENTS) - 1, f"sends more than {len(CONTENTS) - 1} bytes"),
        ("unannounced", SHA256, 5, "sends more than 5 bytes"),
        ("short", SHA256, 1 << 24, "cannot be downloaded.*1000"),
        ("short", "", 1 << 24, "cannot be downloaded.*1000"),
        ("noise", SHA256, 1 << 24, "cannot be downloaded"),
        ("absent", SHA256, 1 << 24, "cannot be downloaded: HTTP Error 404"),
    ],
)
def test_other_bytes_are_refused_and_nothing_is_left(server, tmp_path, name, checksum, max_bytes, message):
    with pytest.raises(DataError, match=message) as error:
        download(f"{server.address}/{name}", tmp_path / "file.bin", sha256=checksum, max_bytes=max_bytes)
    assert f"{server.address}/{name}" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_closed_port_is_named(tmp_path):
    with socket.socket() as unused:  # bound, so that nobody else takes it, and not listening
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(DataError, match=f"{url} cannot be downloaded.*refused"):
            download(url, tmp_path / "file.bin", sha256=SHA256, max_bytes=1 << 24)
    assert list(tmp_path.iterdir()) == []


def pack(path: Path, *members: tarfile.TarInfo | str) -> Path:
    """A tar.gz of the members; a name stands for a file that holds its name."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if isinstance(member, str):
                info.size = len(member.encode())
            tar.addfile(info, io.BytesIO(info.name.encode().ljust(info.size)))
    return path


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_plain_archive_is_unpacked(tmp_path):
    archive = pack(tmp_path / "a.tar.gz", directory("photos"), "photos/a b.jpg", "photos/rose/ü..jpg")
    extract(archive, tmp_path / "out", max_bytes=100)
    assert tree(tmp_path / "out") == {name: name for name in ("photos/a b.jpg", "photos/rose/ü..jpg")}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["good", "../evil"], r"path outside its folder \(\.\./evil\)"),
        (["good", "a/../../evil"], "path outside its folder"),
        (["good", "ABSOLUTE/evil"], "path outside its folder"),
        (["good", directory("../evil")], "path outside its folder"),
        (["good", link("evil", tarfile.SYMTYPE, "..")], r"link or device \(evil\)"),
        (["good", link("evil", tarfile.SYMTYPE, ".."), "evil/file"], "link or device"),
        (["good", link("evil", tarfile.LNKTYPE, "good")], "link or device"),
        (["good", link("evil", tarfile.LNKTYPE, "../secret")], "link or device"),
        (["good", link("evil", tarfile.FIFOTYPE, "")], "link or device"),
        (["good", "x" * 97], "holds 101 bytes, more than 100"),
    ],
)
def test_dangerous_archive_is_refused_and_nothing_is_unpacked(tmp_path, members, message):
    (tmp_path / "secret").write_text("secret")
    members = [m.replace("ABSOLUTE", str(tmp_path)) if isinstance(m, str) else m for m in members]
    archive = pack(tmp_path / "a.tar.gz", *members)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=message):
        extract(archive, tmp_path / "out", max_bytes=100)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_archive_of_just_the_allowed_size_is_unpacked(tmp_path):
    extract(pack(tmp_path / "a.tar.gz", "good", "x" * 96), tmp_path / "out", max_bytes=100)
    assert sorted(tree(tmp_path / "out")) == ["good", "x" * 96]


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:60] + b"\xff" * 60, lambda raw: b"no tar"]
)
def test_damaged_archive_is_named(tmp_path, damage):
    archive = pack(tmp_path / "a.tar.gz", *(hashlib.sha256(bytes([number])).hexdigest() for number in range(50)))
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match=r"a\.tar\.gz cannot be unpacked"):
        extract(archive, tmp_path / "out", max_bytes=1 << 20)
    assert not (tmp_path / "out").exists()


def zipped(path: Path, *members: zipfile.ZipInfo | str) -> Path:
    """A zip of the members, each of which holds its name."""
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, member if isinstance(member, str) else member.filename)
    return path


def test_zip_is_unpacked(tmp_path):
    extract(zipped(tmp_path / "a.zip", "photos/a b.png", "photos/ü..png"), tmp_path / "out", max_bytes=100)
    assert tree(tmp_path / "out") == {name: name for name in ("photos/a b.png", "photos/ü..png")}


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("../evil", r"path outside its folder \(\.\./evil\)"),
        ("/evil", "path outside its folder"),
        ("link", r"link or device \(link\)"),
        ("x" * 97, "holds 101 bytes, more than 100"),
    ],
)
def test_dangerous_zip_is_refused_and_nothing_is_unpacked(tmp_path, member, message):
    info = zipfile.ZipInfo(member)
    info.external_attr = (0o120777 if member == "link" else 0o100644) << 16
    archive = zipped(tmp_path / "a.zip", "good", info)
    with pytest.raises(DataError, match=message):
        extract(archive, tmp_path / "out", max_bytes=100)
    assert list(tmp_path.iterdir()) == [archive]


def test_damaged_zip_is_named(tmp_path):
    archive = zipped(tmp_path / "a.zip", "good", "better")
    archive.write_bytes(archive.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked"):
        extract(archive, tmp_path / "out", max_bytes=100)
