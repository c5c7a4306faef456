"""The benchmarks: the common format of results, their arithmetic, and a tiny run of each."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from benchmarks import growth, guard
from benchmarks.__main__ import main, parse
from benchmarks.diffusion import frechet_distance
from benchmarks.guard import violations
from benchmarks.loader import SETS, ImageSet, ratios_of
from benchmarks.loop import ON_CPU
from benchmarks.photos import load_photos, make_photo
from benchmarks.timing import Result, interleave, rate, write_result
from PIL import Image

from debeton.data.loader import pixels
from debeton.system.errors import DataError, UsageError, run_command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
def test_a_tiny_loader_run_records_every_contender_in_the_common_format(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for k in range(48):
            archive.writestr(f"{k:02}.JPEG", make_photo(k))
    out = tmp_path / "new" / "loader.json"
    done = run(
        "loader",
        "--json",
        out,
        "--rounds",
        "1",
        "--images",
        tmp_path / "photos.zip",
        "--batch-size",
        "16",
        "--num-workers",
        "1",
        "--only",
        "jpg256",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert list(found) == ["benchmark", "hardware", "settings", "rounds", "rows", "ratios", "figures"]
    assert (found["benchmark"], found["rounds"]) == ("loader", 1)
    compared = {"jpg256_vs_ffcv", "jpg256_vs_torch", "jpg256_vs_decode", "jpg256_ram_vs_disk"}
    assert set(found["ratios"]) == {*compared, "jpg256_compared_vs_not"}
    assert {row["unit"] for row in found["rows"]} == {"images/s"}
    assert 0 < found["figures"]["second_start_seconds"]["median"] < 60
    speed = {row["name"]: row["median"] for row in found["rows"]}
    assert min(speed.values()) > 0
    assert found["ratios"]["jpg256_vs_ffcv"]["median"] == pytest.approx(
        speed["debeton, jpg256"] / speed["FFCV, jpg256"]
    )
    assert found["settings"]["images"] == "48 of photos.zip"
    assert {"cpu", "cores", "memory_gib", "gpu", "packages"} <= set(found["hardware"])
    assert str(tmp_path) not in out.read_text()  # no folder of this machine
    assert "jpg256_vs_ffcv" in done.stdout


def test_the_loaders_sets_are_jpegs_larger_jpegs_pixels_and_small_squares() -> None:
    files = [make_photo(k) for k in range(2)]
    sets = {name: ImageSet.of(name, files) for name in SETS}
    assert sets["jpg256"].images == files
    assert min(Image.open(io.BytesIO(sets["jpg500"].images[0])).size) == 500
    assert sets["raw256"].images[0].shape[:2] == Image.open(io.BytesIO(files[0])).size[::-1]
    squares = sets["small32"].images
    assert {image.shape for image in squares} == {(32, 32, 3)}
    assert len(squares) == 20
    np.testing.assert_array_equal(squares[0], sets["raw256"].images[0][:32, :32])
    names = [f"{peer}, {name}" for name in SETS for peer in ("debeton", "FFCV", "torchvision", "JPEG decode only")]
    assert {
        "jpg256_vs_ffcv",
        "jpg256_vs_torch",
        "jpg256_vs_decode",
        "jpg500_vs_ffcv",
        "raw256_vs_ffcv",
        "small32_vs_ffcv",
        "small32_vs_torch",
    } <= set(ratios_of(names))


@pytest.mark.slow
def test_a_tiny_methods_run_has_a_ratio_for_each_method(tmp_path: Path) -> None:
    out = tmp_path / "methods.json"
    done = run(
        "methods",
        "--json",
        out,
        "--rounds",
        "1",
        "--arch",
        "small_resnet",
        "--batch-size",
        "32",
        "--steps",
        "1",
        "--methods",
        "groupdro,jtt,cnc",
        "--without-dfr",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    methods = ("groupdro", "jtt", "cnc")
    assert list(found["ratios"]) == [f"{method}_vs_erm" for method in methods]
    assert [row["name"] for row in found["rows"]] == ["erm", *methods]
    assert min(row["min"] for row in found["rows"]) > 0


def test_a_method_without_steps_of_its_own_cannot_be_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: main(["methods", "--methods", "groupdro,dfr"])) == 2
    assert "--methods dfr; expected 'all' or some of: erm, resample" in capsys.readouterr().err


def test_a_tiny_scale_run_has_a_ratio_for_each_batch_and_group_size(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    options = [
        "--rounds",
        "1",
        "--arch",
        "small_resnet",
        "--steps",
        "2",
        "--batch-sizes",
        "4,6",
        "--group-sizes",
        "64,0",
    ]
    assert run_command(lambda: main(["scale", "--json", str(out), *options])) == 0
    found = json.loads(out.read_text())
    assert set(found["ratios"]) == {f"scale{g}_vs_two_erm_b{b}" for g in ("", "_g0") for b in (4, 6)}
    assert len(found["rows"]) == 6
    assert min(row["min"] for row in found["rows"]) > 0


def test_a_tiny_transfer_run_trains_the_same_head_both_ways(tmp_path: Path) -> None:
    out = tmp_path / "transfer.json"
    options = ["--rounds", "1", "--rows", "64", "--epochs", "3", "--resolution", "32"]
    assert run_command(lambda: main(["transfer", "--json", str(out), *options])) == 0
    found = json.loads(out.read_text())
    assert set(found["ratios"]) == {"fixed_uncached_vs_cached"}
    accuracies = [found["settings"][f"accuracy_on_{kind}"] for kind in ("images", "features")]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=1 / 600)
    assert accuracies[0] > 0.15  # ten classes, two steps


@pytest.mark.parametrize("option", [("--rows", "20"), ("--epochs", "0")])
def test_an_impossible_setting_of_the_transfer_run_is_a_usage_error(option, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: main(["transfer", *option])) == 2
    assert option[0] in capsys.readouterr().err


def test_a_tiny_diffusion_run_draws_with_every_sampler_and_trains_beside_the_bare_network(tmp_path: Path) -> None:
    out = tmp_path / "diffusion.json"
    options = [
        "--rounds",
        "1",
        "--images",
        "6",
        "--epochs",
        "1",
        "--noise-steps",
        "8",
        "--steps",
        "2",
        "--batch-size",
        "64",
        "--widths",
        "8,16",
        "--resolution",
        "8",
    ]
    assert run_command(lambda: main(["diffusion", "--json", str(out), *options])) == 0
    found = json.loads(out.read_text())
    assert set(found["ratios"]) >= {"ddpm1000_vs_dpm20", "ddpm1000_vs_ddim50", "train_step_vs_bare"}
    assert [row["name"] for row in found["rows"]][:3] == ["draw, ddpm", "draw, ddim", "draw, dpm++"]
    assert [found["settings"][f"steps_of_{sampler}"] for sampler in ("ddpm", "ddim", "dpm++")] == [8, 8, 8]
    assert all(found["settings"][f"distance_of_{sampler}"] > 0 for sampler in ("ddpm", "ddim", "dpm++"))


def test_the_frechet_distance_of_normal_sets_is_that_of_their_moments() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4000, 3)) * [1.0, 2.0, 0.5]
    b = 1.0 + rng.standard_normal((4000, 3)) * [3.0, 2.0, 0.5]
    left, right = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(3 + 4, rel=0.1)  # |m|^2 + (3 - 1)^2
    eigenvalues = np.linalg.eigvals(left @ right).real
    exact = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(left + right) - 2 * np.sqrt(eigenvalues).sum()
    assert frechet_distance(a, b) == pytest.approx(exact)


@pytest.mark.parametrize("option", [("--images", "1"), ("--noise-steps", "1"), ("--steps", "0")])
def test_an_impossible_setting_of_the_diffusion_run_is_a_usage_error(
    option, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: main(["diffusion", *option])) == 2
    assert " ".join(option) in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--batch-sizes", "1"), ("--group-sizes", "a"), ("--steps", "0")])
def test_an_impossible_setting_of_the_scale_run_is_a_usage_error(option, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: main(["scale", *option])) == 2
    assert " ".join(option) in capsys.readouterr().err


def test_ratios_are_taken_round_by_round_and_then_summarised() -> None:
    values = {"a": [10.0, 30.0, 80.0], "b": [10.0, 10.0, 20.0]}
    result = Result("x", values, {"a": "1/s", "b": "1/s"}, {"a_vs_b": ("a", "b")}).to_dict()
    assert result["rows"][0] == {"name": "a", "unit": "1/s", "min": 10, "median": 30, "max": 80}
    assert result["ratios"] == {"a_vs_b": {"min": 1, "median": 3, "max": 4}}


def test_contenders_take_turns_after_one_warm_up_each() -> None:
    turns: list[str] = []

    def contender(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    values = interleave({name: lambda name=name: contender(name) for name in "ab"}, 2)  # type: ignore[misc]
    assert "".join(turns) == "ababab"
    assert values == {"a": [3, 5], "b": [4, 6]}


def test_rate_is_the_returned_number_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0])
    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: next(clock))
    assert rate(lambda: 10)() == 2.5


def test_an_old_result_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_result(path, {"rounds": 1})
    with pytest.raises(TypeError):
        write_result(path, {"rounds": object()})
    assert json.loads(path.read_text()) == {"rounds": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_benchmark_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: main(["loadr"])) == 2
    assert "unknown benchmark 'loadr'; did you mean 'loader'?" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--num-workers", "0"), ("--batch-size", "0"), ("--limit", "0"), ("--rounds", "0")])
def test_an_impossible_setting_is_a_usage_error_that_names_it(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: main(["loader", *option])) == 2
    assert " ".join(option) in capsys.readouterr().err


def test_photos_come_from_a_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub/b.jpg", "a.jpeg", "note.txt"):
        (tmp_path / name).write_bytes(name.encode())
    assert load_photos(tmp_path).files == [b"a.jpeg", b"sub/b.jpg"]
    assert load_photos(tmp_path, limit=1).files == [b"a.jpeg"]


def test_a_folder_without_photos_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=tmp_path.name):
        load_photos(tmp_path)


def test_without_photos_seeded_ones_are_made_and_named_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEBETON_DATA", str(tmp_path))
    photos = load_photos(None, limit=3)
    assert photos.source.startswith("3 generated")
    assert photos.files == [make_photo(k) for k in range(3)]


def test_made_photos_have_the_spectrum_of_photos() -> None:  # amplitude 1/f: power falls 4-fold per octave
    pixels = np.asarray(Image.open(io.BytesIO(make_photo(0))).convert("L"), float)
    assert min(pixels.shape) == 256
    rows = np.abs(np.fft.rfft2(pixels - pixels.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(pixels.shape[0])[:, None], np.fft.rfftfreq(pixels.shape[1])[None])
    low, high = (rows[(frequency >= f) & (frequency < 2 * f)].mean() for f in (0.03, 0.06))
    assert low / high == pytest.approx(4, rel=0.2)


@pytest.mark.slow
def test_a_tiny_writing_run_records_every_contender_and_leaves_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for k in range(12):
            archive.writestr(f"{k:02}.JPEG", make_photo(k))
    out, disk = tmp_path / "writing.json", tmp_path / "disk"
    disk.mkdir()
    done = run(
        "writing",
        "--json",
        out,
        "--rounds",
        "2",
        "--images",
        tmp_path / "photos.zip",
        "--num-workers",
        "1",
        "--merge-megabytes",
        "4",
        "--column-rows",
        "50",
        "--folder",
        disk,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert (found["benchmark"], found["rounds"]) == ("writing", 2)
    assert set(found["ratios"]) == {"write_vs_ffcv", "write_vs_decode", "merge_vs_cp"}
    assert [row["unit"] for row in found["rows"]] == [*["images/s"] * 3, *["MB/s"] * 2, "ms"]
    assert min(row["min"] for row in found["rows"]) > 0
    assert found["settings"]["column_rows"] == 50
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("option", [("--merge-megabytes", "0"), ("--column-rows", "0"), ("--num-workers", "0")])
def test_an_impossible_setting_of_the_writing_run_is_a_usage_error(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: main(["writing", *option])) == 2
    assert " ".join(option) in capsys.readouterr().err


def test_a_tiny_loop_run_has_an_overhead_for_each_network(tmp_path: Path) -> None:
    out = tmp_path / "loop.json"
    options = ["--rounds", "1", "--steps", "2", "--batch-size", "4", "--only", "small, resnet18"]
    assert run_command(lambda: main(["loop", "--json", str(out), *options])) == 0
    found = json.loads(out.read_text())
    assert list(found["ratios"]) == ["overhead_small", "overhead_resnet18"]
    assert [row["name"] for row in found["rows"]] == [
        "small, the loop",
        "small, bare",
        "resnet18, the loop",
        "resnet18, bare",
    ]
    assert min(row["min"] for row in found["rows"]) > 0


@pytest.mark.parametrize("option", [("--steps", "1"), ("--batch-size", "1"), ("--only", "vgg")])
def test_an_impossible_setting_of_the_loop_run_is_a_usage_error(option, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: main(["loop", *option])) == 2
    assert option[0] in capsys.readouterr().err


def test_the_guard_names_ratios_that_are_out_of_bounds() -> None:
    result = {"ratios": {"fast": {"median": 1.9}, "slow": {"median": 1.2}}, "figures": {"start": {"median": 2.5}}}
    bound = {"at_least": {"fast": 1.9, "slow": 1.5, "gone": 2}, "at_most": {"start": 2}}
    assert violations(result, bound) == [
        "slow is 1.20; at least 1.5 is expected",
        "gone was not measured; at least 2 is expected",
        "start is 2.50; at most 2 is expected",
    ]


def test_the_guard_runs_what_it_names_and_ends_with_status_1_where_a_bound_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rounds", "1", "--steps", "2", "--batch-size", "4", "--only", "small"]
    monkeypatch.setattr(guard, "BOUNDS", tmp_path / "guard.yaml")
    for limit, status, said in ((1e6, 0, "every bound is kept"), (0, 1, "loop: overhead_small is")):
        text = json.dumps({"loop": {"options": options, "at_most": {"overhead_small": limit}}})
        (tmp_path / "guard.yaml").write_text(text)
        assert run_command(lambda: main(["--check", "loop"])) == status
        printed = capsys.readouterr()
        assert said in printed.out + printed.err
    assert run_command(lambda: main(["--check", "lop"])) == 2
    assert "knows no bounds for 'lop'; known: loop" in capsys.readouterr().err


def test_every_guarded_ratio_is_one_that_its_benchmark_gives() -> None:
    names = [f"{peer}, {name}" for name in SETS for peer in ("debeton", "FFCV", "torchvision", "JPEG decode only")]
    found = guard.bounds()
    loader = {**found["loader"]["at_least"], **found["loader"]["at_most"]}
    assert set(loader) <= {*ratios_of(names), "second_start_seconds"}
    assert set(found["loop"]["at_most"]) == {f"overhead_{name}" for name in ON_CPU}


# --- growth --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_growth_run_measures_every_axis_and_draws_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(growth, "NUMBERS", (2, 8))
    monkeypatch.setattr(growth, "SIDES", (16, 32))
    monkeypatch.setattr(growth, "STEPS", 1)
    out, figure = tmp_path / "growth.json", tmp_path / "growth.png"
    options = ["--rounds", "1", "--rows", "100", "--limit", "2", "--figure", str(figure), "--json", str(out)]
    assert run_command(lambda: main(["growth", *options])) == 0
    result = json.loads(out.read_text())
    names = {row["name"]: row for row in result["rows"]}
    expected = {"rows 100: write", "groups 8: step", "classes 8: metrics", "workers 1: epoch", "resolution 16: epoch"}
    assert expected <= set(names)
    assert 50 < names["rows 100: memory"]["median"] < 5000
    assert names["rows 100: memory"]["unit"] == "MB"
    assert {"groups_metrics_exponent", "classes_step_exponent", "resolution_epoch_exponent"} <= set(result["figures"])
    assert figure.stat().st_size > 5000


def test_an_exponent_is_1_where_cost_grows_in_proportion_and_2_for_its_square() -> None:
    assert growth.exponents({10: [1.0, 2.0], 1000: [100.0, 20000.0]}) == pytest.approx([1, 2])


@pytest.mark.parametrize("option", [["--rows", "0"], ["--rows", "a"], ["--only", "seas"]])
def test_an_impossible_setting_of_the_growth_run_is_a_usage_error(option: list[str], capsys) -> None:
    assert run_command(lambda: main(["growth", *option])) == 2
    assert option[1] in capsys.readouterr().err


def test_a_tiny_jpegs_run_has_the_differences_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import jpegs
    from benchmarks.jpeg_kinds import KINDS

    monkeypatch.setattr(jpegs, "KINDS", {name: KINDS[name] for name in ("4:1:1", "grey as 2x2")})
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    arguments = parse("jpegs", jpegs.add_arguments, ["--images", str(tmp_path), "--rounds", "1"])
    result = jpegs.run(arguments).to_dict()
    assert [row["name"] for row in result["rows"]][:2] == ["4:1:1, mean", "4:1:1, 99th percentile"]
    assert len(result["rows"]) == 6
    assert all(row["max"] <= 1 for row in result["rows"])
    assert result["settings"]["images"] == f"1 of {tmp_path.name}"
    with pytest.raises(UsageError, match="--quality 0 is out of range"):
        jpegs.run(parse("jpegs", jpegs.add_arguments, ["--quality", "0"]))


@pytest.mark.skipif(not pixels.AVAILABLE, reason=f"pixels.c is not compiled: {pixels.MISSING}")
def test_another_pixels_c_runs_in_its_own_work_only(tmp_path: Path) -> None:
    from benchmarks.loader_peers import other_pixels

    own = pixels._LIBRARY
    work = other_pixels(pixels.SOURCE, lambda: 1 if pixels._LIBRARY is own else 2)
    assert work() == 2
    assert pixels._LIBRARY is own
    (tmp_path / "bad.c").write_text("int")
    with pytest.raises(UsageError, match=r"bad\.c cannot be compiled"):
        other_pixels(tmp_path / "bad.c", work)
