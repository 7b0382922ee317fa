"""The bytes of a tiny merge by every method never change unnoticed.

Of methods whose last bits are the linear algebra library's, the first four digits: enough to see a
changed formula, and the same on every machine.
"""

import json
from pathlib import Path

import pytest
import torch
import xxhash

from methods.harness import merge, noisy_inputs, variants

GOLDEN, ROUNDED = (
    json.loads(Path(__file__).with_name(name).read_text())
    for name in ("golden.json", "golden_rounded.json")
)
OF_LAPACK = {
    *("doge", "esm", "iso_c", "iso_cts", "knots", "lore", "opcm", "r_tsvm", "regmean", "tsvm"),
    "wudi",
}
OF_BLAS = {"safe_lora", "safemerge"}
"""Methods whose last bits are those of the linear algebra library, other ones on each machine."""
ALL = {str(each): each for each in variants()}
NEAR = {name: each for name, each in ALL.items() if each.method.name in OF_LAPACK | OF_BLAS}
VARIANTS = {name: each for name, each in ALL.items() if name not in NEAR}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_bytes_are_those_of_the_last_version(name):
    method, options = VARIANTS[name].method, VARIANTS[name].options
    merged = merge(method, noisy_inputs(method, 9, 11), options)
    found = xxhash.xxh3_64_hexdigest(merged.numpy().tobytes())
    assert name in GOLDEN, f'new: add "{name}": "{found}" to golden.json'
    assert found == GOLDEN[name], (
        f"'{name}' now gives other weights. If that is meant, write \"{found}\" into golden.json "
        "and a sentence into CHANGELOG.md that says what changed and why."
    )


@pytest.mark.parametrize("name", NEAR)
def test_the_numbers_are_those_of_the_last_version(name):
    method, options = NEAR[name].method, NEAR[name].options
    merged = merge(method, noisy_inputs(method, 7, 5), options)
    found = [[round(value, 5) for value in row] for row in merged.tolist()]
    assert name in ROUNDED, f'new: add "{name}": {found} to golden_rounded.json'
    expected = torch.tensor(ROUNDED[name])
    assert torch.allclose(merged, expected, rtol=1e-4, atol=1e-4), (
        f"'{name}' now gives other weights. If that is meant, write {found} into "
        "golden_rounded.json and a sentence into CHANGELOG.md that says what changed and why."
    )


def test_no_golden_is_left_of_what_is_gone():
    assert GOLDEN.keys() == VARIANTS.keys()
    assert ROUNDED.keys() == NEAR.keys()
