"""The writer's command line: the files that it writes, its output and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from debeton.commands import write_betons
from debeton.data.beton.reading import open_beton
from debeton.data.sources import SOURCES, Request, Source
from debeton.system.errors import run_command

SCRIPT = Path(__file__).resolve().parents[2] / "writers" / "write_betons.py"


def command(*argv: object) -> int:
    """Run the program in this process; returns its exit status."""
    return run_command(lambda: write_betons.main([str(part) for part in argv]))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Write a folder data set of 12 + 4 photos. Its train is aligned in 10 of 12 rows."""
    lines = ["path,label,attribute,split"]
    for i in range(16):
        label = ("cat", "dog")[i % 2]
        attribute = ("indoors", "outdoors")[(i + (i in (0, 1))) % 2]
        Image.new("RGB", (20 + i, 16), (i, 100, 200)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{label},{attribute},{'train' if i < 12 else 'test'}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    return tmp_path


ALIGNED = "cat:indoors,dog:outdoors"


def test_list_names_every_data_set_first_in_its_line(capsys):
    assert command("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == SOURCES.names()


def test_help_shows_the_options_of_the_chosen_data_set_only(capsys):
    for argv, shown in (((), False), (("--dataset", "dominoes"), True), (("--dataset", "digits"), False)):
        with pytest.raises(SystemExit) as stop:
            command(*argv, "--help")
        assert stop.value.code == 0
        assert ("--val-target-size" in capsys.readouterr().out) is shown


def test_betons_hold_the_rows_and_the_sidecar_their_options(pets, tmp_path, capsys):
    out = tmp_path / "betons"
    argv = ("--dataset", "folder", "--name", "pets", "--raw", pets, "--out", out, "--aligned", ALIGNED)
    assert command(*argv, "--csv", "metadata.csv") == 0
    train, test = open_beton(out / "pets_train.beton"), open_beton(out / "pets_test.beton")
    assert (len(train), len(test)) == (12, 4)
    assert train.label.tolist() == [0, 1] * 6
    assert train.spec.is_aligned(train.label, train.attribute).sum() == 10
    assert train.spec.attributes == ("indoors", "outdoors")
    assert train.widths.tolist() == list(range(20, 32))
    assert train.extra["path"].tolist() == [f"{i}.png" for i in range(12)]
    options = json.loads((out / "pets_train.beton.json").read_text())["dataset_options"]
    assert options == {"name": "pets", "classes": "", "attributes": "", "aligned": ALIGNED}  # and no path
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == [
        f"{out}/pets_train.beton",
        f"{out}/pets_test.beton",
        "next",
    ]
    assert "pets_train.beton: 12 rows, " in lines[0]
    assert "cat, indoors 5 · cat, outdoors 1 · dog, indoors 1 · dog, outdoors 5" in lines[0]


def test_only_the_splits_asked_for_are_written(pets, tmp_path):
    out = tmp_path / "betons"
    assert command("--dataset", "folder", "--raw", pets, "--out", out, "--splits", "test") == 0
    assert sorted(path.name for path in out.glob("*.beton")) == ["folder_test.beton"]


@pytest.mark.parametrize(("mode", "jpeg"), [("raw", 0.0), ("jpg", 1.0)])
def test_the_mode_says_how_images_are_stored(pets, tmp_path, mode, jpeg):
    argv = ("--dataset", "folder", "--raw", pets, "--out", tmp_path, "--mode", mode, "--max-resolution", 24)
    assert command(*argv) == 0
    beton = open_beton(tmp_path / "folder_train.beton")
    assert beton.sidecar["image"]["jpeg_share"] == jpeg
    assert beton.widths.max() == 24


def test_the_line_of_a_beton_says_how_its_images_are_stored(pets, tmp_path, capsys):
    argv = ("--dataset", "folder", "--raw", pets, "--out", tmp_path, "--splits", "train")
    for words, stored in (
        ((), "12 as raw pixels (PNG)"),
        (("--max-resolution", 24), "12 as raw pixels (7 PNG larger than 24, 5 PNG)"),
        (("--mode", "jpg"), "12 re-encoded at quality 95, chroma 4:4:4 (PNG)"),
        (("--raw-pixels", 0, "--quality", 80, "--chroma", "4:2:0"), "12 re-encoded at quality 80, chroma 4:2:0 (PNG)"),
    ):
        assert command(*argv, *words) == 0
        assert f" MB; {stored}; cat, " in capsys.readouterr().out
        for entry in json.loads((tmp_path / "folder_train.beton.json").read_text())["image"]["stored"]:
            assert entry["source"] == "PNG"
    merged = ("--merge", tmp_path / "folder_train.beton", tmp_path / "other_train.beton", "--out", tmp_path / "m.beton")
    assert command(*argv, "--name", "other", "--splits", "test") == 0
    (tmp_path / "other_test.beton").rename(tmp_path / "other_train.beton")
    (tmp_path / "other_test.beton.json").rename(tmp_path / "other_train.beton.json")
    (tmp_path / "other_test.beton.columns.npz").rename(tmp_path / "other_train.beton.columns.npz")
    capsys.readouterr()
    assert command(*merged) == 0
    assert "; 4 as raw pixels (PNG), 12 re-encoded at quality 80, chroma 4:2:0 (PNG); " in capsys.readouterr().out


def test_check_and_writing_have_the_same_bounds(pets, tmp_path, capsys):
    argv = ("--dataset", "folder", "--raw", pets, "--max-pixels", 500)
    assert command(*argv, "--check") == 1
    checked = capsys.readouterr().out
    assert command(*argv, "--out", tmp_path / "out") == 1
    written = capsys.readouterr().err
    sentence = "has 35 x 16 pixels, more than the bound of 500; pass --max-pixels 560 to decode it whole"
    assert sentence in checked
    assert sentence in written
    assert command(*argv, "--check", "--max-pixels", 560) == 0


def test_check_counts_and_writes_nothing(pets, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    argv = ("--dataset", "folder", "--raw", pets, "--out", tmp_path / "new", "--aligned", ALIGNED, "--check")
    assert command(*argv) == 0
    assert sorted(tmp_path.rglob("*")) == before
    out = capsys.readouterr().out
    assert "folder/train: 12 rows\n  classes: cat 6 · dog 6\n  groups: cat, indoors 5" in out
    assert "bias-aligned: 10 (83.33%)\n  all 12 images decode" in out


def test_check_lists_every_bad_image_and_fails(pets, capsys):
    (pets / "3.png").write_bytes((pets / "3.png").read_bytes()[:40])
    (pets / "13.png").write_bytes(b"not an image")
    assert command("--dataset", "folder", "--raw", pets, "--check") == 1
    out = capsys.readouterr().out
    assert "  row 3: 3.png cannot be decoded" in out
    assert "  row 1: 13.png cannot be decoded" in out
    assert out.count("1 of 12 images cannot be decoded") == out.count("1 of 4 images cannot be decoded") == 1


def test_a_bad_image_stops_the_writing_unless_skipped(pets, tmp_path, capsys):
    (pets / "3.png").write_bytes(b"not an image")
    argv = ("--dataset", "folder", "--raw", pets, "--out", tmp_path / "out")
    assert command(*argv) == 1
    assert "1 of 12 rows cannot be stored" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.beton*"))
    assert command(*argv, "--skip-bad") == 0
    assert "11 rows, 1 skipped" in capsys.readouterr().out
    assert len(open_beton(tmp_path / "out" / "folder_train.beton")) == 11


def test_a_second_run_replaces_the_betons(pets, tmp_path):
    argv = ("--dataset", "folder", "--raw", pets, "--out", tmp_path)
    assert command(*argv) == 0
    first = (tmp_path / "folder_train.beton").read_bytes()
    assert command(*argv) == 0
    assert (tmp_path / "folder_train.beton").read_bytes() == first
    assert command(*argv, "--mode", "raw") == 0
    assert open_beton(tmp_path / "folder_train.beton").sidecar["image"]["mode"] == "raw"


# --- splits, left-out files, sequence of the rows ------------------------------------------------------------------


def class_folders(root: Path, names: list[str]) -> Path:
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (k, 2 * k, 255 - k)).save(root / name)
    return root


def test_writing_says_which_words_are_splits_and_what_is_left_out(tmp_path, capsys):
    names = [f"{split}/{c}/1.png" for split in ("Train", "validation", "val_out_of_domain") for c in "ab"]
    raw = class_folders(tmp_path / "raw", [*names, "Train/a/2.gif", "Train/3.png"])
    assert command("--dataset", "folder", "--raw", raw, "--out", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.beton")) == [
        "folder_test_val_out_of_domain.beton",
        "folder_train.beton",
        "folder_val.beton",
    ]
    captured = capsys.readouterr()
    assert f"folder: 'validation' in {raw} is the split 'val'\n" in captured.out
    assert "left out, which may be a mistake:" in captured.err
    assert "images that lie in no class folder: 1 (Train/3.png)" in captured.err
    sidecar = json.loads((tmp_path / "out/folder_val.beton.json").read_text())
    assert sidecar["left_out"][0] == {
        "reason": "images that lie in no class folder",
        "count": 1,
        "examples": ["Train/3.png"],
    }
    assert [entry["count"] for entry in sidecar["left_out"]] == [1, 1]
    assert command("--dataset", "folder", "--raw", raw, "--check") == 1


def test_a_split_that_training_does_not_look_for_is_written_only_when_it_is_named(tmp_path, capsys):
    raw = class_folders(tmp_path / "raw", [f"{split}/{c}/1.png" for split in ("train", "holdout") for c in "ab"])
    argv = ("--dataset", "folder", "--raw", raw, "--out", tmp_path / "out")
    assert command(*argv) == 1
    assert "training does not look for the split 'holdout'; known: train, val, test" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command("--dataset", "folder", "--raw", raw, "--check") == 1
    assert "'holdout' is no split that training looks for" in capsys.readouterr().out
    assert command(*argv, "--splits", "holdout") == 0
    assert "warning: training does not look for folder_holdout.beton" in capsys.readouterr().err
    assert command(*argv, "--splits", "train") == 0
    assert "warning" not in capsys.readouterr().err


def test_a_table_with_splits_of_other_words_is_mapped_or_refused(pets, tmp_path, capsys):
    table = (pets / "metadata.csv").read_text()
    (pets / "metadata.csv").write_text(table.replace(",test", ",Testing"))
    argv = ("--dataset", "folder", "--raw", pets, "--out", tmp_path / "out")
    assert command(*argv) == 0
    assert "'Testing' in" in capsys.readouterr().out
    assert (tmp_path / "out/folder_test.beton").exists()
    (pets / "metadata.csv").write_text(table.replace(",test", ",../../later"))
    assert command(*argv) == 1
    assert "training does not look for the split '../../later'" in capsys.readouterr().err
    assert command(*argv, "--splits", "../../later") == 1  # is no part of a file name


def test_synthetic_images_that_are_left_out_are_counted(pets, tmp_path, capsys):
    made = class_folders(tmp_path / "made", ["cat/indoors/1.png", "dog/2.png", "dgo/3.png", "cat/indors/4.png"])
    argv = ("--dataset", "folder", "--raw", pets, "--aligned", ALIGNED, "--synthetic", made)
    assert command(*argv, "--out", tmp_path / "out") == 0
    reason = "synthetic images in folders that are no cell of the set: 2 (cat/indors/4.png, dgo/3.png)"
    assert reason in capsys.readouterr().err
    records = [{"path": "dog/2.png", "label": "dog", "attribute": None}]
    records += [{"path": f"x/{k}.png", "label": "dog", "attribute": None, "verdict": "blank"} for k in range(3)]
    (made / "manifest.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert command(*argv, "--check") == 0
    assert "the manifest rejects: 3 (x/0.png: blank, x/1.png: blank, x/2.png: blank)" in capsys.readouterr().out


def test_a_shuffle_seed_stores_whole_rows_in_another_sequence_and_the_sidecar_says_so(pets, tmp_path):
    argv = ("--dataset", "folder", "--raw", pets, "--mode", "raw", "--out")
    assert command(*argv, tmp_path / "listed") == 0
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        assert command(*argv, tmp_path / name, "--shuffle-seed", seed) == 0
    listed, one, again, two = (
        open_beton(tmp_path / name / "folder_train.beton") for name in ("listed", "one", "again", "two")
    )
    assert [beton.sidecar["shuffle_seed"] for beton in (listed, one, two)] == [None, 1, 2]
    paths = [beton.extra["path"].tolist() for beton in (listed, one, again, two)]
    assert paths[1] == paths[2] != paths[3] != paths[0] != paths[1]
    assert sorted(paths[1]) == sorted(paths[0])
    row_of = {path: row for row, path in enumerate(paths[0])}
    there = [row_of[path] for path in paths[1]]
    assert one.label.tolist() == listed.label[there].tolist()
    assert one.attribute.tolist() == listed.attribute[there].tolist()
    assert one.widths.tolist() == listed.widths[there].tolist()
    assert (np.diff(one.offsets) > 0).all()  # the file has the same sequence as the rows


def test_a_shuffle_seed_keeps_the_numbers_of_bad_rows_and_the_sequence_of_the_others(pets, tmp_path, capsys):
    argv = ("--dataset", "folder", "--raw", pets, "--shuffle-seed", 5, "--splits", "train", "--out")
    assert command(*argv, tmp_path / "whole") == 0
    (pets / "3.png").write_bytes(b"not an image")
    (pets / "4.png").unlink()
    assert command(*argv, tmp_path / "rest") == 1
    assert "row 4: 4.png the file does not exist" in capsys.readouterr().err
    assert command(*argv, tmp_path / "rest", "--skip-bad") == 0
    whole, rest = (open_beton(tmp_path / name / "folder_train.beton").extra["path"] for name in ("whole", "rest"))
    assert rest.tolist() == [path for path in whole.tolist() if path not in ("3.png", "4.png")]


# --- missing files, published counts, generated images, merges ---------------------------------------------------


def test_check_lists_missing_files_before_any_image_is_decoded_or_written(pets, tmp_path, capsys):
    for i in (2, 3, 13):
        (pets / f"{i}.png").unlink()
    assert command("--dataset", "folder", "--raw", pets, "--aligned", ALIGNED, "--check") == 1
    out = capsys.readouterr().out
    assert "  2 of 12 files are missing:\n    2.png\n    3.png\n  all 10 images that are there decode" in out
    assert "  1 of 4 files are missing:\n    13.png" in out
    assert command("--dataset", "folder", "--raw", pets, "--out", tmp_path / "out") == 1
    assert "2 of 12" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


@pytest.fixture
def counted(pets, monkeypatch):
    """Return the source 'pets': the folder data set with 14 published rows of train and four groups of test."""
    folder = SOURCES.get("folder")

    def load(request):
        options = {**folder.request().options, "name": "pets", "aligned": ALIGNED}
        dataset = folder.load(Request(request.raw, False, options))
        return replace(dataset, expected={"train": 14, "test": (2, 0, 0, 2)})

    registry = type(SOURCES)("dataset")
    registry.add("pets", Source("pets", load, "from www.example.org/pets: train/CLASS/*.png"), "pets")
    monkeypatch.setattr("debeton.commands.write_betons.SOURCES", registry)
    return pets


def test_check_names_counts_that_differ_from_the_published_ones_and_writing_warns(counted, tmp_path, capsys):
    assert command("--dataset", "pets", "--raw", counted, "--check") == 1
    out = capsys.readouterr().out
    assert "  counts differ from those published:\n    12 rows, its owners count 14" in out
    assert out.count("counts differ") == 1
    assert command("--dataset", "pets", "--raw", counted, "--out", tmp_path / "out") == 0
    assert "warning: pets/train: 12 rows, its owners count 14; see --check" in capsys.readouterr().err


def test_download_of_a_set_without_an_address_names_its_source(counted, tmp_path, capsys):
    assert command("--dataset", "pets", "--raw", tmp_path / "none", "--out", tmp_path, "--download") == 1
    said = capsys.readouterr().err
    assert f"pets has no file that may be fetched from here; by hand: --raw {tmp_path}/none does not exist" in said
    assert "from www.example.org/pets: train/CLASS/*.png" in said


def test_synthetic_images_join_train_or_make_their_own_beton_and_merge(pets, tmp_path, capsys):
    for label in ("cat", "dog"):
        for attribute in ("indoors", "outdoors"):
            (tmp_path / "gen" / label / attribute).mkdir(parents=True)
            Image.new("RGB", (9, 9), (0, 9, 99)).save(tmp_path / "gen" / label / attribute / "0.png")
    base = ("--dataset", "folder", "--name", "pets", "--raw", pets, "--aligned", ALIGNED, "--mode", "raw")
    assert command(*base, "--out", tmp_path / "both", "--synthetic", tmp_path / "gen") == 0
    both = open_beton(tmp_path / "both" / "pets_train.beton")
    assert both.source.tolist() == [0] * 12 + [1] * 4
    assert both.group[12:].tolist() == [0, 1, 2, 3]
    assert open_beton(tmp_path / "both" / "pets_test.beton").source.tolist() == [0] * 4

    assert command(*base, "--out", tmp_path / "apart") == 0
    train = tmp_path / "apart" / "pets_train.beton"
    generated = ("--like", train, "--synthetic", tmp_path / "gen", "--out", tmp_path / "apart", "--mode", "raw")
    assert command(*generated) == 0
    apart = tmp_path / "apart" / "pets_synthetic.beton"
    assert open_beton(apart).source.tolist() == [1] * 4
    assert command("--merge", train, apart, "--out", tmp_path / "merged.beton") == 0
    merged = open_beton(tmp_path / "merged.beton")
    assert merged.group.tolist() == both.group.tolist()
    assert merged.sidecar["row_hash"] == both.sidecar["row_hash"]
    assert "merged.beton: 16 rows" in capsys.readouterr().out

    assert command(*base, "--out", tmp_path / "worse", "--synthetic", tmp_path / "gen", "--severity", "3") == 0
    worse = tmp_path / "worse" / "pets_train.beton"
    assert open_beton(worse).sidecar["dataset_options"]["severity"] == 3
    pixels = [first_pixels(path) for path in (tmp_path / "both" / "pets_train.beton", worse)]
    assert (pixels[0][:12] == pixels[1][:12]).all()  # the real rows
    assert (pixels[0][12:] != pixels[1][12:]).any((1, 2)).all()


def first_pixels(path: Path) -> np.ndarray:
    """Return the first 192 bytes of pixels of every image in a raw beton, [N, 8, 24]."""
    beton = open_beton(path)
    stored = np.memmap(path, np.uint8, "r")
    return np.stack([np.asarray(stored[int(o) : int(o) + 8 * 8 * 3]).reshape(8, 24) for o in beton.offsets])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--merge", "a.beton", "--out", "folder"], "--merge needs --out FILE.beton"),
        (["--like", "a.beton", "--out", "x"], "--synthetic DIR names the images"),
        (
            ["--dataset", "digits", "--severity", "2", "--out", "x"],
            "--severity corrupts generated images, and there are",
        ),
        (
            ["--like", "a.beton", "--synthetic", "g", "--dataset", "digits", "--out", "x"],
            "takes the place of --dataset",
        ),
    ],
)
def test_wrong_uses_of_merge_and_like_are_status_2(argv, message, capsys):
    assert command(*argv) == 2
    assert message in capsys.readouterr().err


def test_dominoes_from_packages_alone_keep_their_counts(tmp_path, capsys):
    argv = ["--dataset", "dominoes", "--top", "digits", "--bottom", "digits", "--out", tmp_path]
    argv += ["--per-class", 20, "--val-target-size", 100, "--spurious-strength", 0.9, "--data-seed", 3]
    assert command(*argv) == 0
    betons = {split: open_beton(tmp_path / f"dominoes_{split}.beton") for split in ("train", "target", "val", "test")}
    assert {split: len(beton) for split, beton in betons.items()} == {
        "train": 100,
        "target": 50,
        "val": 50,
        "test": 359,
    }
    train = betons["train"]
    assert set(zip(train.heights.tolist(), train.widths.tolist())) == {(64, 32)}
    assert train.spec.num_groups == 100
    assert (train.label == train.attribute).sum() >= 90
    assert train.sidecar["dataset_options"] == {
        "top": "digits",
        "bottom": "digits",
        "data_seed": 3,
        "spurious_strength": 0.9,
        "val_target_size": 100,
        "per_class": 20,
        "top_classes": "",
        "bottom_classes": "",
        "class_shares": "",
        "legacy": False,
    }
    assert train.extra["top_index"].dtype == np.int64
    assert "100 groups of " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--datset digits", "unknown flag '--datset'; did you mean '--dataset'"),
        ("--dataset digits --out x --quality=3 --qualty=3", "unknown flag '--qualty'; did you mean '--quality'"),
        ("--dataset digits --out x --qual 3", "unknown flag '--qual'; did you mean '--quality'"),
        ("--dataset digitz --out x", "unknown dataset 'digitz'; did you mean 'digits'"),
        ("--dataset digits --out x --legacy", "--legacy is an option of --dataset dominoes"),
        ("--dataset digits --out x --mode jgp", "unknown mode 'jgp'; did you mean 'jpg'"),
        ("--dataset digits --out x --quality high", "--quality: invalid int value: 'high'"),
        ("--dataset digits --out x --num-workers -1", "--num-workers -1 is negative"),
        ("--dataset digits --out x --splits trian", "no split 'trian'; did you mean 'train'"),
        ("--dataset digits --out x y", "unexpected argument 'y'"),
        ("--dataset digits", "--out is missing"),
        ("--out x", "--dataset is missing"),
        ("--dataset", "expected one argument"),
    ],
)
def test_a_wrong_command_is_status_2_and_names_the_nearest(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*argv.split()) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_raw_folder_that_does_not_exist_is_status_1(tmp_path, capsys):
    assert command("--dataset", "mnist", "--raw", tmp_path / "no", "--out", tmp_path) == 1
    assert "no does not exist; --raw DIR --download fetches it" in capsys.readouterr().err


def test_the_script_runs_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--list"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "digits" in done.stdout


def test_list_needs_neither_torch_nor_numba():
    code = (
        "import runpy, sys; sys.argv = ['write_betons.py', '--list']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: print({'torch', 'numba'} & set(sys.modules))"
    ).replace("sys.argv[0], run_name", f"{str(SCRIPT)!r}, run_name")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()"
