from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.data.toy import load, write_yaml, write_yolo
from yolorep.data.catalog import load_data_config
from yolorep.data.download import Download, download_all, parse_downloads
from yolorep.errors import UserError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a local server offers it."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def item(path: Path, to: str, url: str | None = None) -> Download:
    return Download(url or path.as_uri(), sha256(path), to)


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: dict[str, bytes], *, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


FILES = {"a/b.txt": b"one", "c.txt": b"two" * 1000}


@pytest.mark.parametrize("make", [zipped, tarred, partial(tarred, mode="w"), partial(tarred, mode="w:xz")])
def test_archives_are_unpacked(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", FILES)
    download_all([item(archive, "set")], tmp_path / "root")
    assert {
        str(path.relative_to(tmp_path / "root/set")): path.read_bytes()
        for path in (tmp_path / "root/set").rglob("*")
        if path.is_file()
    } == FILES
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["set"]


def test_several_archives_into_one_folder(tmp_path: Path) -> None:
    first = zipped(tmp_path / "1.zip", {"a/1.txt": b"1", "same.txt": b"old"})
    second = tarred(tmp_path / "2.tar", {"a/2.txt": b"2", "same.txt": b"new"})
    download_all([item(first, "."), item(second, ".")], tmp_path / "root")
    found = {path.name: path.read_bytes() for path in (tmp_path / "root").rglob("*.txt")}
    assert found == {"1.txt": b"1", "2.txt": b"2", "same.txt": b"new"}


def test_plain_file_over_http(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    (folder / "x.json").write_bytes(b"{}" * 700_000)
    download_all([item(folder / "x.json", "annotations/x.json", f"{url}/x.json")], tmp_path / "root")
    assert (tmp_path / "root/annotations/x.json").read_bytes() == b"{}" * 700_000


def test_wrong_checksum_keeps_nothing(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", FILES)
    wrong = Download(archive.as_uri(), "0" * 64, "set")
    with pytest.raises(UserError, match=f"expected a file with sha256 {'0' * 64}, found {sha256(archive)}"):
        download_all([wrong], tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


def test_addresses_that_do_not_answer(served: tuple[Path, str], tmp_path: Path) -> None:
    for url in (f"{served[1]}/none.zip", "http://127.0.0.1:9/x.zip", (tmp_path / "none").as_uri()):
        with pytest.raises(UserError, match="cannot be downloaded"):
            download_all([Download(url, "0" * 64, "x")], tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


def zip_with_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fine.txt", "x")
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "../../outside")
    return path


def tar_with(kind: bytes, name: str, target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("fine.txt"))
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        return path

    return make


@pytest.mark.parametrize(
    "make",
    [
        *(
            partial(make, members={"fine.txt": b"x", name: b"evil"})
            for make in (zipped, tarred)
            for name in (
                "../outside",
                "a/../../outside",
                "/tmp/yolorep-outside",
                "..\\outside",
                "C:\\outside",
                "C:outside",
            )
        ),
        zip_with_link,
        tar_with(tarfile.SYMTYPE, "link", "../../outside"),
        tar_with(tarfile.LNKTYPE, "link", "/etc/passwd"),
        tar_with(tarfile.CHRTYPE, "device", ""),
        tar_with(tarfile.FIFOTYPE, "pipe", ""),
    ],
)
def test_unsafe_archives_are_refused_whole(make: Callable[[Path], Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "archive")
    with pytest.raises(UserError, match="refused: member .* nothing was unpacked"):
        download_all([item(archive, "set")], tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "root"]
    assert not Path("/tmp/yolorep-outside").exists()


@pytest.mark.parametrize(("field", "value"), [(6, 1), (8, 99)], ids=["encrypted", "unknown compression"])
def test_zip_files_that_cannot_be_unpacked(field: int, value: int, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a": b"content"})
    content = bytearray(archive.read_bytes())
    for header, offset in ((b"PK\3\4", field), (b"PK\1\2", field + 2)):
        content[content.index(header) + offset] = value
    archive.write_bytes(content)
    with pytest.raises(UserError, match="expected a complete zip or tar archive"):
        download_all([item(archive, "set")], tmp_path / "root")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_damaged_archives(make: Callable[..., Path], tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", {"a": bytes(range(256)) * 99})
    content = bytearray(archive.read_bytes())
    if make is zipped:
        content[200:220] = bytes(20)
    else:
        content = content[: len(content) * 2 // 3]
    archive.write_bytes(content)
    with pytest.raises(UserError, match="expected a complete zip or tar archive"):
        download_all([item(archive, "set")], tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"url": "ftp://x/y"}, "download.0.url: expected an address"),
        ({"url": None}, "download.0.url"),
        ({"sha256": "abc"}, "download.0.sha256: expected 64 hexadecimal digits"),
        ({"sha256": None}, "download.0.sha256"),
        ({"to": "../x"}, "download.0.to: expected a path inside the data set"),
        ({"to": "/x"}, "download.0.to"),
        ({"to": None}, "download.0.to"),
        ({"sha255": "x"}, "download.0.sha255: unknown key (did you mean 'sha256'?)"),
    ],
)
def test_faults_of_the_list(changes: dict[str, object], fault: str) -> None:
    faults: list[str] = []
    value = [{"url": "https://x/y.zip", "sha256": "0" * 64, "to": "."} | changes]
    assert parse_downloads(value, faults) == []
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def test_only_when_asked_and_only_when_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yolo(tmp_path / "source", count=4)
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in (tmp_path / "source").rglob("*"):
            if path.suffix in (".png", ".txt"):
                out.write(path, path.relative_to(tmp_path / "source"))
    folder = tmp_path / "yaml"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yaml = write_yaml(
        folder,
        "path: set\ntrain: images/train\nnc: 3\n"
        f"download:\n- {{url: '{archive.as_uri()}', sha256: {sha256(archive)}, to: .}}\n",
    )
    with pytest.raises(UserError, match="does not exist; tried"):
        load(yaml)
    assert "pass --download" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["data.yaml"]
    load_data_config(yaml, download=True)
    assert len(load(yaml)) == 4
    archive.unlink()
    load_data_config(yaml, download=True)  # nothing is missing any more
