"""What locating costs, against a plain forward and backward pass of the same samples.

    python benchmarks/locate.py --threads 1

A model of SmolLM2-135M's shape (30 layers, random weights) and samples of unequal lengths. In each
of --rounds rounds, in turn and in one process, all samples are run by

    plain   forward and backward, one sample at a time: autograd's gradients, thrown away
    locate  SNIP, one sample at a time, and in batches of --batch
    sweep   for every layer, a forward and a backward pass a sample with the gradients of that
            layer alone, as LED-Merging's released code does it; on one sample and a few layers,
            counted for all

and the medians over rounds are printed, as processor and wall seconds, each with its ratio to
plain; the ratios are medians of those within a round. On a machine that is not idle only processor
seconds on one thread say much. The first batch, which is checked, is not timed. Peak memory is that
of a fresh process, weights and float32 sums included.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers

from ledmerge.data.samples import Sample
from ledmerge.models.loss import make_batch, sample_losses
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.accumulate import sort_for_batches
from ledmerge.run.score_pass import open_pass
from ledmerge.scores._catalog import load_rule

SHAPE = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SWEPT = (0, 10, 20, 29)
"""Layers the sweep is timed on: from the first, whose backward pass is the longest, to the last."""

Run = Callable[[], object]


def make_model() -> transformers.PreTrainedModel:
    """The model with random weights, nothing tracked."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE)
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def make_samples(count: int, longest: int) -> list[Sample]:
    """Samples of a quarter of `longest` tokens to all of it; about half of each is response."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        length = int(torch.randint(longest // 4, longest + 1, (), generator=draw))
        start = int(torch.randint(length // 4, 3 * length // 4, (), generator=draw))
        ids = torch.randint(2, SHAPE["vocab_size"], (length,), generator=draw).tolist()
        is_response = tuple(t >= start for t in range(length))
        made.append(Sample(tuple(ids), is_response, f"sample {number}"))
    return made


def forward_backward(model: transformers.PreTrainedModel, sample: Sample) -> None:
    """The pass that all others are measured by."""
    batch = make_batch([sample], model.device)
    sample_losses(model, batch, "mean").sum().backward()


def plain(model: transformers.PreTrainedModel, samples: Sequence[Sample]) -> None:
    """Every gradient of every sample, and nothing done with it."""
    model.requires_grad_(True)
    for sample in samples:
        forward_backward(model, sample)
        model.zero_grad()
    model.requires_grad_(False)


def sweep(model: transformers.PreTrainedModel, samples: Sequence[Sample], layer: int) -> None:
    """SNIP of one layer."""
    parameters = list(model.model.layers[layer].parameters())
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    for sample in samples:
        forward_backward(model, sample)
        for total, parameter in zip(sums, parameters, strict=True):
            total += (parameter * parameter.grad).abs()
            parameter.grad = None
    for parameter in parameters:
        parameter.requires_grad_(False)


def open_locate(
    model: transformers.PreTrainedModel, batch: int, stack: ExitStack
) -> Callable[[Sequence[Sample]], None]:
    """What `ledmerge locate` does with the samples; its first batch, which is checked, is past."""
    question = SimpleNamespace(rule=load_rule("snip"), settings=LocateSettings(batch=batch))
    parameters = dict(model.named_parameters())
    totals = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    scored = SimpleNamespace(model=model)
    opened = open_pass(question, scored, parameters, totals, allow_nonfinite=False)  # pyright: ignore
    step = stack.enter_context(opened)

    def run(samples: Sequence[Sample]) -> None:
        ordered = sort_for_batches(samples, batch)
        for start in range(0, len(ordered), batch):
            step(ordered[start : start + batch])

    return run


def seconds(run: Run) -> tuple[float, float]:
    """(processor seconds, wall seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(arguments: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """The seconds of each way of running all samples, one pair a round."""
    model = make_model()
    samples = make_samples(arguments.samples, arguments.tokens)
    found: dict[str, list[tuple[float, float]]] = {}
    plain(model, samples[:1])  # warms up
    for _ in range(arguments.rounds):
        timed = {"plain": seconds(partial(plain, model, samples))}
        for batch in (1, arguments.batch):
            with ExitStack() as stack:
                run = open_locate(model, batch, stack)
                run(samples[:1])
                timed[f"locate, batch {batch}"] = seconds(partial(run, samples))
        if arguments.sweep:
            middle = sorted(samples, key=lambda sample: len(sample.ids))[len(samples) // 2]
            one = seconds(partial(plain, model, [middle]))
            swept = [seconds(partial(sweep, model, [middle], i)) for i in SWEPT]
            layers = SHAPE["num_hidden_layers"] / len(SWEPT)
            timed["sweep"] = tuple(
                layers * sum(each[k] for each in swept) / one[k] * timed["plain"][k] for k in (0, 1)
            )
        for name, pair in timed.items():
            found.setdefault(name, []).append(pair)
    return found


def peak(name: str, arguments: argparse.Namespace) -> float:
    """Peak resident GiB of one way in a fresh process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(run_once, (name, arguments))


def run_once(name: str, arguments: argparse.Namespace) -> float:
    torch.set_num_threads(arguments.threads)
    model = make_model()
    samples = make_samples(arguments.samples, arguments.tokens)
    if name == "plain":
        plain(model, samples)
    elif name == "sweep":
        sweep(model, samples, 0)
    else:
        with ExitStack() as stack:
            open_locate(model, int(name.split()[-1]), stack)(samples)
    # Not getrusage: its peak counts what the parent held when it started this process.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256, help="of the longest sample")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sweep", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = measure(arguments)
    print(
        "| way | processor s | ratio | wall s | ratio | peak resident |\n|---|---|---|---|---|---|"
    )
    for name, pairs in found.items():
        cells = []
        for kind in (0, 1):
            took = [pair[kind] for pair in pairs]
            ratios = [pair[kind] / by[kind] for pair, by in zip(pairs, found["plain"], strict=True)]
            cells += [f"{statistics.median(took):.1f}", f"{statistics.median(ratios):.2f}"]
        memory = f"{peak(name, arguments):.2f} GiB" if arguments.memory else ""
        print(f"| {name} | {' | '.join(cells)} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
