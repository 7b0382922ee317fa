"""The bytes of a tiny merge by every method never change unnoticed."""

import json
from pathlib import Path

import pytest
import xxhash

from methods.harness import merge, noisy_inputs, variants

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
OF_LAPACK = {
    *("doge", "esm", "iso_c", "iso_cts", "knots", "lore", "opcm", "r_tsvm", "regmean", "tsvm"),
    "wudi",
}
OF_BLAS = {"safe_lora", "safemerge"}
"""Methods whose last bits are those of the linear algebra library, other ones on each machine."""
VARIANTS = {str(each): each for each in variants() if each.method.name not in OF_LAPACK | OF_BLAS}


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


def test_no_golden_is_left_of_what_is_gone():
    assert GOLDEN.keys() == VARIANTS.keys()
