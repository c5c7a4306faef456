"""mnist, fashion_mnist, cifar10, cifar100, digits and folder: official layouts become rows, or one clear sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.flips import check_flips

from debeton.data.beton.images import BadImage, to_rgb
from debeton.data.raw import parts
from debeton.data.raw.fetch import Archive
from debeton.data.raw.pickles import load_pickle
from debeton.data.sources import SOURCES, Dataset, cifar, mnist
from debeton.data.sources.cifar import CIFAR10_CLASSES
from debeton.system.errors import DamagedFile, DataError, UsageError


def load(name: str, raw: Path | None = None, /, **options: object) -> Dataset:
    source = SOURCES.get(name)
    return source.load(source.request(raw, **options))


def sizes(dataset: Dataset) -> dict[str, int]:
    return {name: len(rows) for name, rows in dataset.splits.items()}


# --- MNIST and Fashion-MNIST ---------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = b"\0\0\x08" + bytes([array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def digits_of(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n * 784).reshape(n, 28, 28).astype(np.uint8), np.arange(n) % 10


def write_idx(folder: Path, zipped: bool = False, dot: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, n in (("train", 30), ("t10k", 20)):
        for kind, array in zip(("images-idx3", "labels-idx1"), digits_of(n)):
            name = f"{prefix}-{kind}-ubyte".replace("-idx", ".idx" if dot else "-idx")
            content = idx(array)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("inside", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_reads_idx_files_where_people_keep_them(tmp_path, inside, zipped):
    write_idx(tmp_path / inside, zipped)
    dataset = load("mnist", tmp_path)
    assert sizes(dataset) == {"train": 30, "test": 20}
    np.testing.assert_array_equal(dataset.splits["train"].image(17), digits_of(30)[0][17])
    assert dataset.splits["test"].label.tolist() == digits_of(20)[1].tolist()
    assert dataset.splits["train"].names[17] == "train-images[17]"


def test_mnist_reads_idx_files_spelt_with_a_dot(tmp_path):
    assert sizes(load("mnist", write_idx(tmp_path, dot=True))) == {"train": 30, "test": 20}


def test_fashion_mnist_does_not_take_torchvisions_mnist_folder(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    with pytest.raises(DataError, match="fashion_mnist: neither the IDX files"):
        load("fashion_mnist", tmp_path)


@pytest.mark.parametrize("keys", ["train_x train_y test_x test_y", "x_train y_train x_test y_test"])
def test_mnist_reads_an_npz_with_either_spelling_of_the_keys(tmp_path, keys):
    np.savez(tmp_path / "mnist.npz", **dict(zip(keys.split(), (*digits_of(30), *digits_of(20)))))
    assert sizes(load("mnist", tmp_path)) == sizes(load("mnist", tmp_path / "mnist.npz")) == {"train": 30, "test": 20}


def test_without_raw_debians_folder_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "DEBIAN", tmp_path)
    write_idx(tmp_path / "fashion-mnist", zipped=True)
    dataset = load("fashion_mnist")
    assert sizes(dataset) == {"train": 30, "test": 20}
    assert dataset.spec.classes[9] == "ankle boot"


def test_missing_mnist_is_named_with_its_place_and_its_source(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "DEBIAN", tmp_path)
    with pytest.raises(
        DataError, match=r"neither the IDX files .* in .*fashion-mnist; apt-get install dataset-fashion"
    ):
        load("fashion_mnist")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros((30, 28, 28)))[:-1], "holds 23519 bytes, its header .* promises 23520"),
        (b"<html>not found</html>", "not an IDX file of bytes: it starts with 3c68746d"),
        (b"", "it starts with nothing"),
        (idx(np.zeros((29, 28, 28))), "29 images but 30 labels"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, content, message):
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("mnist", tmp_path)


def test_a_truncated_gzip_and_a_missing_file_are_named(tmp_path):
    write_idx(tmp_path, zipped=True)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is not a whole gzip file"):
        load("mnist", tmp_path)
    labels.unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.* is missing in"):
        load("mnist", tmp_path)


def test_a_damaged_npz_and_absent_keys_are_named(tmp_path):
    np.savez(tmp_path / "mnist.npz", train_x=digits_of(30)[0])
    with pytest.raises(DataError, match="has no train_y, test_x, test_y; it has train_x"):
        load("mnist", tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match=r"mnist\.npz is not a readable \.npz file"):
        load("mnist", tmp_path)


# --- digits --------------------------------------------------------------------------------------------------


def test_digits_hold_out_the_last_fifth_of_each_class():
    dataset = load("digits")
    assert sizes(dataset) == {"train": 1438, "test": 359}
    assert np.bincount(dataset.splits["test"].label).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    image = dataset.splits["train"].image(0)
    assert image.shape == (28, 28)
    assert image.dtype == np.uint8
    assert image.max() > 200


# --- CIFAR ---------------------------------------------------------------------------------------------------


def cifar10_files() -> dict[str, bytes]:
    """Write small official batches: 4 images each, the red plane of image i is all i."""
    files = {"batches.meta": pickle.dumps({b"label_names": [name.encode() for name in CIFAR10_CLASSES]}, 2)}
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = np.zeros((4, 3, 32, 32), np.uint8)
        data[:, 0] = np.arange(4 * k, 4 * k + 4)[:, None, None]
        files[name] = pickle.dumps({b"data": data.reshape(4, 3072), b"labels": [0, 3, 6, 9]}, 2)
    return files


def write_cifar10(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True)
    for name, content in (files or cifar10_files()).items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in cifar10_files().items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def check_cifar10(dataset: Dataset) -> None:
    assert sizes(dataset) == {"train": 20, "test": 4}
    assert dataset.spec.classes == CIFAR10_CLASSES
    image = dataset.splits["train"].image(7)
    assert image.shape == (32, 32, 3)
    assert image[5, 6].tolist() == [7, 0, 0]
    assert dataset.splits["train"].label[:5].tolist() == [0, 3, 6, 9, 0]


def test_cifar10_reads_the_official_batches_and_their_archive(tmp_path):
    folder = write_cifar10(tmp_path / "a" / "cifar-10-batches-py")
    archive = write_archive(tmp_path / "cifar-10-python.tar.gz")
    for raw in (folder, folder.parent, archive, tmp_path):
        check_cifar10(load("cifar10", raw))


def test_cifar100_reads_its_fine_labels(tmp_path):
    names = [f"class{k:02}".encode() for k in range(100)]
    batch = pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [0, 42, 99], b"coarse_labels": []}, 2)
    write_cifar10(
        tmp_path / "cifar-100-python",
        {"meta": pickle.dumps({b"fine_label_names": names}, 2), "train": batch, "test": batch},
    )
    dataset = load("cifar100", tmp_path)
    assert sizes(dataset) == {"train": 3, "test": 3}
    assert dataset.spec.num_classes == 100
    assert dataset.splits["test"].label.tolist() == [0, 42, 99]


def test_a_missing_or_truncated_batch_is_named(tmp_path):
    folder = write_cifar10(tmp_path / "cifar-10-batches-py")
    batch = folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:500])
    with pytest.raises(DataError, match="data_batch_3 cannot be read as a pickle of plain data"):
        load("cifar10", tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing in"):
        load("cifar10", tmp_path)


def test_a_truncated_archive_is_named(tmp_path):
    archive = write_archive(tmp_path / "cifar-10-python.tar.gz")
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is not a whole \.tar\.gz file"):
        load("cifar10", tmp_path)


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_malicious_pickle_is_refused_and_its_code_does_not_run(tmp_path):
    files = cifar10_files() | {"test_batch": pickle.dumps({b"data": Malicious(tmp_path / "ran"), b"labels": []})}
    write_cifar10(tmp_path / "cifar-10-batches-py", files)
    with pytest.raises(DataError, match=r"test_batch cannot be read as a pickle of plain data: it wants .*not data"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_survives_the_restricted_unpickler_in_every_protocol(protocol):
    value = {b"a": [1, 2.5, None, "x"], "s": {1}, "b": b"\0\xff", "n": np.arange(6).reshape(2, 3), "f": np.float32(2)}
    loaded = load_pickle(pickle.dumps(value, protocol), "x", encoding="latin1")
    np.testing.assert_array_equal(loaded.pop("n"), value.pop("n"))
    assert loaded == value


def test_a_batch_that_python_2_wrote_with_numpy_1_is_read():
    batch = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\x03\x04\xfftbU\x06labelsq\x08]q\t(K\x03K\x05eu."
    )
    for encoding, name in (("bytes", bytes), ("latin1", lambda text: text.decode())):
        loaded = load_pickle(batch, "x", encoding)
        assert loaded[name(b"labels")] == [3, 5]
        assert loaded[name(b"data")].dtype == np.uint8
        assert loaded[name(b"data")].tolist() == [[0, 1, 2], [3, 4, 255]]


def test_python_2_text_stays_bytes():
    assert load_pickle(b"(dp0\nS'data'\np1\nI1\ns.", "x") == {b"data": 1}


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "numpy.load", "numpy.core.multiarray.fromfile"])
def test_names_that_are_not_data_are_refused(name):
    module, _, function = name.rpartition(".")
    with pytest.raises(DataError, match="not data"):
        load_pickle(f"c{module}\n{function}\n(S'x'\ntR.".encode(), "x")


def png(value: int, size: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (value, 0, 0)).save(stream, "png")
    return stream.getvalue()


def class_folder_files(classes: tuple[str, ...] = CIFAR10_CLASSES) -> dict[str, bytes]:
    return {
        f"{split}/{name}/{i}.png": png(10 * k + i)
        for split, n in (("train", 2), ("test", 1))
        for k, name in enumerate(classes)
        for i in range(n)
    }


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, files: dict[str, bytes], prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in reversed(files):
            archive.writestr(prefix + name, files[name])
    return path


def test_cifar10_reads_class_folders_and_zips_of_them_in_sorted_order(tmp_path):
    files = class_folder_files()
    raws = [
        write_files(tmp_path / "folder", files),
        write_zip(tmp_path / "cifar10_png.zip", files),
        write_zip(tmp_path / "wrapped.zip", files | {"__MACOSX/train/cat/._0.png": b"x"}, "cifar10/"),
        tmp_path,  # holds cifar10_png.zip
    ]
    for raw in raws:
        dataset = load("cifar10", raw)
        assert sizes(dataset) == {"train": 20, "test": 10}
        train = dataset.splits["train"]
        assert train.names == sorted(name for name in files if name.startswith("train"))
        assert train.label.tolist() == [k for k in range(10) for _ in range(2)]
        assert to_rgb(train.image(7))[0, 0].tolist() == [31, 0, 0]


def test_other_class_names_are_numbered_in_sorted_order(tmp_path):
    classes = tuple(f"class{k}" for k in range(10))
    dataset = load("cifar10", write_files(tmp_path, class_folder_files(classes[::-1])))
    assert dataset.spec.classes == classes


def test_too_few_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match="cifar10 has 10 classes, these files have 2: cat, dog"):
        load("cifar10", write_files(tmp_path, class_folder_files(("cat", "dog"))))


def test_a_damaged_zip_member_is_a_bad_image_and_a_damaged_zip_an_error(tmp_path):
    path = write_zip(tmp_path / "cifar10.zip", class_folder_files())
    content = path.read_bytes()
    at = content.index(png(31))
    path.write_bytes(content[: at + 50] + b"????" + content[at + 54 :])
    rows = load("cifar10", path).splits["train"]
    with pytest.raises(BadImage, match="cannot be unpacked"):
        rows.image(7)
    path.write_bytes(content[:1000])
    with pytest.raises(DataError, match=r"cifar10\.zip is not a readable zip file"):
        load("cifar10", path)


def test_missing_cifar_is_named_with_its_place_and_its_source(tmp_path):
    with pytest.raises(DataError, match=r"cifar100: neither cifar-100-python/, .* in .*; --raw DIR --download"):
        load("cifar100", tmp_path)
    with pytest.raises(DataError, match="cifar10 needs --raw"):
        load("cifar10")


# --- downloads -----------------------------------------------------------------------------------------------


def test_the_archives_are_those_that_torchvision_fetches():
    from torchvision import datasets

    for name, peer in (("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)):
        expected = {(f"{peer.mirrors[0]}{file}", f"md5:{md5}") for file, md5 in peer.resources}
        archives = SOURCES.get(name).archives
        assert {(archive.url, archive.hash) for archive in archives} == expected
        assert {archive.path for archive in archives} == {f"{peer.__name__}/raw/{file}" for file, _ in peer.resources}
    for name, peer in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        expected = Archive(peer.filename, peer.url, f"md5:{peer.tgz_md5}", folder=peer.base_folder)
        assert SOURCES.get(name).archives == (expected,)


@pytest.fixture
def fetched(tmp_path, monkeypatch) -> list[tuple[object, Path]]:
    """Return the list of archives that `fetch` was asked for.

    The fake `fetch` brings tiny MNIST files, and Debian's files are hidden.
    """
    calls: list[tuple[object, Path]] = []

    def bring(archives: object, raw: Path, mirror: str | None, progress: bool) -> None:
        calls.append((archives, raw))
        write_idx(raw / "MNIST" / "raw", zipped=True)

    monkeypatch.setattr(parts, "fetch", bring)
    monkeypatch.setattr(mnist, "DEBIAN", tmp_path / "debian")
    return calls


def load_top(raw: Path | None, download: bool = True, **options: object) -> Dataset:
    return parts.load_part(SOURCES.get("dominoes").request(raw, download, **options), "top")


def test_a_half_of_a_domino_is_downloaded_only_where_it_is_not_there(tmp_path, fetched):
    for _ in range(2):
        assert sizes(load_top(tmp_path / "raw")) == {"train": 30, "test": 20}
        assert fetched == [(SOURCES.get("mnist").archives, tmp_path / "raw")]
    load_top(tmp_path / "other", top_raw=tmp_path / "top")
    assert fetched[1:] == [(SOURCES.get("mnist").archives, tmp_path / "top")]


def test_a_half_of_a_domino_that_is_incomplete_is_completed_by_a_download(tmp_path, fetched):
    folder = write_idx(tmp_path / "MNIST" / "raw", zipped=True)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels"):
        load_top(tmp_path, download=False)
    assert sizes(load_top(tmp_path)) == {"train": 30, "test": 20}
    assert len(fetched) == 1


def test_a_missing_half_of_a_domino_explains_what_a_download_would_do(tmp_path, fetched):
    with pytest.raises(UsageError, match="--download needs --raw or --top-raw, the folder to download mnist to"):
        load_top(None)
    part = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 200_000)
    with pytest.raises(
        DataError, match=r"^top: mnist: .*--top-raw PATH.*; .*gz\.part holds 0\.2 MB: --download fetches"
    ):
        load_top(tmp_path, download=False)
    assert fetched == []


# --- folder --------------------------------------------------------------------------------------------------


def write_csv(root: Path, text: str) -> Path:
    write_files(root, {f"images/{i}.png": png(i) for i in range(6)})
    (root / "metadata.csv").write_text(text)
    return root


ROWS = """path,label,attribute,split
images/0.png,dog,outdoors,train
images/1.png,cat,indoors,train
images/2.png,cat,outdoors,train
images/3.png,dog,indoors,test
images/4.png,cat,indoors,val
"""


def test_class_folders_with_train_are_splits(tmp_path):
    files = {f"{split}/{name}/1.png": png(1) for split in ("val", "train", "extra") for name in ("dog", "cat")}
    dataset = load("folder", write_files(tmp_path, files | {"train/cat/.hidden.png": b"", "train/cat/notes.txt": b""}))
    assert list(dataset.splits) == ["train", "val", "extra"]
    assert sizes(dataset) == {"train": 2, "val": 2, "extra": 2}
    assert dataset.spec.classes == ("cat", "dog")
    assert dataset.spec.attributes == ("any",)
    assert dataset.spec.aligned == ()


def test_class_folders_without_train_are_all_train(tmp_path):
    dataset = load("folder", write_files(tmp_path, {"dog/1.jpg": b"", "cat/1.jpg": b"", "cat/2.JPEG": b""}))
    assert sizes(dataset) == {"train": 3}
    assert dataset.splits["train"].label.tolist() == [0, 0, 1]


def test_class_folders_in_a_zip_are_read(tmp_path):
    path = write_zip(tmp_path / "pets.zip", {"train/cat/1.png": png(1), "train/dog/1.png": png(2)})
    assert load("folder", path).splits["train"].names == ["train/cat/1.png", "train/dog/1.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train/cat/1.png": b"", "val/dgo/1.png": b"", "train/dog/1.png": b""}, "'dgo' .* did you mean 'dog'"),
        ({"train/cat/1.png": b"", "val/cat/notes.txt": b""}, "split val is empty"),
        ({"train/cat/notes.txt": b""}, "no image under .*train/CLASS/"),
        ({"notes.txt": b""}, "holds neither metadata.csv"),
    ],
)
def test_bad_class_folders_are_explained(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        load("folder", write_files(tmp_path, files))


def test_a_csv_gives_labels_attributes_and_splits(tmp_path):
    dataset = load("folder", write_csv(tmp_path, ROWS), aligned="cat:indoors,dog:outdoors", name="pets")
    spec, train = dataset.spec, dataset.splits["train"]
    assert list(dataset.splits) == ["train", "val", "test"]
    assert (spec.name, spec.classes, spec.attributes) == ("pets", ("cat", "dog"), ("indoors", "outdoors"))
    assert spec.aligned == ((0,), (1,))
    assert train.label.tolist() == [1, 0, 0]
    assert train.attribute.tolist() == [1, 0, 1]
    assert spec.is_aligned(train.label, train.attribute).tolist() == [True, True, False]
    assert train.image(0) == tmp_path / "images/0.png"


def test_a_csv_without_attribute_and_split_is_all_train(tmp_path):
    (write_csv(tmp_path, "") / "rows.csv").write_text("\ufefflabel, path\n1,images/0.png\n0,images/1.png\n")
    (tmp_path / "metadata.csv").unlink()
    dataset = load("folder", tmp_path, csv=Path("rows.csv"))
    assert sizes(dataset) == {"train": 2}
    assert dataset.spec.classes == ("0", "1")
    assert dataset.splits["train"].attribute.tolist() == [0, 0]
    assert dataset.spec.attributes == ("any",)


def test_numbers_are_codes_of_the_names_given(tmp_path):
    text = (
        "path,label,attribute,split\nimages/0.png,1,0,0\nimages/1.png,0,1,1\nimages/2.png,1,1,0\nimages/3.png,0,0,0\n"
    )
    dataset = load("folder", write_csv(tmp_path, text), classes="land,water", attributes="field,sea")
    assert sizes(dataset) == {"train": 3, "val": 1}
    assert dataset.spec.group_names == ("land, field", "land, sea", "water, field", "water, sea")
    assert dataset.splits["train"].label.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "where,label\nimages/0.png,1\n",
            "has no column for the path; it has where, label. .* attribute, the spurious",
        ),
        ("file,kind\nimages/0.png,1\n", "has no column for the label; it has file, kind"),
        (
            "images/0.png,1\nimages/1.png,0\n",
            "'images/0.png,1', names an image and no columns; begin the file with a line such as path",
        ),
        ("", "is empty; its first line names the columns"),
        ("path,label\n", "has no row below its header"),
        ("path,label\nimages/0.png,\n", "line 2: no label"),
        ("path,label,split\nimages/0.png,a\n", "line 2: no split"),
        ("path,label\nimages/0.png,a\n./images/0.png,b\n", "line 3: images/0.png is listed twice, first in line 2"),
        ("path,label\nimages/0.png,1\nimages/1.png,2\n", "from 1 to 2 but none is 0"),
        ("path,label\nimages/0.png,-1\nimages/1.png,0\n", "from -1 to 0"),
        (
            "path,label,split\nimages/0.png,a,train\nimages/1.png,b,val\n",
            "split val has the class 'b', which train lacks",
        ),
    ],
)
def test_a_bad_csv_is_explained(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load("folder", write_csv(tmp_path, text))


def test_a_label_out_of_range_names_the_row_and_the_nearest_class(tmp_path):
    with pytest.raises(DataError, match="label 'dog' of line 2 is unknown or out of range; did you mean 'dig'"):
        load("folder", write_csv(tmp_path, ROWS), classes="cat,dig")
    with pytest.raises(DataError, match=r"label '2' of line 2 .* known: cat, dog, or 0 to 1"):
        load("folder", write_csv(tmp_path, "path,label\nimages/0.png,2\n"), classes="cat,dog")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aligned": "cat:indoor,dog:outdoors"}, "unknown attribute 'indoor'; did you mean 'indoors'"),
        ({"aligned": "cta:indoors,dog:outdoors"}, "unknown class 'cta'; did you mean 'cat'"),
        ({"aligned": "cat:indoors"}, "names no attribute for the class dog"),
        ({"classes": "cat,cat"}, "not a list of different names"),
        ({"name": "../pets"}, "becomes a file name"),
    ],
)
def test_bad_folder_options_are_usage_errors(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        load("folder", write_csv(tmp_path, ROWS), **options)


def test_class_folders_have_no_attributes_to_align(tmp_path):
    with pytest.raises(UsageError, match="--aligned needs attributes"):
        load("folder", write_files(tmp_path, {"cat/1.png": b""}), aligned="cat:any")


# --- files without a checksum of their own -----------------------------------------------------------------------


def write_published_mnist(folder: Path) -> dict[str, str]:
    """Write four IDX files of the published shapes, and return the MD5 of each by the start of its name."""
    md5 = {}
    for prefix, n in (("train", 60_000), ("t10k", 10_000)):
        for kind, array in (("images-idx3", np.zeros((n, 28, 28))), ("labels-idx1", np.arange(n) % 10)):
            content = idx(array)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(content)
            md5[f"{prefix}-{kind[:6]}"] = hashlib.md5(content).hexdigest()
    return md5


def test_an_idx_file_of_the_published_shape_has_the_published_content_or_a_checksum(tmp_path, monkeypatch):
    md5 = write_published_mnist(tmp_path)
    with pytest.raises(DamagedFile, match=r"train-images-idx3-ubyte has the shape of the published file and another"):
        load("mnist", tmp_path)
    monkeypatch.setattr(mnist, "MNIST", replace(mnist.MNIST, md5=md5))
    assert sizes(load("mnist", tmp_path)) == {"train": 60_000, "test": 10_000}
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[5_000] ^= 1
    labels.write_bytes(content)
    with pytest.raises(
        DamagedFile, match=rf"^{labels} has .*: its hash is md5:.*, expected md5:{md5['t10k-labels']}; "
    ):
        load("mnist", tmp_path)
    labels.unlink()
    (tmp_path / f"{labels.name}.gz").write_bytes(gzip.compress(content))
    assert load("mnist", tmp_path).splits["test"].label[4_992] == content[5_000]


@pytest.mark.skipif(not (mnist.DEBIAN / "fashion-mnist").is_dir(), reason="needs the package dataset-fashion-mnist")
def test_the_real_files_have_the_hashes_of_the_content_that_are_in_the_source(tmp_path):
    for path in (mnist.DEBIAN / "fashion-mnist").glob("*.gz"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert sizes(load("fashion_mnist", tmp_path)) == {"train": 60_000, "test": 10_000}


def test_every_flipped_bit_of_a_gzipped_idx_file_is_noticed_or_harmless(tmp_path):
    path = write_idx(tmp_path, zipped=True) / "t10k-images-idx3-ubyte.gz"
    check_flips(path, 13, lambda: mnist.read_idx(path), lambda found: np.array_equal(found, digits_of(20)[0]))


def test_cifar_batches_of_the_published_shape_have_the_published_content(tmp_path, monkeypatch):
    folder = write_cifar10(tmp_path / "cifar-10-batches-py")
    files = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(cifar, "CIFAR10", replace(cifar.CIFAR10, rows={"train": 20, "test": 4}, md5=files))
    check_cifar10(load("cifar10", tmp_path))
    for name in ("batches.meta", "data_batch_2"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole.replace(b"horse", b"hosre").replace(b"\4" * 9, b"\5" * 9))
        with pytest.raises(
            DamagedFile, match=rf"{name} has .*; it is damaged, .* on purpose, pack the folder as cifar-"
        ):
            load("cifar10", tmp_path)
        (folder / name).write_bytes(whole)


def test_every_flipped_bit_of_a_cifar_archive_is_noticed_or_harmless(tmp_path):
    path = write_archive(tmp_path / "cifar-10-python.tar.gz")

    def read() -> tuple[object, ...]:
        dataset = load("cifar10", path)
        images = [rows.image(k).tobytes() for rows in dataset.splits.values() for k in range(len(rows))]
        return dataset.spec.classes, images, [rows.label.tolist() for rows in dataset.splits.values()]

    right = read()
    noticed, harmless = check_flips(path, 103, read, lambda found: found == right)
    assert noticed > 10 * harmless


def test_every_flipped_bit_of_an_npz_is_noticed_or_harmless(tmp_path):
    arrays = dict(zip(("train_x", "train_y", "test_x", "test_y"), (*digits_of(3), *digits_of(2))))
    path = tmp_path / "mnist.npz"
    np.savez(path, **arrays)

    def read() -> list[object]:
        splits = load("mnist", path).splits.values()
        return [(rows.label.tolist(), [rows.image(k).tobytes() for k in range(len(rows))]) for rows in splits]

    right = read()
    check_flips(path, 41, read, lambda found: found == right)
