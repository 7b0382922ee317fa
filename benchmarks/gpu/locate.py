"""Locating on a GPU: is it right, how fast is it, how much memory does it take?

    python benchmarks/gpu/locate.py                      # Llama 3 8B's shape, 128 x 512 tokens
    python benchmarks/gpu/locate.py --tiles              # and the kernel with other tiles
    python benchmarks/gpu/locate.py --device cpu --tiny  # the same code without a GPU

One table, with what was found beside its aim; exit code 1 if an aim is missed:

    ceiling   the rate of a large multiplication of bf16 matrices, what all else is measured by
    kernel    sums of |dY_b^T X_b| for the shapes of a layer: by the kernel, by a multiplication and
              two operations a sample (unfused), and by one multiplication for all tokens that
              keeps no sample apart, which is the most one can hope for; and equal to float32 sums
    scores    of a small model: float32 against the CPU's, bf16 by the kernel against unfused
    whole     a model with random weights: seconds for all samples, the first batch, which is
              checked, included, and storing the scores not; peak memory; its rate, of the
              multiplications that have to be done (none twice for --checkpointing, no attention)

On a CPU the kernel is interpreted, if triton is installed, and nothing is timed that means much.
"""

import argparse
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
import transformers
from checks import Table, open_device, seconds
from torch import Tensor

from ledmerge.data.samples import Sample
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.score_pass import open_pass
from ledmerge.scores._catalog import load_rule

LLAMA_3_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROUNDS = 5
AIM_SECONDS, AIM_BYTES, AIM_RATE = 60, 72e9, 0.5


@dataclass(frozen=True)
class Work:
    """What is measured, by the arguments."""

    device: torch.device
    dtype: torch.dtype
    shape: dict[str, int]
    samples: int
    tokens: int
    batch: int
    checkpointing: bool
    is_timed: bool
    """Whether aims of speed count."""


def ceiling(work: Work) -> float:
    """Operations a second of a large square multiplication."""
    size = 8192 if work.is_timed else 64
    left, right = (torch.randn(size, size, device=work.device, dtype=work.dtype) for _ in range(2))
    left @ right
    return 2 * size**3 / seconds(lambda: left @ right, work.device, ROUNDS)


def unfused(total: Tensor, left: Tensor, right: Tensor) -> None:
    """What is done where there is no kernel: a product written out for each sample."""
    product = left.new_empty(total.shape)
    for one, other in zip(left, right, strict=True):
        torch.mm(one.T, other, out=product)
        total.add_(product.abs())


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def measure_kernel(work: Work, rate: float, table: Table, with_tiles: bool) -> None:
    """A row for each shape of a layer, and for each tile."""
    if not has_triton():
        table.row("kernel", "not run: triton is not installed", "", "")
        return
    from ledmerge.ops.sample_products import Tile, add_products_

    hidden, inner = work.shape["hidden_size"], work.shape["intermediate_size"]
    narrow = hidden // work.shape["num_attention_heads"] * work.shape["num_key_value_heads"]
    shapes = [(hidden, hidden), (narrow, hidden), (inner, hidden), (hidden, inner)]
    runs = [(shape, None) for shape in shapes]
    if with_tiles:
        others = [Tile(), Tile(tokens=128), Tile(tokens=128, stages=2), Tile(stages=4, group=8)]
        others += [Tile(columns=64, warps=4, stages=4), Tile(columns=256, warps=16)]
        runs += [((inner, hidden), tile) for tile in others]
    # The interpreter multiplies the bits of bfloat16 as if they were numbers.
    dtype = work.dtype if work.device.type == "cuda" else torch.float16
    for (rows, columns), tile in runs:
        left, right = (
            torch.randn(work.batch, work.tokens, n, device=work.device, dtype=dtype)
            for n in (rows, columns)
        )
        left[0, work.tokens // 2 :] = 0  # padding
        total = torch.zeros(rows, columns, device=work.device)
        expected = torch.zeros_like(total)
        kernel = partial(add_products_, total, left, right, "magnitudes", tile)
        kernel()
        unfused(expected, left.float(), right.float())
        gap = ((total - expected).abs().max() / expected.max()).item()
        by_kernel, by_products, at_once = (
            seconds(run, work.device, ROUNDS)
            for run in (
                kernel,
                partial(unfused, total, left, right),
                partial(torch.mm, left.flatten(0, 1).T, right.flatten(0, 1)),
            )
        )
        share = 2 * left.numel() * columns / by_kernel / rate
        table.row(
            f"kernel, {rows} x {columns}" + (f", {tile}" if tile else ""),
            f"{by_kernel * 1e3:.2f} ms, {share:.0%} of the ceiling; unfused "
            f"{by_products * 1e3:.2f} ms, samples not kept apart {at_once * 1e3:.2f} ms",
            f"gap {gap:.1e}, at most 1e-4",
            verdict(gap <= 1e-4),
            holds=[gap <= 1e-4],
        )


def make_model(
    shape: dict[str, int], device: torch.device, dtype: torch.dtype
) -> transformers.PreTrainedModel:
    """A Llama with random weights, made on the device."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**shape, dtype=dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def make_samples(count: int, tokens: int, vocabulary: int) -> list[Sample]:
    """Samples of one length; the second half of each is response."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(2, vocabulary, (count, tokens), generator=draw).tolist()
    is_response = tuple(t >= tokens // 2 for t in range(tokens))
    return [Sample(tuple(row), is_response, f"sample {n}") for n, row in enumerate(ids)]


def locate(
    model: transformers.PreTrainedModel, samples: Sequence[Sample], settings: LocateSettings
) -> dict[str, Tensor]:
    """The sums that `ledmerge locate` has after all samples."""
    question = SimpleNamespace(rule=load_rule("snip"), settings=settings)
    scored = SimpleNamespace(model=model)
    parameters = dict(model.named_parameters())
    totals = {
        name: torch.zeros(parameter.shape, device=model.device)
        for name, parameter in parameters.items()
    }
    with open_pass(question, scored, parameters, totals, False) as step:  # pyright: ignore
        for start in range(0, len(samples), settings.batch):
            step(samples[start : start + settings.batch])
    return totals


def check_scores(work: Work, table: Table) -> None:
    """Rows of a small model: the device against the CPU, the kernel against none."""
    samples = make_samples(12, 32, SMALL["vocab_size"])
    settings = LocateSettings(batch=4)
    cpu = torch.device("cpu")
    narrow = work.dtype if work.device.type == "cuda" else torch.bfloat16
    model = make_model(SMALL, cpu, torch.float32)
    reference = locate(model, samples, LocateSettings())
    again = settings.model_copy(update={"checkpointing": True})
    ways = {
        "float32, batch 1": (torch.float32, LocateSettings(), 1e-3),
        "float32, batch 4": (torch.float32, settings, 1e-3),
        "float32, batch 4, checkpointing": (torch.float32, again, 1e-3),
        f"{narrow}, batch 4": (narrow, settings, 0.05),  # numbers of three digits
    }
    for name, (dtype, how, bound) in ways.items():
        found = locate(model.to(work.device, dtype), samples, how)
        gaps = [
            (found[key].cpu() - value).abs().sum() / value.abs().sum()
            for key, value in reference.items()
        ]
        gap = torch.stack(gaps).max().item()  # NaN where one is
        table.row(
            f"scores, {name}",
            f"differ from the CPU's by {gap:.1e} of their sum, at most, in one tensor",
            f"at most {bound:g}",
            verdict(gap <= bound),
            holds=[gap <= bound],
        )


def num_operations(work: Work, num_response: int) -> float:
    """Of the multiplications of one run: forward, inputs' gradients, weights' gradients."""
    shape = work.shape
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    narrow = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * narrow * hidden + 3 * inner * hidden
    tokens = work.samples * work.tokens
    body = layer * shape["num_hidden_layers"] * tokens
    return 6.0 * (body + shape["vocab_size"] * hidden * num_response)


def measure_whole(work: Work, rate: float, table: Table) -> None:
    """Rows of the large model."""
    model = make_model(work.shape, work.device, work.dtype)
    samples = make_samples(work.samples, work.tokens, work.shape["vocab_size"])
    settings = LocateSettings(batch=work.batch, checkpointing=work.checkpointing)
    on_gpu = work.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(work.device)
    took = seconds(lambda: locate(model, samples, settings), work.device)
    peak = torch.cuda.max_memory_allocated(work.device) if on_gpu else 0
    counted = sum(sum(sample.is_response[1:]) for sample in samples)
    share = num_operations(work, counted) / took / rate
    for what, found, aim, holds in (
        ("seconds", f"{took:.1f} s", f"at most {AIM_SECONDS} s", took <= AIM_SECONDS),
        ("memory", f"{peak / 1e9:.1f} GB", f"at most {AIM_BYTES / 1e9:.0f} GB", peak <= AIM_BYTES),
        ("rate", f"{share:.0%} of the ceiling", f"at least {AIM_RATE:.0%}", share >= AIM_RATE),
    ):
        cells = [aim, verdict(holds)] if work.is_timed else ["", ""]
        what = f"whole, {work.samples} x {work.tokens}, batch {work.batch}: {what}"
        table.row(what, found, *cells, holds=[holds or not work.is_timed])


def verdict(holds: bool) -> str:
    return "holds" if holds else "MISSED"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model; no aims of speed")
    parser.add_argument("--layers", type=int, help="of the large model, 32 by default")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--tiles", action="store_true", help="the kernel with other tiles too")
    given = parser.parse_args(arguments)
    device = open_device(given.device)
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    shape = dict(SMALL if given.tiny else LLAMA_3_8B)
    shape["num_hidden_layers"] = given.layers or shape["num_hidden_layers"]
    work = Work(
        device=device,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        shape=shape,
        samples=4 if given.tiny else given.samples,
        tokens=24 if given.tiny else given.tokens,
        batch=2 if given.tiny else given.batch,
        checkpointing=given.checkpointing,
        is_timed=device.type == "cuda" and not given.tiny,
    )
    table = Table("what", "found", "aim", "")
    rate = ceiling(work)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    table.row("ceiling", f"{rate / 1e12:.3g} TFLOP/s of {work.dtype}; {card}", "", "")
    measure_kernel(work, rate, table, given.tiles)
    check_scores(work, table)
    measure_whole(work, rate, table)
    table.finish()


if __name__ == "__main__":
    main()
