from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.data.toy import load, write_coco, write_yaml, write_yolo
from yolorep.data.catalog import load_data_config
from yolorep.errors import UserError

HEAD = "train: images/train\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (HEAD + "names: [a, b]\n", ("a", "b")),
        (HEAD + "names: {1: b, 0: a}\n", ("a", "b")),
        (HEAD + "names: [a, b]\nnc: 2\n", ("a", "b")),
        (HEAD + "nc: 2\n", ("class0", "class1")),
        (HEAD + "names: [1, 2.5]\n", ("1", "2.5")),
        (HEAD + "names: ['yes', \"no\"]\n", ("yes", "no")),
        # The text as it is written, whatever YAML takes it for.
        (
            HEAD + "names: [yes, no, ~, 0402, 1_000, 1:30, 1e3, 2024-01-01, 0x10]\n",
            ("yes", "no", "~", "0402", "1_000", "1:30", "1e3", "2024-01-01", "0x10"),
        ),
        (HEAD + "names: {0: on, 1: 0603}\n", ("on", "0603")),
        (HEAD + "names: {'1': dog, \"0\": cat}\n", ("cat", "dog")),
        (HEAD + "names: {0: cat, '1': dog}\n", ("cat", "dog")),
        (HEAD + "names: [a]\nroboflow: {workspace: x}\n", ("a",)),
    ],
)
def test_names(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    config = load_data_config(write_yaml(tmp_path, text))
    assert config.names == names
    assert config.num_classes == len(names)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (HEAD, ["names: missing"]),
        ("names: [a]\n", ["at least one of train, val, test"]),
        (HEAD + "names: [a]\nnc: 3\n", ["nc: expected 1", "found 3"]),
        (HEAD + "names: {0: a, 2: b}\n", ["names: expected the keys 0 to 1", "0, 2"]),
        (HEAD + "names: []\n", ["names: expected a list"]),
        (HEAD + "names: {0: a, '00': b}\n", ["names: expected the keys 0 to 1, found 0, 00"]),
        (HEAD + "names: {cat: 0, dog: 1}\n", ["names: expected the keys 0 to 1, found cat, dog"]),
        (HEAD + "names: [a, ]\nnc: 100001\n", ["nc: expected a number of classes from 1 to 100000, found 100001"]),
        (HEAD + "names: [a, [b]]\n", ["names: expected a list of class names, found ['a', ['b']]"]),
        (HEAD + "names: [a, '']\n", ["names: expected a list of class names, found ['a', '']"]),
        (HEAD + "nc: 1\nkpt_shape: [17, 4]\n", ["kpt_shape: expected [points, 2 or 3], found [17, 4]"]),
        (HEAD + "nc: 1\nkpt_shape: 17\n", ["kpt_shape: expected"]),
        (HEAD + "names: [a]\nnames: [b]\n", ["line 3 the key 'names' a second time (first in line 2)"]),
        (
            HEAD + "names: 3\nnc: x\n",
            ["names: expected a list", "nc: expected a number of classes from 1 to 100000, found 'x'"],
        ),
        (
            HEAD + "class_names: [a]\n",
            ["names: missing (a list of class names); not used: class_names (did you mean 'names'?)"],
        ),
        (HEAD + "nc: true\n", ["nc: expected a number"]),
        ("tarin: images\nval: 3\nnc: 1\n", ["tarin: unknown key", "did you mean 'train'", "val: expected a folder"]),
        ("val: {images: a, anotations: b}\n", ["val.anotations: unknown key", "'annotations'", "val.annotations"]),
        ("val: [a, 3]\nnc: 1\n", ["val: expected a folder"]),
        (HEAD + "nc: 1\npath: 7\n", ["path: expected a folder"]),
        (
            HEAD + "nc: 1\ngenerate: {trian: 3, val: x, seed: -1}\n",
            ["generate.trian", "'train'", "generate.val", "seed"],
        ),
        (HEAD + "nc: 1\npath: x\ngenerate: {train: 1}\n", ["path: expected none beside generate"]),
        (HEAD + "nc: 1\ngenerate: 3\n", ["generate: expected a mapping"]),
        (HEAD + "nc: 1\ndownload: {url: x}\n", ["download: expected a list"]),
        ("- a\n", ["expected a mapping", "found list"]),
    ],
)
def test_all_faults_in_one_line(text: str, parts: list[str], tmp_path: Path) -> None:
    path = write_yaml(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_data_config(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_relative_to_the_yaml_then_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    write_yolo(there)
    yaml = write_yaml(here, HEAD + "names: [a, b, c]\n")
    with pytest.raises(UserError) as error:
        load(yaml)
    for folder in (here, Path.cwd()):
        assert str(folder / "images" / "train") in str(error.value)
    monkeypatch.chdir(there)
    assert len(load(yaml)) == 8
    write_yolo(here, count=3)
    assert len(load(yaml)) == 3


def test_paths_as_roboflow_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``../train/images`` is the folder beside the YAML, if there is one; which one was used is told."""
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    root.mkdir()
    yaml = write_yaml(root, "train: ../images/train\nnames: [a, b, c]\n")
    write_yolo(tmp_path, count=5)
    assert len(load(yaml)) == 5
    assert capsys.readouterr().out.endswith(f"; in {tmp_path}/images/train\n")
    write_yolo(root, count=3)
    yaml = write_yaml(root, "train: ../images/train\nnames: [a, b, c]\n")
    assert len(load(yaml)) == 3
    assert capsys.readouterr().out.endswith(f"; in {root}/images/train\n")
    with pytest.raises(UserError) as error:
        load(write_yaml(root, "train: ../gone/images\nnc: 1\n"))
    assert str(error.value).endswith(f"tried {root}/gone/images, {tmp_path}/gone/images")


@pytest.mark.parametrize("entry", [r".\images\train", r"..\images\train", r"list.txt"])
def test_backslashes(entry: str, tmp_path: Path) -> None:
    write_yolo(tmp_path, count=2)
    (tmp_path / "list.txt").write_text("images\\train\\000.png\n.\\images\\train\\001.png\n")
    assert len(load(write_yaml(tmp_path, f"train: {entry}\nnc: 3\n"))) == 2
    assert len(load(write_yaml(tmp_path, f"path: .\\images\\..\ntrain: {entry}\nnc: 3\n"))) == 2


def test_keys_of_other_tools_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = "trainval: x\nnames_zh: [x]\nis_coco: false\nchannels: 3\nroboflow: {a: 1}\nvla: x\nmine: 1\n"
    path = write_yaml(tmp_path, HEAD + "names: [a]\n" + others)
    assert load_data_config(path).names == ("a",)
    told = "not used: trainval, names_zh, is_coco, channels, roboflow, vla (did you mean 'val'?), mine"
    assert capsys.readouterr().out == f"{path}: {told}\n"
    load_data_config(path, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("# 数据集\ntrain: images\nnames: [止血钳, 组织钳]\n", encoding=encoding)
    assert load_data_config(path).names == ("止血钳", "组织钳")


def test_a_home_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="~nosuchuser/x does not exist; tried "):
        load(write_yaml(tmp_path, "path: ~nosuchuser\ntrain: ~nosuchuser/x\nnc: 1\n"))


def test_path_key(tmp_path: Path) -> None:
    write_yolo(tmp_path / "set")
    for path in ("set", str(tmp_path / "set")):
        assert len(load(write_yaml(tmp_path, f"path: {path}\n" + HEAD + "nc: 3\n"))) == 8


def test_entries_may_be_folders_lists_and_both(tmp_path: Path) -> None:
    write_yolo(tmp_path, count=4)
    write_yolo(tmp_path, split="more", count=2)
    images = tmp_path / "images"
    (images / "list.txt").write_text("\ufeff./train/001.png\n\ntrain/002.png\nimages/train/003.png\n", encoding="utf-8")
    (tmp_path / "absolute.txt").write_text(f"{images}/train/000.png\n")

    def numbers(entry: str) -> list[str]:
        found = load_data_config(write_yaml(tmp_path, f"val: {entry}\nnc: 3\n")).images("val")
        return [str(Path(path).relative_to(images)) for path in found]

    assert numbers("images/list.txt") == ["train/001.png", "train/002.png", "train/003.png"]
    assert numbers("absolute.txt") == ["train/000.png"]
    assert numbers("[images/more, absolute.txt, images/more]") == ["more/000.png", "more/001.png", "train/000.png"]
    assert len(numbers("images")) == 6


def test_a_list_in_another_encoding(tmp_path: Path) -> None:
    """As a redirection of PowerShell writes it; one that is no text names byte and line."""
    write_yolo(tmp_path, count=2)
    yaml = write_yaml(tmp_path, "train: list.txt\nnc: 3\n")
    (tmp_path / "list.txt").write_text("images/train/000.png\nimages/train/001.png\n", encoding="utf-16")
    assert len(load(yaml)) == 2
    (tmp_path / "list.txt").write_bytes(b"images/train/000.png\nimages/train/\xe9.png\n")
    with pytest.raises(UserError, match="found .*list.txt \\(the byte 0xe9 in line 2, which is no UTF-8; save"):
        load(yaml)


def test_label_rule_survives_a_list_file(tmp_path: Path) -> None:
    write_yolo(tmp_path, count=4)
    (tmp_path / "list.txt").write_text("./images/train/003.png\n")
    assert len(load(write_yaml(tmp_path, "train: list.txt\nnc: 3\n")).boxes) == 3


def test_other_files_are_no_images(tmp_path: Path) -> None:
    write_yolo(tmp_path, count=2)
    for name in ("notes.txt", "._000.png", "labels.cache", "thumb.db"):
        (tmp_path / "images" / "train" / name).write_bytes(b"x")
    assert len(load(tmp_path / "data.yaml")) == 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train: empty\nnc: 1\n", ["expected images", "found none in", "empty"]),
        ("train: nothing.txt\nnc: 1\n", ["nothing.txt", "the file is empty"]),
        ("train: wrong.txt\nnc: 1\n", ["wrong.txt", "no image that exists", "first line tried as", "nowhere.jpg"]),
        (
            'train: "images\\train"\nnc: 1\n',
            ["does not exist (in double quotes, YAML takes \\t for a tab: write"],
        ),
        ("train: missing\nnc: 1\n", ["missing does not exist; tried"]),
        ("val: empty\nnc: 1\n", ["expected an entry 'train', found only val"]),
    ],
)
def test_nothing_to_read(text: str, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").write_text("\n")
    (tmp_path / "wrong.txt").write_text("nowhere.jpg\nlast.jpg\n")
    with pytest.raises(UserError) as error:
        load(write_yaml(tmp_path, text))
    for part in parts:
        assert part in str(error.value)
    assert "last.jpg" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders")
@pytest.mark.parametrize(
    "entry", ["pipe", "{images: images, annotations: pipe}", "/dev/zero", "list.txt", "images/train"]
)
def test_pipes_and_devices_are_not_read(entry: str, tmp_path: Path) -> None:
    write_yolo(tmp_path, count=1)
    (tmp_path / "list.txt").write_text("/dev/zero\npipe\n")
    for name in ("pipe", "labels/train/000.txt"):
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="a device or pipe"):
        load(write_yaml(tmp_path, f"train: {entry}\nnc: 3\n"))


def test_coco_entry(tmp_path: Path) -> None:
    config = load_data_config(write_coco(tmp_path))
    assert config.names == ("car", "cup", "zebra")
    assert config.images("val") == [str(tmp_path / "images" / f"{number}.png") for number in range(3)]


def test_a_download_script_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(tmp_path)
    text = f"{HEAD}nc: 3\ndownload: |\n  import os; os.system('touch {tmp_path}/ran')\n"
    load_data_config(write_yaml(tmp_path, text), download=True)
    assert "script is ignored" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("name", "classes"), [("coco", 80), ("coco128", 80), ("voc", 20), ("shapes", 5)])
def test_shipped_files(name: str, classes: int) -> None:
    config = load_data_config(f"data/{name}.yaml")
    assert config.num_classes == len(set(config.names)) == classes
    assert {"train", "val"} <= set(config.splits)


def test_a_missing_shipped_data_set_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="images/train2017 does not exist; tried .*datasets.*datasets"):
        load_data_config("data/coco128.yaml").images("val")
