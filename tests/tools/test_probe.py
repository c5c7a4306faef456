"""probe.py: chance on noise, certainty on linear features, and a network trained on real and synthetic rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.running import folder_of, run
from tests.toy import TOY_SPEC, toy_rows

from debeton.commands import probe as command
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import Rows
from debeton.system.errors import DataError, run_command
from debeton.tools.probe import equally_many_per_group, fit_probe, probe_run


def test_a_probe_is_at_chance_on_noise_and_right_on_what_is_linear():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 4000)
    noise = rng.standard_normal((4000, 10)).astype(np.float32)
    found = fit_probe(noise, codes, seed=0)
    assert found.chance == 0.25
    assert abs(found.accuracy - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 2000)
    noise[:, :4] += 9 * np.eye(4, dtype=np.float32)[codes]
    assert fit_probe(noise, codes, seed=0).accuracy > 0.99


def test_a_probe_of_two_gaussians_has_their_bayes_accuracy():
    from scipy.stats import norm

    rng = np.random.default_rng(1)
    codes = np.arange(20000) % 2
    x = rng.standard_normal((20000, 3)).astype(np.float32)
    x[:, 1] += 1.4 * codes
    assert fit_probe(x, codes, seed=0).accuracy == pytest.approx(norm.cdf(0.7), abs=5 * np.sqrt(0.25 / 10000))


def test_every_group_gives_as_many_rows_as_the_smallest(paper_view):
    view = paper_view([0] * 9 + [1] * 21, [0] * 4 + [1] * 3 + [2] * 2 + [0] * 15 + [1] * 6)  # 4, 3, 2; 15, 6 rows
    chosen = equally_many_per_group(view, 3, seed=0)
    assert chosen.group_counts().tolist() == [2, 2, 2, 2, 2, 0]  # the last cell does not exist
    with pytest.raises(DataError, match="has 1 rows; probes need 2 of each"):
        equally_many_per_group(view, 1, seed=0)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Write the toy set with synthetic rows whose images have a stripe that no real one has."""
    folder = tmp_path_factory.mktemp("mixed")
    real, made = toy_rows(200, 0.95, 40), toy_rows(300, 0.5, 41)

    def striped(row: int) -> np.ndarray:
        image = made.image(row).copy()
        image[::4] = np.minimum(image[::4].astype(int) + 60, 255)
        return image

    rows = Rows(
        np.concatenate([real.label, made.label]),
        np.concatenate([real.attribute, made.attribute]),
        lambda row: real.image(row) if row < 200 else striped(row - 200),
        [*real.names, *(f"s{k}" for k in range(300))],
        source=np.repeat([0, 1], [200, 300]),
    )
    write_beton(folder / "toy_train.beton", rows, TOY_SPEC, "train", WriteOptions(mode="raw"))
    for seed, (split, n) in enumerate((("val", 128), ("test", 400)), start=42):
        write_beton(folder / f"toy_{split}.beton", toy_rows(n, 0.5, seed), TOY_SPEC, split, WriteOptions(mode="raw"))
    return folder


def test_a_run_is_probed_for_attribute_and_source(mixed, toy_args, tmp_path, capsys):
    args = [*toy_args, "--training.data_root", str(mixed), "--synthetic.mode", "usb", "--training.epochs", "4"]
    assert run(args) == 0
    folder = folder_of(tmp_path / "runs")
    found = probe_run(folder, per_group=60)
    assert found == json.loads((folder / "probe.json").read_text())
    assert found["attribute"]["accuracy"] > 0.9  # brightness: any feature has it
    assert found["source"]["accuracy"] > 0.9  # the stripe
    assert (found["attribute"]["chance"], found["source"]["chance"]) == (0.5, 0.5)
    assert found["source"]["rows"] == 2 * found["attribute"]["rows"] == 2 * 4 * 60
    assert run_command(lambda: command.main([str(tmp_path / "runs"), "--out", str(tmp_path / "probes.csv")])) == 0
    assert "| erm | 1 | 9" in capsys.readouterr().out
    assert (tmp_path / "probes.csv").read_text().startswith("setting,n,source (%),attribute (%)")


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not finished"):
        probe_run(tmp_path)


def test_a_run_without_synthetic_rows_is_probed_for_the_attribute_alone(toy_args, tmp_path):
    assert run([*toy_args, "--training.epochs", "1"]) == 0
    found = probe_run(folder_of(tmp_path / "runs"), per_group=20)
    assert "source" not in found
    assert 0 <= found["attribute"]["accuracy"] <= 1
