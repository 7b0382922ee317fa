"""What a merge did, in figures: per expert, between experts, per kind of tensor."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ledmerge.models.roles import kind_of

LOW_SHARE = 0.01
"""Below this share of owned entries an expert's skill is at risk: on a 26 M family a safety expert
left with 0.26 % lost every refusal."""

Tensors = Sequence[dict[str, Any]]
"""The lines of the journal: name, action, digest, figures, ..."""


def summarize(tensors: Tensors, numel: dict[str, int], models: Sequence[str]) -> dict[str, Any]:
    """Figures over all merged tensors, and the same per kind of tensor.

    Args:
        numel: entries of each tensor.
        models: names of the experts, in the order of the figures.

    Shares are of merged entries, in [0, 1]:
        elected, owned: what an expert elects, and what Disjoint leaves it (of LED and methods that
            elect as it does).
        kept_square: share of its squared update that it brings in, before its weight (the same).
        overlap: |E_i and E_j| / min(|E_i|, |E_j|) (the same).
        norm, cosine: of the task vectors.
        conflicts: entries where two changes have opposite signs.
        updated, lost: entries with a non-zero merged change, and the share of those that vanished
            when the result was rounded to its stored dtype.
    """
    merged = [tensor for tensor in tensors if tensor["action"] == "merge"]
    kinds = defaultdict(list)
    for tensor in merged:
        kinds[kind_of(tensor["name"])].append(tensor)
    total = _figures(merged, numel, models)
    return {
        "models": list(models),
        **total,
        "warnings": _warnings(total, models),
        "kinds": {kind: _figures(group, numel, models) for kind, group in sorted(kinds.items())},
    }


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
