"""Attribution rules: how much every weight matters, one rule a file.

A rule is a pair of pure functions and one or two constants:

- `NEEDS` says what the rule is fed: "gradient", "input" (squares of the inputs), "products" (of
  the inputs with each other) or "nothing".
- `ADDS`, if a rule has it, says that `update_` adds the "magnitudes" of a gradient, or its
  "squares": then a GPU adds those of all samples at once (`ops/sample_products.py`).
- `update_(total, ...)` adds one sample's contribution to a float32 sum in the weight's shape, and
  may overwrite the contribution: another block as large would push the sum out of the cache.
- `finish(...)` turns the sum into scores, float32, >= 0. Its arguments are requests by name:
  `total`, `weight`, `num_samples`, `num_tokens`, `reference` (the same weight of another model),
  `random` (a `Draw`).

`gram` is the exception: its sums are (d_in, d_in), exist for weights of linear layers only, and may
be below 0. Methods that ask for `grams` or `base_grams` are given them.

The folder is the registry: a file added here is a rule, and is put under every law in
`tests/scores/test_score_laws.py`.
"""
