"""Links in a data set, files that are no images, and what is told about both."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.data.toy import load, smooth_image, write_yaml, write_yolo
from yolorep.data.scan import count_linked
from yolorep.errors import UserError


def link(path: Path, target: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def loaded(root: Path, split: str = "train", entry: str = "") -> list[str]:
    """The images used, relative to the data set's folder."""
    yaml = write_yaml(root, f"{split}: {entry or f'images/{split}'}\nnc: 3\n")
    return [os.path.relpath(path, root) for path in load(yaml, split).paths]


OWN = ["images/train/000.png", "images/train/001.png"]
#: What -> links (where, to what), and the images found beside ``OWN``.
TREES: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "up": ([("images/train/up", "..")], []),
    "further up": ([("images/train/a/b/up", "../../../../..")], []),
    "itself": ([("images/train/here", ".")], []),
    "nowhere": ([("images/train/none", "none")], []),
    "a link to itself": ([("images/train/self", "self")], []),
    "a ring": ([("images/train/a/b", "../c"), ("images/train/c/d", "../a")], []),
    "a ring outside": ([("pool/back", "../images/train"), ("images/train/pool", "../../pool")], []),
    "a copy by link": ([("images/train/0.png", "001.png")], []),
    "its folder by link": ([("images/train/0", "../train")], []),
    "another folder": (
        [("images/train/val", "../val")],
        ["images/train/val/000.png", "images/train/val/001.png"],
    ),
    "another folder twice": (
        [("images/train/y", "../val"), ("images/train/z", "y")],
        ["images/train/y/000.png", "images/train/y/001.png"],
    ),
}


@pytest.mark.parametrize("case", TREES)
def test_a_folder_is_visited_once(case: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_yolo(root, count=2)
    write_yolo(root, count=2, split="val")
    links, more = TREES[case]
    for path, target in links:
        link(root / path, target)
    assert loaded(root) == [*OWN, *more]


def test_a_data_set_of_links_keeps_its_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images lie in one pool without labels; the splits are folders of links, whose labels lie beside the links."""
    root = tmp_path / "data"
    write_yolo(root, count=4)
    (root / "images/train").rename(tmp_path / "pool")
    for number in range(4):
        link(root / "images/train" / f"{number:03}.png", tmp_path / "pool" / f"{number:03}.png")
    annotations = load(write_yaml(root, "train: images/train\nnc: 3\n"))
    assert len(annotations) == 4
    assert len(annotations.boxes) == 1 + 2 + 3
    link(root / "images/train/again.png", tmp_path / "pool" / "000.png")
    capsys.readouterr()
    assert len(loaded(root)) == 4
    assert "1 link to images already there left out" in capsys.readouterr().out


def test_an_image_of_two_entries_is_used_once(tmp_path: Path) -> None:
    write_yolo(tmp_path, count=2)
    link(tmp_path / "images/more", "train")
    (tmp_path / "list.txt").write_text("images/train/000.png\nimages/more/000.png\nimages/train/../train/000.png\n")
    assert loaded(tmp_path, entry="[images/train, images/more, list.txt]") == OWN
    assert loaded(tmp_path, entry="list.txt") == OWN[:1]


def test_images_shared_by_splits_through_links(tmp_path: Path) -> None:
    write_yolo(tmp_path, count=3)
    for name in ("000.png", "002.png"):
        link(tmp_path / "images/val" / name, Path("../train") / name)
    yaml = write_yaml(tmp_path, "train: images/train\nval: images/val\ntest: images/train\nnc: 3\n")
    train, val, test = (load(yaml, split) for split in ("train", "val", "test"))
    assert count_linked(train, val) == 2
    assert count_linked(train, test) == 0  # of equal paths: meant so


def test_files_that_are_not_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(tmp_path, count=2)
    folder = tmp_path / "images" / "train"
    for name in ("a.svg", "b.SVG", "c.heic", "noname", "Thumbs.db", ".DS_Store", "._a.png", "a.txt", "a.xml", "a.json"):
        (folder / name).write_bytes(b"x")
    assert loaded(tmp_path) == OWN
    assert capsys.readouterr().out.count("; 4 files passed over: .svg 2, without suffix 1, .heic 1\n") == 1
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"found none in .*train; 4 files passed over: \.svg 2"):
        loaded(tmp_path)


def test_formats_that_are_images_too(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    image = Image.fromarray(smooth_image(20, 30))
    image.save(folder / "a.gif", save_all=True, append_images=[Image.new("RGB", (30, 20))])
    image.save(folder / "b.jp2")
    image.save(folder / "c.jfif", "JPEG")
    assert load(write_yaml(tmp_path, "train: images/train\nnc: 1\n")).sizes.tolist() == [[20, 30]] * 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(tmp_path, count=2)
    (tmp_path / "images/train/lost+found").mkdir(mode=0)
    assert loaded(tmp_path) == OWN
    assert "lost+found: Permission denied" in capsys.readouterr().out
