"""Choice of the best of several settings: the rule, and the score of a finished run under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from debeton.system.errors import DataError
from debeton.train.metrics import SELECTION_RULES, TIE_BREAK, Metrics, selection_score
from debeton.train.result_files import LOG_NAME, read_log


def rule_of_scores(all_results: Sequence[Mapping[str, Any]]) -> str:
    """Return the selection rule that compares finished runs on validation.

    It is the rule that all of them asked for, or worst_group where they asked for several or keep the last epoch. Where
    that rule is undefined for one of them, it is mean_group, or else worst_class.

    all_results: contents of results.json.

    DataError: a run has no validation split, or no rule is defined for all.
    """
    _check_validation(all_results)
    asked = {(results.get("selected_by") or results).get("asked", results["selection"]) for results in all_results}
    wanted = asked.pop() if len(asked) == 1 else "worst_group"
    for rule in (wanted if wanted in SELECTION_RULES else "worst_group", TIE_BREAK, "worst_class", "average"):
        if all(results["val"].get(SELECTION_RULES[rule].metric) is not None for results in all_results):
            return rule
    raise DataError(
        f"the runs of {all_results[0]['folder'].parent} and others have no accuracy on validation that all of them "
        "define, so no best setting can be chosen; give the study one setting"
    )


def best_setting(by_setting: Mapping[str, Sequence[Mapping[str, Any]]], rule: str = "") -> str:
    """Return the setting with the best validation score, averaged over seeds; of equal ones the first.

    by_setting: contents of results.json, with the run folder under 'folder', by setting.
    rule: a rule that selects the epoch of each run anew (`score_under`); '': each run is judged at its own epoch, by
        the rule of all runs.

    DataError: a run has no validation split, or the rule is undefined for one.
    """
    everything = [results for members in by_setting.values() for results in members]
    if rule:
        _check_validation(everything)
        scores = {name: [score_under(rule, results) for results in members] for name, members in by_setting.items()}
    else:
        rule = rule_of_scores(everything)
        scores = {name: [selection_score(r["val"], rule) for r in members] for name, members in by_setting.items()}
    return max(scores, key=lambda name: tuple(sum(part) / len(part) for part in zip(*scores[name])))


def score_under(rule: str, results: Mapping[str, Any]) -> tuple[float, float]:
    """Return the validation score of a finished run as if the rule had selected its epoch.

    rule: a key of SELECTION_RULES.
    results: content of results.json, with the run folder under 'folder'.
    """
    return max(selection_score(metrics, rule) for metrics in _evaluations(rule, results))


def metrics_under(rule: str, results: Mapping[str, Any]) -> Metrics:
    """Return the validation metrics at the epoch that the rule would select. Arguments as of `score_under`."""
    return max(_evaluations(rule, results), key=lambda metrics: selection_score(metrics, rule))


def _evaluations(rule: str, results: Mapping[str, Any]) -> list[Metrics]:
    """Return the validation metrics from which a rule selects: of the epochs of the phase that ends in the model.

    They are those of the reported model alone where the rule is the run's own. So are they where a later phase without
    epochs makes the model, such as a fit of the last layer.
    """
    final: Metrics = results["val"]
    phases = list((results.get("timing") or {}).get("phases") or {})
    if rule == results.get("selection") or not phases:
        return [final]
    lines = [line for line in read_log(Path(results["folder"]) / LOG_NAME) if line["split"] == "val"]
    return [line["metrics"] for line in lines if line["phase"] == phases[-1]] or [final]


def _check_validation(all_results: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError for a run without a validation split."""
    for results in all_results:
        if results["val"] is None:
            raise DataError(
                f"{results['folder']} has no validation split, so no best setting can be chosen; hold rows out with "
                "data.val_fraction, or give the study one setting"
            )
