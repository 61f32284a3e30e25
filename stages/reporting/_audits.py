"""The report's audits: figures of the stage `audit` as sentences, each with a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

Figures: TypeAlias = Mapping[str, Any]  # numbers, or more of these, by name
Verdict = Literal["ok", "look", "not measured"]

SURE = 2.0  # standard errors above 0: a gain
AWAY = 3.0  # standard errors from 0, of what should be 0: with a dozen audits, seldom by chance
SWAP = 1e-6
LEAK_SHARE = 0.02  # of the test rows
KNOWN = 0.5  # share of answers whose model is told: far more than style can
CHANCE = 0.01
BASELINES = {"longer": "Pick the longer", "style": "Style alone"}


@dataclass(frozen=True)
class Finding:
    """One audit: what was looked at, whether it is as it should be, and a plain sentence."""

    name: str
    verdict: Verdict
    text: str


def findings(audit: Figures, scores: Figures, final: str) -> list[Finding]:
    """All audits that the dataset has figures for.

    Args:
        audit: What the stage `audit` wrote.
        scores: What the stage `score` wrote of the final model.
        final: Its name.
    """
    found = [_duplicates(audit["duplicates"])]
    if "baselines" in audit:
        found.append(_names(audit["names"]))
        found += [_gain(audit["baselines"], final, base) for base in BASELINES]
        found += [_length(audit["length"]["longer_preferred"], final)]
        found += [_ties(audit["outcomes"], final), _swap(audit["position"])]
        found.append(_shift(audit["names"]))
    found.append(_calibration(scores["oof"], final))
    if "chance" in audit["folds"]:
        found.append(_folds(audit["folds"]))
    if "truth" in audit:
        found.append(_truth(audit["truth"], final))
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


def gains(audit: Figures) -> pd.DataFrame:
    """Columns `model`, and gain and error over both baselines; no rows where there are none."""
    lines: dict[str, dict[str, float]] = {}
    for base, found in audit.get("baselines", {}).items():
        for model, gain in found["gain"].items():
            own = {base: gain["mean"], f"{base}_standard_error": gain["standard_error"]}
            lines.setdefault(model, {}).update(own)
    return pd.DataFrame([{"model": model} | line for model, line in lines.items()])


def _duplicates(found: Figures) -> Finding:
    good = found["between_folds"] == 0 and found["leak_share"] <= LEAK_SHARE
    return Finding(
        "Duplicates",
        "ok" if good else "look",
        f"{found['between_folds']:.0f} texts stand in more than one fold. "
        f"{found['leaks']:.0f} test rows ({100 * found['leak_share']:.1f}%) are near-duplicates of "
        f"train rows, {found['exact_leaks']:.0f} of them exact; {found['duplicates_in_train']:.0f} "
        "train rows repeat others, and share their fold.",
    )


def _names(names: Figures) -> Finding:
    text = "The rows that features are made of hold no model name."
    if "told_by_style" not in names:
        return Finding("Model names", "ok", f"{text} Too few names are known to say more.")
    told = names["told_by_style"]
    return Finding(
        "Model names",
        "look" if told["right"] > KNOWN else "ok",
        f"{text} Style alone tells which model wrote an answer for {100 * told['right']:.1f}% of "
        f"{told['answers']:,.0f} answers; naming always the most frequent one "
        f"is right for {100 * told['right_by_chance']:.1f}%.",
    )


def _gain(baselines: Figures, final: str, base: str) -> Finding:
    loss = baselines[base]["log_loss"]["mean"]
    gain, error = _pair(baselines[base]["gain"][final])
    better = "better" if gain >= 0 else "worse"
    return Finding(
        BASELINES[base],
        "ok" if gain > SURE * error else "look",
        f"{BASELINES[base]} has a log loss of {loss:.4f}; {final} is {better} by "
        f"{abs(gain):.4f} ± {error:.4f}.",
    )


def _length(longer: Figures, final: str) -> Finding:
    if not longer:
        return Finding("Length bias", "not measured", "No row has answers of different length.")
    people, error = _pair(longer["people"])
    model = longer["final"]["mean"]
    return Finding(
        "Length bias",
        _near_zero(model - people, error),
        f"Where one answer is preferred, people prefer the longer in {100 * people:.1f}% "
        f"(± {100 * error:.1f}); {final} expects {100 * model:.1f}%.",
    )


def _ties(outcomes: Figures, final: str) -> Finding:
    tie, decided = outcomes["tie"], outcomes["decided"]
    if not tie["rows"]:
        return Finding("Ties", "not measured", "No row is a tie.")
    gain, error = _pair(tie["gain_over_class_shares"])
    better = "better" if gain >= 0 else "worse"
    return Finding(
        "Ties",
        "look" if gain < -SURE * error else "ok",
        f"On the {tie['rows']:,.0f} ties {final} has a log loss of "
        f"{tie['log_loss']:.4f}, {better} than the class shares by {abs(gain):.4f} ± "
        f"{error:.4f}; on the others {decided['log_loss']:.4f}.",
    )


def _swap(position: Figures) -> Finding:
    worst, change = max(position["swap_error"].items(), key=lambda line: line[1])
    lean, error = _pair(position["lean_of_people"])
    return Finding(
        "Position",
        "ok" if change <= SWAP else "look",
        f"People prefer A more often than B by {100 * lean:.1f} ± {100 * error:.1f} points. "
        f"Exchanging A and B changes no probability by more than {change:.1g} ({worst}).",
    )


def _shift(names: Figures) -> Finding:
    if "shift" not in names:
        return Finding(
            "New models", "not measured",
            f"{names['rows_with_names']:,.0f} rows tell which models answered: too few.",
        )  # fmt: skip
    shift, loss = names["shift"], names["shift"]["log_loss"]
    lost, error = _pair(shift["lost"])
    return Finding(
        "New models",
        "look" if lost > SURE * error else "ok",
        f"Logistic regression on style has {loss['unseen']:.4f} on "
        f"{shift['rows']:,.0f} rows of models that it never saw, and "
        f"{loss['control']:.4f} on the same rows, fitted on as many "
        f"({shift['train_rows']:,.0f}) of any models: {lost:+.4f} ± {error:.4f}. With all "
        f"rows of the other folds it has {loss['stored_folds']:.4f}. "
        f"{names['rows_without_names']:,.0f} rows without both names are left out.",
    )


def _calibration(scores: Figures, final: str) -> Finding:
    error, bound = scores["class_calibration_error"], scores["class_calibration_noise_bound"]
    return Finding(
        "Calibration",
        "ok" if error <= bound else "look",
        f"The class-wise calibration error of {final} is {error:.4f}. Perfectly "
        f"calibrated, so many rows would show {scores['class_calibration_noise']:.4f} by chance, "
        f"and in 19 of 20 cases at most {bound:.4f}.",
    )


def _folds(folds: Figures) -> Finding:
    chance = folds["chance"]
    return Finding(
        "Folds",
        "ok" if chance >= CHANCE else "look",
        f"The log losses of {folds['judged']:.0f} folds span {folds['spread']:.4f} "
        f"(standard error of their mean {folds['standard_error']:.4f}); by chance they differ "
        f"as much in {100 * chance:.0f}% of cases.",
    )


def _truth(truth: Figures, final: str) -> Finding:
    away, error = _pair(truth[final])
    return Finding(
        "Truth",
        _near_zero(away, error),
        f"Under the true probabilities the log loss of {final} should be "
        f"{'lower' if away > 0 else 'higher'} than the one seen by {abs(away):.4f} ± {error:.4f}. "
        "Far higher would be a leak of labels.",
    )


def _pair(figure: Figures) -> tuple[float, float]:
    return figure["mean"], figure["standard_error"]


def _near_zero(value: float, error: float) -> Verdict:
    return "ok" if abs(value) <= AWAY * error else "look"
