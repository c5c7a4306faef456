"""Image sets: the same images for any shards, batch sizes and kills; filters; clear errors."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.generate.sets import command, images_of, kept_of

from debeton.data.raw.synthetic_images import ACCEPTED, read_synthetic_rows
from debeton.data.spec import DatasetSpec
from debeton.generate.filters import FILTERS, published_grey_filter
from debeton.generate.generation import BATCHES_WAITING, generate_missing
from debeton.generate.generators import GENERATORS, GeneratorFactory, ImageRequest
from debeton.generate.image_set import ImageSet, Shard, Slot, verify
from debeton.generate.prompts import Condition, PromptSet
from debeton.system.errors import DataError, UsageError

PETS = PromptSet(
    "pets",
    "a photo of {a} {subject}",
    "animal",
    {"cat": ("tabby", "ocelot"), "dog": ("pug",)},
    {"in": ("* inside",), "out": ("* outside",)},
)
SPEC = DatasetSpec("pets", ("cat", "dog"), ("in", "out"), aligned=((0,), (1,)))
SETTINGS = {"set": "pets", "generator": "noise"}


class Noise:
    """Generator of noise images from the seed; one in `one_in` seeds gives a grey image."""

    attempts = 20

    def __init__(self, one_in: int = 0, size: int = 12):
        self.one_in, self.size, self.identity = one_in, size, {"kind": "noise"}
        self.requests: list[ImageRequest] = []

    def sample(self, requests):
        self.requests += requests
        return np.stack([self.image(request.seed) for request in requests])

    def image(self, seed: int) -> np.ndarray:
        pixels = np.random.default_rng(seed).integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
        is_grey = self.one_in and seed % self.one_in == 0
        return np.repeat(pixels[..., :1], 3, axis=2) if is_grey else pixels


def make(folder: Path, generator=None, *, shard="1/1", per=9, batch_size=4, prompts=PETS, keep="standard") -> ImageSet:
    image_set = ImageSet(folder, SETTINGS, Shard.parse(shard))
    generate_missing(
        image_set,
        generator or Noise(one_in=3),
        prompts,
        FILTERS.get(keep),
        conditions=prompts.conditions(),
        per_condition=per,
        batch_size=batch_size,
    )
    return image_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make(folder)
    return folder


# --- the set ------------------------------------------------------------------------------------------------------


def test_a_set_has_the_requested_images_of_every_cell_and_one_line_for_each(whole):
    kept = kept_of(whole)
    assert len(kept) == 4 * 9
    assert set(kept) == {f"{c}/{a}/{k:08}.png" for c in ("cat", "dog") for a in ("in", "out") for k in range(9)}
    assert images_of(whole) == {path: sha for path, (_, _, sha) in kept.items()}
    assert not list(whole.rglob("*.partial"))
    assert verify(whole) == []


def test_a_seed_is_a_function_of_set_condition_and_number_alone(whole):
    slot = Slot(Condition("dog", "out"), 5)
    lines = [json.loads(x) for x in (whole / "manifest.jsonl").read_text().splitlines()]
    mine = [x for x in lines if (x["label"], x["attribute"], x["number"]) == ("dog", "out", 5)]
    assert mine[0]["seed"] == slot.seed("pets")
    assert slot.seed("pets") != slot.seed("others")
    seeds = [
        Slot(Condition(c, a), k, n).seed("pets") for c in "ab" for a in ("x", None) for k in range(50) for n in (0, 1)
    ]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**63


@pytest.mark.parametrize(("shards", "batch_size"), [(1, 7), (2, 4), (5, 3)])
def test_shards_and_batches_of_any_size_make_the_same_set(whole, tmp_path, shards, batch_size):
    for k in range(shards, 0, -1):
        make(tmp_path, shard=f"{k}/{shards}", batch_size=batch_size)
    assert kept_of(tmp_path) == kept_of(whole)
    assert images_of(tmp_path) == images_of(whole)


def test_a_larger_set_contains_the_smaller_one(whole, tmp_path):
    make(tmp_path, per=4)
    small = kept_of(tmp_path)
    generator = Noise(one_in=3)
    make(tmp_path, generator, per=9)
    assert kept_of(tmp_path) == kept_of(whole)
    assert small.items() <= kept_of(whole).items()
    assert len({request.seed for request in generator.requests}) == len(generator.requests)


class Killed(BaseException):
    pass


class Dying(Noise):
    def __init__(self, after: int):
        super().__init__(one_in=3)
        self.left = after

    def sample(self, requests):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().sample(requests)


def test_a_set_is_the_same_after_stops_and_with_other_shards(whole, tmp_path):
    for after in (0, 1, 3, 6):
        with pytest.raises(Killed):
            make(tmp_path, Dying(after))
    half = tmp_path / "dog" / "out" / "00000008.png"
    assert "dog/out/00000008.png" not in kept_of(tmp_path)
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half an image without a line")
    text = (tmp_path / "manifest.jsonl").read_bytes()
    (tmp_path / "manifest.jsonl").write_bytes(text + b'{"path": "cat/in/000')
    for k in (1, 2):
        make(tmp_path, shard=f"{k}/2")
    assert kept_of(tmp_path) == kept_of(whole)
    assert images_of(tmp_path) == images_of(whole)


def test_what_a_killed_process_of_any_machine_left_of_an_image_goes_when_its_shard_is_filled(tmp_path):
    folder = tmp_path / "cat" / "in"
    folder.mkdir(parents=True)
    left = [folder / f"{number:08}.png.node-{number}.cluster.7.partial" for number in range(3)]
    for path in left:
        path.write_bytes(b"x")
    make(tmp_path, shard="1/2", per=3)  # of the cell's images the shard has numbers 0 and 2
    assert [path.exists() for path in left] == [False, True, False]  # another process may be writing number 1
    make(tmp_path, shard="2/2", per=3)
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:08}.png" for number in range(3)]


def test_writing_an_image_does_not_read_its_folder(tmp_path, monkeypatch):
    read: list[Path] = []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: read.append(self) or glob(self, pattern))
    make(tmp_path, Noise(), per=9)
    assert len(images_of(tmp_path)) == 36
    assert read.count(tmp_path / "cat" / "in") == 1


def test_a_finished_set_generates_no_more_images(whole):
    generator = Noise(one_in=3)
    before = (whole / "manifest.jsonl").stat().st_mtime_ns
    make(whole, generator)
    assert generator.requests == []
    assert (whole / "manifest.jsonl").stat().st_mtime_ns == before


def test_other_settings_for_the_same_folder_are_refused_and_named(whole):
    with pytest.raises(UsageError, match="begun with other settings: generator is 'noise' there and 'other' here"):
        ImageSet(whole, {**SETTINGS, "generator": "other"})


def test_the_same_model_under_another_path_goes_on_and_another_one_does_not(tmp_path):
    begun = {**SETTINGS, "model": "models/sd", "revision": "0123456789abcdef"}
    ImageSet(tmp_path, begun)
    ImageSet(tmp_path, {**begun, "model": "/home/me/models/sd/"})
    with pytest.raises(UsageError, match=r"different: model, revision"):
        ImageSet(tmp_path, {**begun, "model": "other", "revision": "f" * 16})
    without = {**begun, "revision": None}
    ImageSet(tmp_path / "unknown", without)
    with pytest.raises(UsageError, match=r"model is 'models/sd' there and 'sd' here"):
        ImageSet(tmp_path / "unknown", {**without, "model": "sd"})


def test_a_set_is_read_as_synthetic_rows(whole):
    rows = read_synthetic_rows(whole, SPEC)
    assert len(rows) == 36
    assert np.bincount(2 * rows.label + rows.attribute).tolist() == [9] * 4
    kept = kept_of(whole)
    by_name = dict(zip(rows.names, zip(rows.columns["seed"], rows.columns["prompt"]), strict=True))
    assert by_name == {f"{whole.name}/{path}": (seed, prompt) for path, (seed, prompt, _) in kept.items()}


def test_the_generator_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    gate, sampled = threading.Event(), []

    class Counting(Noise):
        def sample(self, requests):
            sampled.append(len(requests))
            if len(sampled) == BATCHES_WAITING:
                gate.set()
            return super().sample(requests)

    original = ImageSet.write_image

    def slow(self, slot, image):
        assert gate.wait(10)  # nothing is written before the second batch has been sampled
        return original(self, slot, image)

    monkeypatch.setattr(ImageSet, "write_image", slow)
    make(tmp_path, Counting(), per=2)
    assert len(kept_of(tmp_path)) == 8


def test_a_full_disk_gives_a_clear_error_and_the_set_continues_afterwards(whole, tmp_path, monkeypatch):
    original, written = ImageSet.write_image, []

    def full(self, slot, image):
        written.append(slot)
        if len(written) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, slot, image)

    with monkeypatch.context() as patch:
        patch.setattr("debeton.system.files.os.fsync", lambda fd: None)
        patch.setattr("debeton.system.files.replacing", _full_after(10))
        with pytest.raises(DataError, match=r"the disk under .* is full"):
            make(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    make(tmp_path)
    assert kept_of(tmp_path) == kept_of(whole)


def _full_after(count: int):
    """Return `files.replacing`, whose writes fail after `count` files because the disk is full."""
    from contextlib import contextmanager

    from debeton.system.failed_writes import naming_failed_writes
    from debeton.system.files import replacing

    left = [count]
    lock = threading.Lock()

    @contextmanager
    def limited(*paths, **options):
        with lock:
            left[0] -= 1
            is_full = left[0] < 0
        with naming_failed_writes(*paths), replacing(*paths, **options) as partials:
            yield partials
            if is_full:
                raise OSError(errno.ENOSPC, "No space left on device")

    return limited


# --- filters ------------------------------------------------------------------------------------------------------


def picture(red=120, green=120, blue=120, spread=40) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.normal((red, green, blue), spread, (64, 64, 3)), 0, 255).astype(np.uint8)


def test_the_standard_filter_rejects_black_blank_and_grey_and_keeps_colours():
    keep = FILTERS.get("standard")
    grey = np.repeat(picture()[..., :1], 3, axis=2)
    assert keep(np.zeros((64, 64, 3), np.uint8)) == "black"
    assert keep(np.full((64, 64, 3), (200, 10, 10), np.uint8)) == "blank"
    assert keep(grey) == "grey"
    assert keep(picture()) == ACCEPTED  # grey on average, but with colours
    face = grey.copy()
    face[20:44, 20:44, 0] = np.minimum(face[20:44, 20:44, 0].astype(int) + 60, 255)
    assert keep(face) == ACCEPTED  # a face before a grey wall


def test_the_published_filter_is_a_threshold_on_mean_red():
    for level, verdict in (
        (5.0, "grey"),
        (6.5, ACCEPTED),
    ):  # 1.5e6 / 512^2 = 5.72 grey levels from the mean of the channels
        image = np.full((512, 512, 3), 100, np.float64)
        image[..., 0] += level * 1.5  # mean of channels rises by level / 2: red is `level` above it
        dithered = np.floor(image + np.random.default_rng(0).random(image.shape)).astype(np.uint8)
        assert published_grey_filter(1.5e6)(dithered) == verdict
        assert published_grey_filter(1.5e6)(dithered[::4, ::4]) == verdict
    assert FILTERS.get("ffr_faces")(picture()) == "grey"  # a known fault: this image has colours
    assert FILTERS.get("none")(np.zeros((4, 4, 3), np.uint8)) == ACCEPTED


def test_rejected_images_are_counted_and_made_again_with_another_seed(tmp_path):
    image_set = make(tmp_path, per=30)
    counts = image_set.counts()
    assert all(verdicts[ACCEPTED] == 30 for verdicts in counts.values())
    rejected = sum(verdicts.get("grey", 0) for verdicts in counts.values())
    assert abs(rejected - 60) < 5 * np.sqrt(60 * 1.5)  # a third of the seeds: half as many as are kept
    lines = [json.loads(x) for x in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert all((x["sha256"] is None) == (x["verdict"] != ACCEPTED) for x in lines)
    assert all(x["verdict"] == ("grey" if x["seed"] % 3 == 0 else ACCEPTED) for x in lines)


def test_an_image_that_is_always_rejected_gives_an_error_with_its_cell_and_prompt(tmp_path):
    with pytest.raises(
        DataError, match=r"image 0 of 'cat, in' was rejected 20 times, last as 'grey' \(prompt: a photo"
    ):
        make(tmp_path, Noise(one_in=1))


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def noise(monkeypatch) -> None:
    maker = GeneratorFactory(lambda arguments: Noise(one_in=3), lambda parser: None)
    monkeypatch.setitem(GENERATORS._entries, "noise", type(next(iter(GENERATORS)))("noise", maker, "noise"))


def test_the_command_makes_a_set_with_sheets_and_checks_it(noise, tmp_path, capsys):
    words = ("--dataset", "bffhq", "--generator", "noise", "--out", tmp_path, "--per-cell", 3)
    assert command(*words) == 0
    out = capsys.readouterr().out
    assert "young, female: 3 images" in out
    sheets = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    assert sheets == ["old_female.png", "old_male.png", "young_female.png", "young_male.png"]
    assert command("--out", tmp_path, "--check") == 0
    victim = tmp_path / "old" / "male" / "00000001.png"
    victim.write_bytes(b"")
    (tmp_path / "old" / "female" / "00000000.png").unlink()
    assert command("--out", tmp_path, "--check") == 1
    error = capsys.readouterr().err
    assert "old/female/00000000.png is not there" in error
    assert f"{victim} is not the image of manifest.jsonl" in error


def test_chosen_cells_and_blind_prompts(noise, tmp_path):
    words = ("--dataset", "celeba_hq", "--generator", "noise", "--per-cell", 2)
    assert command(*words, "--out", tmp_path / "a", "--cells", "Smiling,Male; not Smiling, Female") == 0
    assert {path.rsplit("/", 1)[0] for path in kept_of(tmp_path / "a")} == {"Smiling/Male", "not Smiling/Female"}
    assert command(*words, "--out", tmp_path / "b", "--blind") == 0
    assert {path.rsplit("/", 1)[0] for path in kept_of(tmp_path / "b")} == {"Smiling/_", "not Smiling/_"}
    assert all("male" not in prompt for _, prompt, _ in kept_of(tmp_path / "b").values())


def import_images(tmp_path: Path, per_cell: int) -> int:
    """Take the images in 'elsewhere' into a set, and return the exit status of the command."""
    words = ("--dataset", "bffhq", "--generator", "folder", "--images", tmp_path / "elsewhere")
    return command(*words, "--out", tmp_path / "set", "--per-cell", per_cell)


def test_images_made_elsewhere_are_taken_into_a_set(tmp_path, capsys):
    generator = Noise()
    for label, attribute in (("young", "female"), ("young", "male"), ("old", "female"), ("old", "male")):
        folder = tmp_path / "elsewhere" / label / attribute
        folder.mkdir(parents=True)
        for k in range(3):
            Image.fromarray(generator.image(k + len(label + attribute))).save(folder / f"{k}.png")
    assert import_images(tmp_path, 3) == 0
    assert len(kept_of(tmp_path / "set")) == 12
    first = np.asarray(Image.open(tmp_path / "set/old/male/00000002.png"))
    np.testing.assert_array_equal(first, generator.image(2 + len("oldmale")))
    Image.fromarray(generator.image(99)).save(tmp_path / "elsewhere/old/male/00.png")  # now number k is another file
    assert import_images(tmp_path, 4) == 2
    assert "was begun with other settings: files is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--dataset", "bffhg"], 2, "no prompts for the data set 'bffhg'; did you mean 'bffhq'"),
        (["--dataset", "bffhq", "--shard", "3/2"], 2, "--shard 3/2: expected K/N"),
        (["--dataset", "bffhq", "--cells", "young,mail"], 2, "unknown cell 'young, mail'; did you mean 'young, male'"),
        (["--dataset", "bffhq", "--per-cell", "0"], 2, "--per-cell 0 makes nothing"),
        (["--dataset", "bffhq", "--label", "agee"], 2, "no phrases for the label 'agee'"),
        (["--dataset", "bffhq", "--generator", "folder"], 2, "--images None is not a folder"),
        (["--check"], 1, "is no set of generated images"),
    ],
)
def test_wrong_use_gives_a_clear_error(tmp_path, capsys, words, status, message):
    assert command(*words, "--out", tmp_path / "set") == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_folder_with_too_few_images_names_the_cell(tmp_path, capsys):
    folder = tmp_path / "elsewhere" / "young" / "female"
    folder.mkdir(parents=True)
    Image.fromarray(Noise().image(1)).save(folder / "a.png")
    assert import_images(tmp_path, 2) == 1
    assert "has 1 images of 'young, female' and 2 are wanted" in capsys.readouterr().err
