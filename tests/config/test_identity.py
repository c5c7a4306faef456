"""Identity of runs: which settings make two runs the same run, or two runs of one setting."""

from dataclasses import dataclass

from tests.config.test_sections import forget  # noqa: F401 - a fixture

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import declared, load, run_seeds, section, setting, setting_identity
from debeton.config.checkers import Int

NONE = {
    "training.outdir", "training.exp_name", "training.num_workers", "training.eval_batch_size", "training.log_every",
    "training.device", "dist.backend",
}  # fmt: skip


def test_each_setting_declares_its_part():
    parts = {key: one.identity for key, one in declared().items()}
    assert {key for key, part in parts.items() if part == "none"} == NONE | {
        key for key in parts if key.startswith(("loader.", "logging."))
    }
    seeds = ["training.seed", "training.order_seed", "training.augment_seed", "data.seed"]
    assert [key for key, part in parts.items() if part == "seed"] == seeds
    assert [key for key, part in parts.items() if part == "place"] == ["training.data_root"]
    assert set(parts.values()) == {"setting", "seed", "place", "none"}


def test_the_hash_has_seeds_and_folders_and_a_setting_has_neither():
    base, other = load(), load(overrides=["--training.seed", "7", "--data.seed", "8", "--training.data_root", "x"])
    assert base.identity_hash() != other.identity_hash()
    assert setting_identity(base.values) == setting_identity(other.values)
    assert run_seeds(other.values) == {"training.seed": 7, "data.seed": 8}


def test_a_section_declares_the_part_of_its_settings_and_a_setting_its_own(forget):  # noqa: F811
    @section("cachetest", "a section outside the package", identity="none")
    @dataclass(frozen=True)
    class Cache:
        size: int = setting(Int(0), "rows", default=1)
        rate: int = setting(Int(0), "rate", default=1, identity="setting")

    base = load().identity_hash()
    assert load(overrides=["--cachetest.size", "9"]).identity_hash() == base
    assert load(overrides=["--cachetest.rate", "9"]).identity_hash() != base
    assert setting_identity({"cachetest.size": 1, "cachetest.gone": 2, "cachetest.rate": 3}) == {"cachetest.rate": 3}
    assert setting_identity({"unknown.key": 1}) == {"unknown.key": 1}
