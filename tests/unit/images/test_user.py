"""A user's own qcow2: only the right bytes are kept, and only if they are all of the image."""

from __future__ import annotations

import hashlib
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.unit.images.certificates import certificate
from vcloud.errors import ImageError
from vcloud.images.cache import Cache
from vcloud.images.user import fetch, image_name, source_digest


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_disk(tmp_path / "debian.qcow2")


def make_disk(path: Path, *options: str) -> Path:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "16M"], check=True
    )
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_copied_and_boots_by_its_own_loader(cache: Cache, disk: Path) -> None:
    image = fetch(str(disk), sha256(disk), cache=cache)
    assert image.disk.read_bytes() == disk.read_bytes()
    assert (image.name, image.kernel, image.initrd, image.cmdline) == ("debian", None, None, "")
    assert cache.get("debian", sha256(disk)) == image


def test_a_file_without_checksum_is_known_by_its_content(cache: Cache, disk: Path) -> None:
    assert source_digest(str(disk), "") == sha256(disk)
    assert fetch(str(disk), "", cache=cache).digest == sha256(disk)


def test_a_wrong_checksum_keeps_nothing(cache: Cache, disk: Path) -> None:
    with pytest.raises(ImageError, match="wrong checksum") as failure:
        fetch(str(disk), "0" * 64, cache=cache)
    assert sha256(disk) in failure.value.hint
    assert cache.list() == ()
    assert not [path for path in cache.folder.iterdir() if path.is_dir()]


def test_a_missing_file_is_told(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        fetch(str(tmp_path / "nothing.qcow2"), "", cache=cache)


def test_an_image_that_names_a_file_of_the_host_is_refused(
    cache: Cache, disk: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "qcow2", str(overlay)],
        check=True,
    )
    outside = make_disk(tmp_path / "outside.qcow2", "-o", f"data_file={tmp_path / 'data.raw'}")
    for path in (overlay, outside):
        with pytest.raises(ImageError, match="needs another file"):
            fetch(str(path), sha256(path), cache=cache)


@pytest.mark.parametrize(
    "content",
    [b"", b"QFI", b"\0" * 512, b"<html>Not found</html>" * 10, b"KDMV\1\0\0\0" * 64, b"QFI\0" * 64],
)
def test_what_is_no_qcow2_is_refused(cache: Cache, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.qcow2"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="not a qcow2"):
        fetch(str(path), sha256(path), cache=cache)


def test_a_qcow2_that_is_cut_off_is_refused(cache: Cache, disk: Path, tmp_path: Path) -> None:
    whole, cut = disk.read_bytes(), tmp_path / "cut.qcow2"
    for length, said in ((72, "ends within its header"), (4096, "is cut off")):
        cut.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=said):
            fetch(str(cut), "", cache=cache)
    cut.write_bytes(whole)
    assert fetch(str(cut), "", cache=cache).disk.read_bytes() == whole


@pytest.mark.parametrize("name", ["folder", "pipe", "/dev/zero", "locked", "gone/x", "x" * 300])
def test_what_is_no_file_is_told_and_nobody_waits(cache: Cache, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "locked").symlink_to("locked")
    with pytest.raises(ImageError, match=r"cannot be read|not a regular file"):
        fetch(str(tmp_path / name), "0" * 64, cache=cache)


@pytest.mark.parametrize("name", ["x" * 240, "ü" * 100, "a b\nc", "..", ".hidden"])
def test_an_image_may_have_any_name_that_a_file_may_have(
    cache: Cache, disk: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"{name}.qcow2"
    disk.rename(path)
    image = fetch(str(path), "", cache=cache)
    assert cache.get(image_name(str(path)), image.digest) == image
    # A host adds as much to the names of its volumes.
    assert len(f"initrd-{image.entry}.01234567.cpio.complete") < 160


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An https server of `tmp_path` whose certificate is trusted."""
    pem = tmp_path / "server.pem"
    pem.write_bytes(certificate())
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))
    )
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `/to/ADDRESS` redirects there."""

    def do_GET(self) -> None:
        if not self.path.startswith("/to/"):
            return super().do_GET()
        self.send_response(302)
        self.send_header("Location", self.path.removeprefix("/to/"))
        return self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def test_an_address_is_fetched_once(cache: Cache, disk: Path, address: str) -> None:
    said: list[str] = []
    image = fetch(f"{address}/{disk.name}", sha256(disk), said.append, cache=cache)
    assert image.disk.read_bytes() == disk.read_bytes()
    assert said
    checksum = sha256(disk)
    disk.unlink()
    assert fetch(f"{address}/{disk.name}", checksum, cache=cache) == image


def test_a_wrong_checksum_of_an_address_keeps_nothing(
    cache: Cache, disk: Path, address: str
) -> None:
    with pytest.raises(ImageError, match="wrong checksum"):
        fetch(f"{address}/{disk.name}", "0" * 64, cache=cache)
    assert cache.list() == ()


def test_a_server_that_is_not_trusted_or_has_no_such_file_is_told(
    cache: Cache, disk: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImageError, match="404"):
        fetch(f"{address}/nothing.qcow2", sha256(disk), cache=cache)
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    with pytest.raises(ImageError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(f"{address}/{disk.name}", sha256(disk), cache=cache)


def test_a_redirection_is_followed_only_to_where_nobody_can_listen_in(
    cache: Cache, disk: Path, address: str
) -> None:
    with pytest.raises(ImageError, match="not https"):
        fetch(f"{address}/to/http://127.0.0.1/{disk.name}", sha256(disk), cache=cache)
    with pytest.raises(ImageError, match="not allowed"):
        fetch(f"{address}/to/file://{disk}", sha256(disk), cache=cache)
    assert cache.list() == ()
    assert fetch(f"{address}/to/{address}/{disk.name}", sha256(disk), cache=cache).digest == sha256(
        disk
    )


def test_an_image_that_is_too_large_is_not_kept(cache: Cache, disk: Path) -> None:
    size = disk.stat().st_size
    with pytest.raises(ImageError, match="more than"):
        fetch(str(disk), sha256(disk), cache=cache, largest=size - 1)
    assert not [path for path in cache.folder.iterdir() if path.is_dir()]
    assert fetch(str(disk), sha256(disk), cache=cache, largest=size).digest == sha256(disk)


def test_two_who_fetch_the_same_image_at_once_get_one(cache: Cache, disk: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: fetch(str(disk), sha256(disk), cache=cache), range(4)))
    assert len(set(map(repr, images))) == 1
    assert len(cache.list()) == 1


def test_the_name_of_an_image_is_one_that_a_volume_may_have() -> None:
    assert image_name("/images/debian-13.qcow2") == "debian-13"
    assert image_name("https://images.test/get.php?name=a%20b&x=../c") == "c"
    assert image_name("https://images.test/get?name=a b") == "get-name-a-b"
