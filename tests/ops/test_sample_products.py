"""The GPU's kernel in Triton's interpreter, or on a GPU where there is one.

Skipped unless `pip install triton` has been run. All numbers are whole, so that sums are exact in
any order and equality is asked for.
"""

import importlib.util
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="pip install triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 1, 1), (3, 37, 50, 70), (4, 16, 32, 32), (2, 40, 32, 64), (2, 5, 130, 3)]
SHAPES += [(2, 33, 17, 31)]
"""Samples, tokens, rows, columns: tiles that are full, ragged, and larger than the whole."""


def whole_bfloat16(self, left, right, total, *_):
    """The product that the interpreter makes of bfloat16's bits as if they were numbers."""
    from triton.runtime.interpreter import TensorHandle

    sides = [side.data for side in (left, right)]
    if left.dtype.is_bf16():
        sides = [(bits.astype(np.uint32) << 16).view(np.float32) for bits in sides]
    return TensorHandle(np.matmul(*sides, dtype=np.float32) + total.data, total.dtype.scalar)


@pytest.fixture
def products(monkeypatch):
    """The module, a copy of its own whose kernel is interpreted where there is no GPU."""
    if DEVICE == "cpu":
        from triton.runtime.interpreter import InterpreterBuilder

        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(InterpreterBuilder, "create_dot", whole_bfloat16)
    found = importlib.util.find_spec("ledmerge.ops.sample_products")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "ledmerge.ops.sample_products", module)
    found.loader.exec_module(module)
    return module


def integers(*shape):
    return torch.randint(-4, 5, shape, device=DEVICE).float()


@pytest.mark.gpu
@pytest.mark.parametrize("adds", ["magnitudes", "squares"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_those_of_products_written_out(products, shape, dtype, adds):
    num_samples, num_tokens, num_rows, num_columns = shape
    left = integers(num_samples, num_tokens, num_rows)
    right = integers(num_samples, num_tokens, num_columns)
    left[-1, num_tokens // 2 + 1 :] = 0  # padding: no gradient comes from there
    total = integers(num_rows, num_columns)
    expected = total.clone()
    for one, other in zip(left, right, strict=True):
        product = torch.einsum("tr,tc->rc", one, other)
        expected += product.abs() if adds == "magnitudes" else product.square()
    tile = products.Tile(rows=16, columns=32, tokens=16, group=2)
    products.add_products_(total, left.to(dtype), right.to(dtype), adds, tile)
    assert torch.equal(total, expected)


def test_views_and_the_usual_tiles(products):
    """What autograd hands out may be transposed, or one number repeated."""
    left, right = integers(40, 2, 9).transpose(0, 1), integers(2, 1, 30).expand(2, 40, 30)
    for dtype in (torch.float16, torch.float32):
        total = torch.zeros(9, 30, device=DEVICE)
        products.add_products_(total, left.to(dtype), right.to(dtype), "magnitudes")
        assert torch.equal(total, (left.mT @ right).abs().sum(0))


def test_nothing_is_added_of_no_tokens(products):
    total = integers(3, 4)
    before = total.clone()
    products.add_products_(total, integers(2, 0, 3), integers(2, 0, 4), "magnitudes")
    assert torch.equal(total, before)


@pytest.mark.parametrize("is_one", [False, True])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_it_compiles_for_a_gpu_that_is_not_here(monkeypatch, tmp_path, dtype, is_one):
    """The compiler refuses more than the interpreter; counts of 1 are constants to it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from ledmerge.ops import sample_products

    kernel = sample_products._add_products
    tile = sample_products.EXACT if dtype == "fp32" else sample_products.USUAL
    constants = {
        "SQUARES": False,
        "PRECISION": "ieee" if dtype == "fp32" else "tf32",
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "IS_EVEN": not is_one,
        "TOKENS": tile.tokens,
        "GROUP": tile.group,
    }
    counts = ["num_samples", "num_steps", "num_rows", "num_columns"]
    if is_one:
        constants |= dict.fromkeys(counts, 1)
    signature = {"total": "*fp32", "left": f"*{dtype}", "right": f"*{dtype}"}
    signature |= dict.fromkeys(counts, "i32") | dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    attributes = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind != "constexpr" and name not in ("num_samples", "num_steps")
    }
    ordered = {name: signature[name] for name in kernel.arg_names}
    compiled = compile_kernel(
        ASTSource(kernel, ordered, places, attributes),
        target=GPUTarget("cuda", 90, 32),
        options={
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            "enable_fp_fusion": False,
        },
    )
    assert ("wgmma" in compiled.asm["ptx"]) == (dtype == "bf16")  # tensor cores
    assert compiled.metadata.shared <= tile.shared(2 if dtype == "bf16" else 4)
    assert compiled.metadata.shared <= 99 * 1024  # what a program may have on smaller GPUs, too
