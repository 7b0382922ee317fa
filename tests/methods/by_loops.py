"""Methods as their sources write them: plain loops over Python floats, whole tensors only.

Every function takes rows of numbers (one per model, without the base) and gives a row.
"""

import math
from collections.abc import Sequence

Row = list[float]


def norm(row: Row) -> float:
    return math.sqrt(sum(x * x for x in row))


def dot(one: Row, other: Row) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def add(one: Row, other: Row) -> Row:
    return [x + y for x, y in zip(one, other, strict=True)]


def scaled(row: Row, factor: float) -> Row:
    return [x * factor for x in row]


def middle(delta: Row, density: float, gamma: float) -> Row:
    """Breadcrumbs: sort, drop int(gamma n) from the top, keep the next int(density n)."""
    count = len(delta)
    kept = int(density * count)
    order = sorted(range(count), key=lambda i: (abs(delta[i]), -i))
    bottom = max(0, count - kept - int(gamma * count))
    chosen = set(order[bottom : bottom + kept])
    return [x if i in chosen else 0.0 for i, x in enumerate(delta)]


def chances(delta: Row, width: int, density: float, epsilon: float) -> Row:
    """DELLA's chance of each entry to stay; rows are `width` entries long."""
    found = []
    for start in range(0, len(delta), width):
        row = [abs(x) for x in delta[start : start + width]]
        for i, x in enumerate(row):
            below = sum(y < x or (y == x and j < i) for j, y in enumerate(row))
            place = below / (width - 1) if width > 1 else 0.5
            found.append(density - epsilon + 2 * epsilon * place)
    return found


def model_stock(base: Row, deltas: Sequence[Row]) -> Row:
    count = len(deltas)
    cosines = [
        dot(deltas[i], deltas[j]) / (norm(deltas[i]) * norm(deltas[j]))
        for i in range(count)
        for j in range(i)
    ]
    cosine = sum(cosines) / len(cosines)
    t = count * cosine / (1 + (count - 1) * cosine)
    return [
        t * sum(b + delta[i] for delta in deltas) / count + (1 - t) * b for i, b in enumerate(base)
    ]


def karcher(models: Sequence[Row], steps: int = 100) -> Row:
    units = [scaled(model, 1 / norm(model)) for model in models]
    mean = [sum(column) for column in zip(*units, strict=True)]
    mean = scaled(mean, 1 / norm(mean))
    for _ in range(steps):
        step = [0.0] * len(mean)
        for unit in units:
            cosine = max(-1.0, min(1.0, dot(mean, unit)))
            angle = math.acos(cosine)
            if angle > 1e-9:
                away = add(unit, scaled(mean, -cosine))
                step = add(step, scaled(away, angle / norm(away) / len(units)))
        length = norm(step)
        if length < 1e-12:
            break
        mean = add(scaled(mean, math.cos(length)), scaled(step, math.sin(length) / length))
    return scaled(mean, sum(map(norm, models)) / len(models))


def sce(base: Row, deltas: Sequence[Row], select_topk: float) -> Row:
    count = len(deltas)
    variances = []
    for column in zip(*deltas, strict=True):
        mean = sum(column) / count
        variances.append(sum((x - mean) ** 2 for x in column) / count)
    if select_topk < 1:
        k = int(sum(v > 0 for v in variances) * select_topk)
        chosen = set(sorted(range(len(base)), key=lambda i: (-variances[i], i))[:k])
        deltas = [[x if i in chosen else 0.0 for i, x in enumerate(row)] for row in deltas]
    squares = [sum(x * x for x in row) for row in deltas]
    total = sum(squares)
    weights = [s / total if total / len(base) >= 1e-6 else 1 / count for s in squares]
    merged = []
    for b, column in zip(base, zip(*deltas, strict=True), strict=True):
        sign = 1 if sum(column) >= 0 else -1
        agreeing = [(w, x) for w, x in zip(weights, column, strict=True) if x * sign > 0]
        divisor = max(sum(w for w, _ in agreeing), 1e-6)
        merged.append(b + sum(w * x for w, x in agreeing) / divisor)
    return merged


def ram(
    base: Row, deltas: Sequence[Row], epsilon: float, r: float = 0.0, alpha: float = 0.2
) -> Row:
    users = [[i for i, x in enumerate(c) if abs(x) > epsilon] for c in zip(*deltas, strict=True)]
    factors = []
    for model in range(len(deltas)):
        alone = sum(who == [model] for who in users)
        shared = sum(model in who and len(who) > 1 for who in users)
        factors.append(1 + r * min(shared / max(alone, epsilon), alpha))
    merged = []
    for place, (b, who) in enumerate(zip(base, users, strict=True)):
        changes = [deltas[i][place] for i in who]
        if len(who) == 1:
            changes[0] *= factors[who[0]]
        merged.append(b + (sum(changes) / len(changes) if changes else 0.0))
    return merged


def nearswap(base: Row, other: Row, t: float) -> Row:
    merged = []
    for a, b in zip(base, other, strict=True):
        share = min(1.0, t / max(abs(a - b), 1e-6))
        merged.append(share * b + (1 - share) * a)
    return merged


def arcee_fusion(base: Row, other: Row, width: int) -> Row:
    importance = []
    for start in range(0, len(base), width):
        p, q = (softmax(row[start : start + width]) for row in (other, base))
        divergence = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        for a, b in zip(base[start : start + width], other[start : start + width], strict=True):
            importance.append(abs(b - a) * divergence)
    ordered = sorted(importance)
    low, half, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.25, 0.5, 0.75))
    least = half + 1.5 * (high - low)
    return [b if x >= least else a for a, b, x in zip(base, other, importance, strict=True)]


def softmax(row: Row) -> Row:
    powers = [math.exp(x - max(row)) for x in row]
    return [x / sum(powers) + 1e-8 for x in powers]


def consensus(base: Row, deltas: Sequence[Row], weights: Row, tall: float, least: int) -> Row:
    merged = []
    for b, column in zip(base, zip(*deltas, strict=True), strict=True):
        update = dot(weights, list(column))
        users = sum(abs(x) > tall * abs(update - x) for x in column)
        merged.append(b + (update if users >= least else 0.0))
    return merged


def cabs(base: Row, deltas: Sequence[Row], weights: Row, counts: list[int], size: int) -> Row:
    taken: set[int] = set()
    merged = list(base)
    for delta, weight, count in zip(deltas, weights, counts, strict=True):
        for start in range(0, len(base), size):
            free = [i for i in range(start, min(start + size, len(base))) if i not in taken]
            chosen = sorted(free, key=lambda i: (-abs(delta[i]), i))[:count]
            taken.update(chosen)
            for i in chosen:
                merged[i] += weight * delta[i]
    return merged
