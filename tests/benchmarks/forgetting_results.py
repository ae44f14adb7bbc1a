"""What memory has lost when it knows as much as the others: the forgetting benchmark's runs in figures."""

from statistics import fmean
from typing import Any

from active_reading.eval.matched import best_learned, interval_of_mean, least_lost, lost_at, ratio_interval
from active_reading.eval.scores import mean_and_error

OUT_OF_FAMILY = ("gsm8k", "nq", "docstrings")
SETS = (*OUT_OF_FAMILY, "wikitext2")
# At what models are compared, and what their ratio's name ends in.
MEASURES = {"nll_fall": "", "f1_gain": "_by_f1", "nats": "_beyond_control"}
Trajectory = list[tuple[float, float]]


def summarize(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The comparison at matched learning, per replay share, from the lines of `points.jsonl`."""
    kept = [name for name in OUT_OF_FAMILY if name in lines[0]["base"]]
    lines = [_against_its_base(line, kept) for line in lines]
    by_share = {
        share: [line for line in lines if _replay_share(line) == share]
        for share in sorted(set(map(_replay_share, lines)))
    }
    result: dict[str, Any] = {"retention": kept}
    for measure, suffix in MEASURES.items():
        tables = {share: matched(some, measure, "lost") for share, some in by_share.items()}
        result[f"matched_by_{measure}"] = tables
        for method in ("full", "lora"):
            ratios = [
                entry["ratio"] for table in tables.values() if (entry := table.get(method)) and "ratio" in entry
            ]
            result[f"smf_over_{method}{suffix}"] = round(fmean(ratios), 3) if ratios else None
            bounds = [table[method].get("interval_over_seeds") for table in tables.values() if method in table]
            result[f"smf_over_{method}{suffix}_interval"] = interval_of_mean(ratios, bounds)
    sets = [name for name in SETS if name in lines[0]["base"]]
    result["matched_by_set"] = {
        share: {name: matched(some, "nll_fall", f"lost_{name}") for name in sets}
        for share, some in by_share.items()
    }
    result["curves"] = curves(lines)
    for measure, name in (("f1", "learning_ratio"), ("nll_fall", "learning_ratio_nll")):
        best = best_means(result["curves"], measure)
        result[f"best_{measure}"] = best
        result[name] = round(best["memory"] / best["full"], 3) if best.get("full") and "memory" in best else None
    result["patch_megabytes"] = max((line["patch_megabytes"] or 0 for line in lines), default=0)
    result["seeds"] = len({line["run"]["seed"] for line in lines})
    return result | {"runs": len(lines)}


def best_means(by_setting: dict[str, list[dict[str, float]]], measure: str) -> dict[str, float]:
    """Per method, the best mean over seeds of any strength in `curves`, of the settings with the most seeds."""
    of_method: dict[str, list[dict[str, float]]] = {}
    for setting, rows in by_setting.items():
        of_method.setdefault(setting.split()[0], []).extend(rows)
    best = {}
    for method, rows in of_method.items():
        seeds = max(row["seeds"] for row in rows)
        best[method] = max(row[measure] for row in rows if row["seeds"] == seeds)
    return best


def beyond_control(gain: float, of_control: float) -> float:
    """What of a gain is knowledge of what was taught: a control that gets worse adds nothing to it."""
    return gain - max(0.0, of_control)


def _against_its_base(line: dict[str, Any], kept: list[str]) -> dict[str, Any]:
    """The line, its points with what was learned and `lost` against the base as the same machine measured it."""
    base = line["base"]
    points = [
        point
        | {
            "nll_fall": base["nll"] - point["nll"],
            "nats": beyond_control(base["nll"] - point["nll"], base["control_nll"] - point["control_nll"]),
            "f1_gain": beyond_control(point["f1"] - base["f1"], _control_f1(point) - _control_f1(base)),
            "lost": fmean(point[name] - base[name] for name in kept),
        }
        | {f"lost_{name}": point[name] - base[name] for name in SETS if name in base}
        for point in line["points"]
    ]
    return line | {"points": points}


def _control_f1(scores: dict[str, float]) -> float:
    """0 in results from before 2026-11-30, which asked the control for its NLL alone."""
    return scores.get("control_f1", 0.0)


def matched(lines: list[dict[str, Any]], learned: str, lost: str) -> dict[str, Any]:
    """Against full finetuning and LoRA: what memory has lost when it knows 0.9 of the most that they learned.

    `learned` and `lost` name what of a point counts as that. Of each method only the settings with the most seeds
    take part: the best of many with one seed each would be the luckiest.
    Where memory never knows as much, the target is 0.9 of the most that memory learned, and `reached` is false.
    """
    of_method: dict[str, dict[str, list[Trajectory]]] = {}
    for line in lines:
        settings = of_method.setdefault(line["run"]["method"], {})
        settings.setdefault(line["setting"], []).append([(point[learned], point[lost]) for point in line["points"]])
    for method, settings in of_method.items():
        most = max(map(len, settings.values()))
        of_method[method] = {name: seeds for name, seeds in settings.items() if len(seeds) == most}
    table: dict[str, Any] = {}
    for method in ("full", "lora"):
        if method not in of_method or "memory" not in of_method:
            continue
        bests = [best_in_the_mean(of_method[name]) for name in (method, "memory")]
        target = 0.9 * min(bests)
        theirs, ours = least_lost(of_method[method], target), least_lost(of_method["memory"], target)
        entry: dict[str, Any] = {"target": round(target, 3), "reached": bests[0] <= bests[1]}
        if theirs and ours and theirs[1] > 0:
            losses = [
                [loss for each in of_method[name][best[0]] if (loss := lost_at(each, target)) is not None]
                for name, best in (("memory", ours), (method, theirs))
            ]
            entry |= {"memory": ours, method: theirs, "ratio": round(ours[1] / theirs[1], 3)}
            entry["interval_over_seeds"] = ratio_interval(*losses)
        table[method] = entry
    return table


def best_in_the_mean(settings: dict[str, list[Trajectory]]) -> float:
    """The most that a setting learned in every seed of it."""
    return max(min(best_learned([each]) for each in seeds) for seeds in settings.values())


def curves(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """Per setting and strength: means over seeds, each with its standard error."""
    by_setting: dict[str, list[list[dict[str, float]]]] = {}
    for line in lines:
        by_setting.setdefault(line["setting"], []).append(line["points"])
    found: dict[str, list[dict[str, float]]] = {}
    for setting, seeds in by_setting.items():
        for points in zip(*seeds, strict=True):
            row: dict[str, float] = {"strength": points[0]["strength"], "seeds": len(points)}
            # Older results have no F1 of NQ-open.
            asked = ["nq_f1"] if all("nq_f1" in point for point in points) else []
            for name in ("f1", "nll_fall", "nats", "lost", *asked):
                mean, error = mean_and_error([point[name] for point in points])
                row |= {name: round(mean, 4), f"{name}_error": round(error, 4)}
            found.setdefault(setting, []).append(row)
    return found


def _replay_share(line: dict[str, Any]) -> float:
    return float(line["run"]["changes"].get("replay_share", 0.0))
