"""What a merge did, in figures: per expert, between experts, per kind of tensor."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ledmerge.models.roles import kind_of
from ledmerge.report.relation import verdict

LOW_SHARE = 0.01
"""Below this share of owned entries an expert's skill is at risk: on a 26 M family a safety expert
left with 0.26 % lost every refusal."""

Tensors = Sequence[dict[str, Any]]
"""The lines of the journal: name, action, digest, figures, ..."""


def summarize(
    tensors: Tensors, numel: dict[str, int], models: Sequence[str], first: str = "the base"
) -> dict[str, Any]:
    """Figures over all merged tensors, and the same per kind of tensor.

    Args:
        numel: entries of each tensor.
        models: names of the experts, in the order of the figures.
        first: what the others are compared with: the base, or the first of `models`.

    Shares are of merged entries, in [0, 1]:
        elected, owned: what an expert elects, and what Disjoint leaves it (of LED and methods that
            elect as it does).
        kept_square: share of its squared update that it brings in, before its weight and before
            `rescale: norm` makes up for the rest (the same).
        overlap: |E_i and E_j| / min(|E_i|, |E_j|) (the same).
        norm, cosine: of the task vectors.
        conflicts: entries where two changes have opposite signs.
        updated, lost: entries with a non-zero merged change, and the share of those that vanished
            when the result was rounded to its stored dtype.
        relations: whether each model comes from one base with the first (`report/relation.py`),
            told from one block in 16 of every matrix.
    """
    merged = [tensor for tensor in tensors if tensor["action"] == "merge"]
    kinds = defaultdict(list)
    for tensor in merged:
        kinds[kind_of(tensor["name"])].append(tensor)
    total = _figures(merged, numel, models)
    relations = _relations([tensor["figures"] for tensor in merged], models, first)
    return {
        "models": list(models),
        **total,
        "relations": relations,
        "warnings": [*_relation_warnings(relations), *_warnings(total, models)],
        "kinds": {kind: _figures(group, numel, models) for kind, group in sorted(kinds.items())},
    }


def spread(figures: dict[str, Any], places: Sequence[int], num_models: int) -> dict[str, Any]:
    """Figures of some experts as figures of all, 0 for the others.

    Args:
        places: where the experts stand among all. Every axis of a figure is one of experts, but
            for likenesses, which compare with one model and are left out.
    """
    found = {}
    for name, value in figures.items():
        if name == "likeness":
            continue
        some = np.asarray(value)
        found[name] = np.zeros((num_models,) * some.ndim)
        np.add.at(found[name], np.ix_(*(places,) * some.ndim), some)
    return found


def _figures(tensors: Tensors, numel: dict[str, int], models: Sequence[str]) -> dict[str, Any]:
    entries = sum(numel[tensor["name"]] for tensor in tensors if tensor["figures"])
    sums = _sums(tensor["figures"] for tensor in tensors)
    figures: dict[str, Any] = {"tensors": len(tensors), "entries": entries}
    if "delta_gram" in sums:
        norms = np.sqrt(sums["delta_gram"].diagonal())
        figures |= {
            "norm": norms.tolist(),
            "cosine": _ratio(sums["delta_gram"], np.outer(norms, norms)).tolist(),
            "conflicts": float(_ratio(sums["conflicts"], entries)),
            "updated": float(_ratio(sums["updated"], entries)),
            "lost": float(_ratio(sums["updated"] - sums["changed"], sums["updated"]).clip(0)),
            "update_norm": float(np.sqrt(sums["update_square"])),
        }
    if sums.keys() >= {"elected", "owned", "kept_square", "square"}:
        elected = sums["elected"].diagonal()
        figures |= {
            "elected": _ratio(elected, entries).tolist(),
            "owned": _ratio(sums["owned"], entries).tolist(),
            "kept_square": _ratio(sums["kept_square"], sums["square"]).tolist(),
            "overlap": _ratio(sums["elected"], np.minimum.outer(elected, elected)).tolist(),
        }
    return figures


def _sums(rows: Iterable[dict[str, Any]]) -> dict[str, np.ndarray]:
    sums: dict[str, np.ndarray] = {}
    for row in rows:
        for key, value in row.items():
            sums[key] = sums.get(key, 0) + np.asarray(value, dtype=np.float64)
    return sums


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """part / whole, 0 where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole != 0)


def _relations(
    figures: Sequence[dict[str, Any]], models: Sequence[str], first: str
) -> list[dict[str, Any]]:
    """Of each model but the first: (dot product with the first, square), one row a matrix."""
    matrices = [row["likeness"] for row in figures if "likeness" in row]
    if not matrices:
        return []
    dots, squares = np.moveaxis(np.asarray(matrices, dtype=np.float64), -1, 0)  # (matrix, model)
    norms = np.sqrt(squares[:, :1] * squares)  # of both, multiplied
    with np.errstate(invalid="ignore"):  # where NaN and infinities were let through
        totals, changes = squares.sum(0), (squares - 2 * dots + squares[:, :1]).sum(0).clip(0)
    relative = np.sqrt(_ratio(changes, totals[0]))
    num_others = len(totals) - 1
    return [
        {
            "model": model,
            "to": first,
            "relative": float(relative[place]),
            "cosine": middle,
            "verdict": said,
        }
        for place, model in enumerate(models[len(models) - num_others :], start=1)
        for middle, said in [_verdict(dots[:, place], norms[:, place])]
    ]


def _verdict(dots: np.ndarray, norms: np.ndarray) -> tuple[float | None, str]:
    is_told = (norms > 0) & np.isfinite(dots) & np.isfinite(norms)
    return verdict((dots[is_told] / norms[is_told]).tolist())


def _relation_warnings(relations: Sequence[dict[str, Any]]) -> list[str]:
    said = {
        "no common base": "share no base, so the merge is probably no language model",
        "unclear": "may share no base, or one was trained far from it",
    }
    return [
        f"{each['model']} and {each['to']} {said[each['verdict']]}: the median cosine of their "
        f"matrices is {each['cosine']:.2f} (of fine-tunes near 1), the change "
        f"{each['relative']:.2f} of the weights; compare them with `ledmerge diff`"
        for each in relations
        if each["verdict"] in said
    ]


def _warnings(figures: dict[str, Any], models: Sequence[str]) -> list[str]:
    return [
        f"{model} keeps {owned:.2%} of its entries (elected {elected:.2%}); its skill is probably "
        "lost. Raise its density, lower the others', or settle contested entries otherwise (LED: "
        "`disjoint: priority`, `winner` or `conflicting`)"
        for model, owned, elected in zip(
            models, figures.get("owned", []), figures.get("elected", []), strict=False
        )
        if owned < LOW_SHARE
    ]
