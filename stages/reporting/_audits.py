"""The report's audits: figures of the stage `audit` as sentences, each with a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Numbers = Mapping[str, float]
Verdict = Literal["ok", "look", "not measured"]

SURE = 2.0  # standard errors above 0: a gain
AWAY = 3.0  # standard errors from 0, of what should be 0: with a dozen audits, seldom by chance
SWAP = 1e-6
LEAK_SHARE = 0.02  # of the test rows
KNOWN = 0.5  # share of answers whose model is told: far more than style can
CHANCE = 0.01


@dataclass(frozen=True)
class Finding:
    """One audit: what was looked at, whether it is as it should be, and a plain sentence."""

    name: str
    verdict: Verdict
    text: str


def findings(audit: Numbers, scores: Numbers, final: str) -> list[Finding]:
    """All audits that the dataset has figures for.

    Args:
        audit: What the stage `audit` wrote.
        scores: What the stage `score` wrote of the final model.
        final: Its name.
    """
    found = [_leaks(audit)]
    if "longer_log_loss" in audit:
        found += [_names(audit), _gain(audit, final, "longer"), _gain(audit, final, "style")]
        found += [_length(audit, final), _ties(audit, final), _swap(audit), _shift(audit)]
    found.append(_calibration(scores, final))
    if "fold_chance" in audit:
        found.append(_folds(audit))
    if f"{final}_seen_less_expected" in audit:
        found.append(_truth(audit, final))
    return found


def seeds(curve: pd.DataFrame) -> list[Finding]:
    """How far log losses stray over seeds, where a learning curve was drawn with several."""
    if not len(curve) or "seeds" not in curve:
        return []
    whole = curve[(curve["fraction"] == 1) & (curve["seeds"] > 1)]
    if not len(whole):
        return []
    lines = [
        f"{line.model} {line.log_loss:.4f} ± {line.log_loss_seed_deviation:.4f}"
        for line in whole.itertuples()
    ]
    noisy = (whole["log_loss_seed_deviation"] > whole["log_loss_standard_error"]).any()
    text = f"Mean and standard deviation over {whole['seeds'].max():.0f} seeds: {', '.join(lines)}."
    return [Finding("Seeds", "look" if noisy else "ok", text)]


def gains(audit: Numbers) -> pd.DataFrame:
    """Columns `model`, and gain and error over both baselines; no rows where there are none."""
    key = "_gain_over_longer"
    models = [name.removesuffix(key) for name in audit if name.endswith(key)]
    return pd.DataFrame(
        [
            {"model": model}
            | {
                f"{base}{suffix}": audit[f"{model}_gain_over_{base}{suffix}"]
                for base in ("longer", "style")
                for suffix in ("", "_standard_error")
            }
            for model in models
            if not model.startswith("length_decile_")
        ]
    )


def _leaks(audit: Numbers) -> Finding:
    good = audit["between_folds"] == 0 and audit["leak_share"] <= LEAK_SHARE
    return Finding(
        "Duplicates",
        "ok" if good else "look",
        f"{audit['between_folds']:.0f} texts stand in more than one fold. "
        f"{audit['leaks']:.0f} test rows ({100 * audit['leak_share']:.1f}%) are near-duplicates of "
        f"train rows, {audit['exact_leaks']:.0f} of them exact; {audit['duplicates_in_train']:.0f} "
        "train rows repeat others, and share their fold.",
    )


def _names(audit: Numbers) -> Finding:
    text = "The rows that features are made of hold no model name."
    if "model_told_by_style" not in audit:
        return Finding("Model names", "ok", f"{text} Too few names are known to say more.")
    told, chance = audit["model_told_by_style"], audit["model_told_by_chance"]
    return Finding(
        "Model names",
        "look" if told > KNOWN else "ok",
        f"{text} Style alone tells which model wrote an answer for {100 * told:.1f}% of "
        f"{audit['answers_of_frequent_models']:,.0f} answers; naming always the most frequent one "
        f"is right for {100 * chance:.1f}%.",
    )


def _gain(audit: Numbers, final: str, base: str) -> Finding:
    names = {"longer": "Pick the longer", "style": "Style alone"}
    gain, error = _pair(audit, f"{final}_gain_over_{base}")
    better = "better" if gain >= 0 else "worse"
    return Finding(
        names[base],
        "ok" if gain > SURE * error else "look",
        f"{names[base]} has a log loss of {audit[f'{base}_log_loss']:.4f}; {final} is {better} by "
        f"{abs(gain):.4f} ± {error:.4f}.",
    )


def _length(audit: Numbers, final: str) -> Finding:
    if "longer_preferred_people" not in audit:
        return Finding("Length bias", "not measured", "No row has answers of different length.")
    people, error = _pair(audit, "longer_preferred_people")
    model = audit[f"longer_preferred_{final}"]
    return Finding(
        "Length bias",
        _near_zero(model - people, error),
        f"Where one answer is preferred, people prefer the longer in {100 * people:.1f}% "
        f"(± {100 * error:.1f}); {final} expects {100 * model:.1f}%.",
    )


def _ties(audit: Numbers, final: str) -> Finding:
    if not audit["tie_rows"]:
        return Finding("Ties", "not measured", "No row is a tie.")
    gain, error = _pair(audit, "tie_gain_over_class_shares")
    better = "better" if gain >= 0 else "worse"
    return Finding(
        "Ties",
        "look" if gain < -SURE * error else "ok",
        f"On the {audit['tie_rows']:,.0f} ties {final} has a log loss of "
        f"{audit['tie_log_loss']:.4f}, {better} than the class shares by {abs(gain):.4f} ± "
        f"{error:.4f}; on the others {audit['decided_log_loss']:.4f}.",
    )


def _swap(audit: Numbers) -> Finding:
    swaps = {name: value for name, value in audit.items() if name.endswith("_swap_error")}
    worst = max(swaps, key=lambda name: swaps[name])
    lean, error = _pair(audit, "lean_of_people")
    return Finding(
        "Position",
        "ok" if swaps[worst] <= SWAP else "look",
        f"People prefer A more often than B by {100 * lean:.1f} ± {100 * error:.1f} points. "
        f"Exchanging A and B changes no probability by more than {swaps[worst]:.1g} "
        f"({worst.removesuffix('_swap_error')}).",
    )


def _shift(audit: Numbers) -> Finding:
    if "shift_loss" not in audit:
        return Finding(
            "New models", "not measured",
            f"{audit['rows_with_models']:,.0f} rows tell which models answered: too few.",
        )  # fmt: skip
    loss, error = _pair(audit, "shift_loss")
    return Finding(
        "New models",
        "look" if loss > SURE * error else "ok",
        f"Logistic regression on style has {audit['shift_unseen_log_loss']:.4f} on "
        f"{audit['shift_rows']:,.0f} rows of models that it never saw, and "
        f"{audit['shift_control_log_loss']:.4f} on the same rows, fitted on as many "
        f"({audit['shift_train_rows']:,.0f}) of any models: {loss:+.4f} ± {error:.4f}. With all "
        f"rows of the other folds it has {audit['shift_stored_folds_log_loss']:.4f}. "
        f"{audit['rows_without_models']:,.0f} rows without both names are left out.",
    )


def _calibration(scores: Numbers, final: str) -> Finding:
    error, bound = scores["class_calibration_error"], scores["class_calibration_noise_bound"]
    return Finding(
        "Calibration",
        "ok" if error <= bound else "look",
        f"The class-wise calibration error of {final} is {error:.4f}. Perfectly "
        f"calibrated, so many rows would show {scores['class_calibration_noise']:.4f} by chance, "
        f"and in 19 of 20 cases at most {bound:.4f}.",
    )


def _folds(audit: Numbers) -> Finding:
    chance = audit["fold_chance"]
    return Finding(
        "Folds",
        "ok" if chance >= CHANCE else "look",
        f"The log losses of {audit['folds_judged']:.0f} folds span {audit['fold_spread']:.4f} "
        f"(standard error of their mean {audit['fold_standard_error']:.4f}); by chance they differ "
        f"as much in {100 * chance:.0f}% of cases.",
    )


def _truth(audit: Numbers, final: str) -> Finding:
    away, error = _pair(audit, f"{final}_seen_less_expected")
    return Finding(
        "Truth",
        _near_zero(away, error),
        f"Under the true probabilities the log loss of {final} should be "
        f"{'lower' if away > 0 else 'higher'} than the one seen by {abs(away):.4f} ± {error:.4f}. "
        "Far higher would be a leak of labels.",
    )


def _pair(audit: Numbers, name: str) -> tuple[float, float]:
    return audit[name], audit[f"{name}_standard_error"]


def _near_zero(value: float, error: float) -> Verdict:
    return "ok" if abs(value) <= AWAY * error else "look"
