"""synthetic_modes.py: USB, ASB, FFR's first stage and the controls have the published counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from debeton.data.spec import DatasetSpec
from debeton.data.views.synthetic_modes import MODES, Amount, synthetic_view
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

PaperView = Callable[..., View]
FACES = DatasetSpec("faces", ("serious", "smiling"), ("female", "male"), aligned=((1,), (0,)))


def mixed(paper_view: PaperView, spec: DatasetSpec, real: list[int], synthetic: list[int]) -> tuple[View, View]:
    """Return the real and the synthetic view of a beton with shuffled rows of both."""
    cells = np.tile(np.arange(spec.num_groups), 2)
    group = np.repeat(cells, real + synthetic)
    source = np.repeat(np.repeat([0, 1], spec.num_groups), real + synthetic)
    order = np.random.default_rng(1).permutation(len(group))
    group, source = group[order], source[order]
    num = len(spec.attributes)
    whole = paper_view(group // num, group % num, spec, source)
    return whole.subset(source == 0, "train"), synthetic_view(whole)


def by_source(view: View) -> tuple[list[int], list[int]]:
    """Return the rows by group, real and synthetic."""
    source, group = view.beton.source[view.rows], view.group[view.rows]
    real, synthetic = (np.bincount(group[source == s], minlength=view.spec.num_groups).tolist() for s in (0, 1))
    return real, synthetic


# Table A.5's derived rows: real cells, USB's additions, m per cell, with 10,000 files per cell.
TABLE = {
    "celeba_hq .9": ([592, 5335, 7797, 866], [7205, 2462, 0, 6931], 4149),
    "celeba_hq .95": ([281, 5335, 7797, 411], [7516, 2462, 0, 7386], 4341),
    "celeba_hq .97": ([166, 5335, 7797, 242], [7631, 2462, 0, 7555], 4412),
    "celeba_hq .99": ([54, 5335, 7797, 79], [7743, 2462, 0, 7718], 4480),
    "celeba_hq .999": ([6, 5335, 7797, 8], [7791, 2462, 0, 7789], 4510),
    "utkface .9": ([103, 934, 5731, 636], [5628, 4797, 0, 5095], 3880),
    "utkface .95": ([50, 934, 5731, 302], [5681, 4797, 0, 5429], 3976),
    "utkface .97": ([29, 934, 5731, 178], [5702, 4797, 0, 5553], 4013),
    "utkface .99": ([10, 934, 5731, 58], [5721, 4797, 0, 5673], 4047),
    "utkface .999": ([1, 934, 5731, 6], [5730, 4797, 0, 5725], 4063),
}


@pytest.mark.parametrize("case", TABLE)
def test_usb_asb_and_the_first_stage_have_the_published_counts(paper_view: PaperView, case: str) -> None:
    cells, additions, m = TABLE[case]
    real, synthetic = mixed(paper_view, FACES, cells, [10000] * 4)
    made = {name: MODES.get(name).train(real, synthetic, Amount()) for name in ("none", "usb", "asb", "only")}
    assert by_source(made["none"]) == (cells, [0] * 4)
    assert by_source(made["usb"]) == (cells, additions)
    assert by_source(made["asb"]) == (cells, [m] * 4)
    assert by_source(made["only"]) == ([0] * 4, [m] * 4)
    assert made["usb"].group_counts().tolist() == [max(cells)] * 4


ANIMALS = DatasetSpec(
    "animals",
    tuple("abcd"),
    tuple("wxyz"),
    ((0,), (1,), (2,), (3,)),
    missing=tuple(4 * k + a for k in range(4) for a in range(4) if a not in (k, k ^ 1)),
)


@pytest.mark.parametrize(
    ("minority", "additions", "m"), [(500, 9500, 4750), (310, 9690, 4845), (102, 9898, 4949), (11, 9989, 4994)]
)
def test_spuco_has_its_published_counts_over_the_eight_cells_that_exist(
    paper_view: PaperView, minority: int, additions: int, m: int
) -> None:
    exists = np.array([g not in ANIMALS.missing for g in range(16)])
    usual = np.array([g // 4 == g % 4 for g in range(16)])
    cells = np.where(usual, 10000, np.where(exists, minority, 0)).tolist()
    real, synthetic = mixed(paper_view, ANIMALS, cells, np.where(exists, 12000, 0).tolist())
    added = by_source(MODES.get("usb").train(real, synthetic, Amount()))[1]
    assert added == np.where(usual | ~exists, 0, additions).tolist()
    assert by_source(MODES.get("only").train(real, synthetic, Amount()))[1] == np.where(exists, m, 0).tolist()


def test_usb_takes_the_images_that_exist_and_the_other_modes_follow_its_total(paper_view: PaperView) -> None:
    real, synthetic = mixed(paper_view, FACES, [10, 100, 100, 30], [40, 40, 40, 40])
    assert by_source(MODES.get("usb").train(real, synthetic, Amount()))[1] == [40, 0, 0, 40]
    assert by_source(MODES.get("asb").train(real, synthetic, Amount()))[1] == [20] * 4


def test_the_modes_share_their_images_and_the_data_seed_alone_draws_them(paper_view: PaperView) -> None:
    real, synthetic = mixed(paper_view, FACES, [10, 100, 120, 30], [200] * 4)
    only, asb = (MODES.get(name).train(real, synthetic, Amount(seed=7)) for name in ("only", "asb"))
    assert set(asb.rows) == set(only.rows) | set(real.rows)
    assert set(MODES.get("only").train(real, synthetic, Amount(5, seed=7)).rows) < set(only.rows)
    assert set(MODES.get("only").train(real, synthetic, Amount(seed=8)).rows) != set(only.rows)


def test_ffr_sees_the_images_of_its_first_stage_before_the_real_rows(paper_view: PaperView) -> None:
    real, synthetic = mixed(paper_view, FACES, [10, 90, 75, 25], [500] * 4)
    amount = Amount(seed=3)
    modes = {name: MODES.get(name) for name in ("only", "biased", "ffr", "ffr_biased", "ffr_reversed", "usb")}
    ffr, reversed_ = modes["ffr"], modes["ffr_reversed"]
    assert ffr.first is not None
    assert reversed_.first is not None
    assert modes["usb"].first is None
    np.testing.assert_array_equal(ffr.train(real, synthetic, amount).rows, real.rows)
    np.testing.assert_array_equal(
        ffr.first(real, synthetic, amount).rows, modes["only"].train(real, synthetic, amount).rows
    )
    np.testing.assert_array_equal(reversed_.first(real, synthetic, amount).rows, real.rows)
    np.testing.assert_array_equal(
        reversed_.train(real, synthetic, amount).rows, ffr.first(real, synthetic, amount).rows
    )
    biased = modes["ffr_biased"].first
    assert biased is not None
    np.testing.assert_array_equal(
        biased(real, synthetic, amount).rows, modes["biased"].train(real, synthetic, amount).rows
    )


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_share_takes_the_same_part_of_every_cells_images(paper_view: PaperView, share: float) -> None:
    real, synthetic = mixed(paper_view, FACES, [10, 90, 75, 25], [500] * 4)  # USB adds 80, 0, 15, 65: m = 40
    amount = Amount(share=share)
    assert by_source(MODES.get("only").train(real, synthetic, amount))[1] == [int(40 * share)] * 4
    usb = by_source(MODES.get("usb").train(real, synthetic, amount))[1]
    assert usb == [int(share * n) for n in (80, 0, 15, 65)]
    assert by_source(MODES.get("usb").train(real, synthetic, Amount(share=0.0)))[1] == [0] * 4


def test_a_cell_with_too_few_images_is_named_with_what_is_missing(paper_view: PaperView) -> None:
    real, synthetic = mixed(paper_view, FACES, [10, 100, 100, 30], [50, 3, 50, 50])
    with pytest.raises(
        DataError,
        match=r"10 synthetic images are wanted .* fewer in 1 of 4: serious, male \(7 missing\); make more with: python "
        r"writers/generate_images.py --dataset .* --per-cell 10",
    ):
        MODES.get("only").train(real, synthetic, Amount(10, seed=0))
    with pytest.raises(DataError, match="balanced already"):
        MODES.get("asb").train(*mixed(paper_view, FACES, [10] * 4, [10] * 4), Amount())


def test_a_beton_without_synthetic_rows_is_refused(paper_view: PaperView) -> None:
    with pytest.raises(UsageError, match=r"paper\.beton has no synthetic rows; write it with --synthetic DIR"):
        synthetic_view(paper_view([0, 1, 1], [0, 0, 1], FACES))


def test_rows_of_two_betons_do_not_mix_and_the_merge_command_is_named(paper_view: PaperView) -> None:
    real, _ = mixed(paper_view, FACES, [1, 10, 10, 1], [20] * 4)
    _, other = mixed(paper_view, FACES, [1, 10, 10, 1], [20] * 4)
    assert len(MODES.get("only").train(real, other, Amount())) == 16
    with pytest.raises(DataError, match=r"write_betons\.py --merge paper\.beton paper\.beton"):
        MODES.get("usb").train(real, other, Amount())


def test_biased_synthetic_images_follow_the_real_shares(paper_view: PaperView) -> None:
    real, synthetic = mixed(paper_view, FACES, [10, 90, 75, 25], [500] * 4)
    counts = by_source(MODES.get("biased").train(real, synthetic, Amount(100, seed=0)))
    assert counts == ([0] * 4, [20, 180, 150, 50])  # floor(2 * 100 * P(attribute | class))


def test_blind_images_are_drawn_by_class_and_no_other_mode_takes_them(paper_view: PaperView) -> None:
    real, synthetic = mixed(paper_view, FACES, [10, 90, 75, 25], [40] * 4)
    flags = np.zeros(len(real.beton), np.int64)
    flags[synthetic.rows[synthetic.group_counts().sum() // 2 :]] = 1
    beton = replace(real.beton, sidecar={"split": "train", "columns": ["blind"]})
    beton.__dict__["extra"] = {"blind": flags}
    real = replace(real, beton=beton)
    synthetic = synthetic_view(replace(real, rows=np.arange(len(beton))))
    assert not flags[synthetic.rows].any()
    made = MODES.get("blind").train(real, synthetic, Amount(12, seed=0))
    assert flags[made.rows].all()
    assert np.bincount(made.label[made.rows]).tolist() == [24, 24]
    plenty = replace(synthetic, rows=np.tile(synthetic.rows, 3))
    with pytest.raises(DataError, match=r"60 attribute-blind images of 'serious' are wanted"):
        MODES.get("blind").train(real, plenty, Amount(30, seed=0))
