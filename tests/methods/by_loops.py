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


def nuslerp(one: Row, other: Row, t: float) -> Row:
    lengths = norm(one) * norm(other)
    cosine = dot(one, other) / lengths if lengths else 0.0
    if 1 - cosine * cosine < 1e-6:
        return add(scaled(one, 1 - t), scaled(other, t))
    angle = math.acos(cosine)
    parts = [math.sin(share * angle) / math.sin(angle) for share in (1 - t, t)]
    return add(scaled(one, parts[0]), scaled(other, parts[1]))


def multislerp(rows: Sequence[Row], weights: Row) -> Row:
    """With the step in the tangent space that the method leaves out."""
    units = [scaled(row, 1 / norm(row)) if norm(row) else row for row in rows]
    mean = [sum(column) for column in zip(*map(scaled, units, weights), strict=True)]
    if norm(mean) < 1e-3 * sum(map(abs, weights)):
        return [sum(column) for column in zip(*map(scaled, rows, weights), strict=True)]
    mean = scaled(mean, 1 / norm(mean))
    away = [add(unit, scaled(mean, -dot(unit, mean))) for unit in units]
    step = [sum(column) for column in zip(*map(scaled, away, weights), strict=True)]
    length = norm(step) + 1e-8
    place = add(scaled(mean, math.cos(length)), scaled(step, math.sin(length) / length))
    return scaled(place, dot(weights, [norm(row) for row in rows]))


def sce(base: Row, deltas: Sequence[Row], select_topk: float, least: float = 1e-6) -> Row:
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
    weights = [
        s / total if total > 0 and total / len(base) >= least else 1 / count for s in squares
    ]
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


def fisher(models: Sequence[Row], fishers: Sequence[Row], weights: Row, floor: float) -> Row:
    every = [x for row in fishers for x in row]
    least = floor * (sum(every) / len(every) or 1.0)
    merged = []
    for i in range(len(models[0])):
        sure = [w * max(row[i], least) for w, row in zip(weights, fishers, strict=True)]
        merged.append(dot(sure, [model[i] for model in models]) / sum(sure))
    return merged


def band(scores: Row, density: float, *, lowest: bool = False) -> set[int]:
    """Places of the int(density n) highest scores, or lowest, equal ones to the lower place."""
    order = sorted(range(len(scores)), key=lambda i: (scores[i] if lowest else -scores[i], i))
    return set(order[: int(density * len(scores))])


def obim(base: Row, deltas: Sequence[Row], scores: Sequence[Row], density: Row, w: Row) -> Row:
    taken: set[int] = set()
    merged = list(base)
    for delta, row, share, weight in zip(deltas, scores, density, w, strict=True):
        for i in band(row, share) - taken:
            merged[i] += weight * delta[i]
        taken |= band(row, share)
    return merged


def reason_any(base: Row, deltas: Sequence[Row], bands: Sequence[set[int]], weights: Row) -> Row:
    merged = list(base)
    for model, delta in enumerate(deltas):
        others = set().union(*(b for other, b in enumerate(bands) if other != model))
        for i in bands[model] - others:
            merged[i] += weights[model] * delta[i]
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


def pcb(base: Row, deltas: Sequence[Row], weights: Row, counts: list[int]) -> Row:
    tops, balances = [max(map(abs, delta)) or 1.0 for delta in deltas], []
    sums = [sum(column) for column in zip(*deltas, strict=True)]
    for delta, top, count in zip(deltas, tops, counts, strict=True):
        scores = [
            math.exp(len(deltas) * (x / top) ** 2) * max(0.0, math.tanh(x * total))
            for x, total in zip(delta, sums, strict=True)
        ]
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        dropped = scores[order[count]] if count < len(order) else 0.0
        spread = (scores[order[0]] - dropped) or 1.0
        kept = set(order[:count])
        ranked = enumerate(scores)
        balances.append([(x - dropped) / spread if i in kept else 0.0 for i, x in ranked])
    merged = []
    for place, b in enumerate(base):
        shares = [balance[place] for balance in balances]
        changes = [w * delta[place] for w, delta in zip(weights, deltas, strict=True)]
        merged.append(b + dot(shares, changes) / max(sum(shares), 1e-12))
    return merged


def widen(
    base: Sequence[Row], models: Sequence[Sequence[Row]], ratio: float, value: float
) -> list[Row]:
    """Rows of a matrix, of the base and of each model."""
    by_length, by_direction = [], []
    for model in models:
        lengths, turns = [], []
        for old, new in zip(zip(*base, strict=True), zip(*model, strict=True), strict=True):
            lengths.append(abs(norm(list(new)) - norm(list(old))))
            cosine = dot(list(old), list(new)) / norm(list(old)) / norm(list(new))
            turns.append(0.0 if old == new else 1 - cosine)
        by_length.append(ranks(lengths))
        by_direction.append(ranks(turns))
    scores = [important(rows, ratio, value) for rows in (by_length, by_direction)]
    merged = []
    for i, row in enumerate(base):
        changes = [
            sum(
                (lengths[j] + turns[j]) / 2 * (model[i][j] - b)
                for model, lengths, turns in zip(models, *scores, strict=True)
            )
            for j, b in enumerate(row)
        ]
        merged.append(add(row, changes))
    return merged


def ranks(row: Row) -> Row:
    return [
        sum(y < x or (y == x and j < i) for j, y in enumerate(row)) / len(row)
        for i, x in enumerate(row)
    ]


def important(rows: Sequence[Row], ratio: float, value: float) -> list[Row]:
    """WIDEN's scores of each model, out of ranks or sizes of changes."""
    found = []
    for row in rows:
        powers = [[math.exp(x) for x in column] for column in zip(*rows, strict=True)]
        shares = [math.exp(x) / sum(p) for x, p in zip(row, powers, strict=True)]
        least = ratio * math.fsum(row) / len(row)
        found.append([value if x > least else s for x, s in zip(row, shares, strict=True)])
    return found


def scaled_arithmetic(base: Row, deltas: Sequence[Row], weights: Row, factor: float) -> Row:
    lengths = [norm(delta) for delta in deltas]
    merged = base
    for delta, weight, length in zip(deltas, weights, lengths, strict=True):
        if length:
            share = factor * weight * (sum(lengths) / len(lengths)) / length
            merged = add(merged, scaled(delta, share))
    return merged


def lata(base: Row, deltas: Sequence[Row], weights: Row, threshold: float) -> Row:
    merged = add(base, scaled(deltas[0], weights[0]))
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        lengths = norm(delta) * norm(deltas[0])
        if not lengths or dot(delta, deltas[0]) / lengths < threshold:
            merged = add(merged, scaled(delta, weight))
    return merged
