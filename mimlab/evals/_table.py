"""Results as the notebook shows them."""

from mimlab.evals._result import references


def side_by_side(results, cfg):
    """(rows of a table, values, chance) of what `evaluate` returned for a resolved `Evaluate`.

    A row for each protocol and start; `values`: protocol -> start -> values over seeds, and `chance`: protocol -> name ->
    percent of what is no skill, as `figures.evaluations.beside` takes them. What was refused is a row with its reason.
    """
    every = results if cfg.evaluation == "all" else {cfg.name: results}
    rows, values, chance = [], {}, {}
    for protocol, starts in every.items():
        if "refused" in starts:
            rows.append({"evaluation": protocol, "encoder": f"refused: {starts['refused']}"})
            continue
        for start, found in starts.items():
            low, high = found["interval"]
            told = {
                "evaluation": protocol,
                "encoder": start,
                "metric": found["metric"],
                "%": found["value"],
                "95 % interval": f"{low:.1f} to {high:.1f}, over {found['interval_over']}",
                "chance": found["chance"],
                "most frequent class": found.get("majority"),
                "balanced": found.get("balanced"),
                "solved regression": found.get("solved"),
                "seeds": len(found["values"]),
                "labels": found["train_images"],
                "test images": found["test_images"],
            }
            rows.append(told)
            values.setdefault(f"{protocol}: {found['metric']}", {})[start] = found["values"]
            chance[f"{protocol}: {found['metric']}"] = references(found)
    return rows, values, chance
