"""Merging on a GPU: are the bytes the CPU's, and is it bound by the disk or the bus?

    python benchmarks/gpu/merge.py --params 1.0 --work /tmp/bench
    python benchmarks/gpu/merge.py --device cpu --tiny --work /tmp/bench  # the same code, no GPU

Makes bf16 matrices (a base and three fine-tunes with small updates) below --work. For every method
that works entry by entry it merges them on the CPU and on the device, after a merge of each kind
that warms up, and compares the files, byte for byte. In the same run it measures what a merge on
the device cannot be faster than:

    disk  reading all inputs and writing as many bytes as the result has, flushed
    bus   all inputs as float32 to the device in blocks, and the result in bf16 back

and prints one table; exit code 1 if bytes differ. `of the limit` is the device's time over the
longer of the two.
"""

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from checks import Table, open_device, seconds
from safetensors.torch import save_file

import ledmerge
from ledmerge.ops.blocks import BLOCK

EXPERTS = ("safety", "math", "code")
SIDE = 4096
METHODS = ["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs"]


def make_models(work: Path, side: int, count: int) -> None:
    """A base and its fine-tunes: `count` matrices of `side` x `side`."""
    for place, model in enumerate(("base", *EXPERTS)):
        tensors = {}
        for number in range(count):
            draw = torch.Generator().manual_seed(number)
            weight = 0.02 * torch.randn(side, side, generator=draw)
            draw.manual_seed(1_000 * place + number)
            if place:
                weight = weight.bfloat16() + 1e-3 * torch.randn(side, side, generator=draw)
            tensors[f"model.layers.{number}.mlp.up_proj.weight"] = weight.bfloat16()
        (work / model).mkdir(parents=True, exist_ok=True)
        save_file(tensors, work / model / "model.safetensors", metadata={"format": "pt"})
        (work / model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')


def recipe_of(method: str, work: Path) -> dict:
    """The recipe of one row, with absolute paths."""
    options = {"weight": 0.5}
    if method not in ("linear", "task_arithmetic"):
        options["density"] = 0.3
    return {
        "merge_method": method,
        "models": [{"model": str(work / each), "parameters": options} for each in EXPERTS],
        "dtype": "bfloat16",
    } | ({} if method == "linear" else {"base_model": str(work / "base")})


def weights_of(folder: Path) -> list[bytes]:
    """The files of weights, header and all."""
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def use_disk(inputs: Sequence[Path], out: Path, nbytes: int) -> None:
    """Read the inputs, write as many bytes as the result has, and flush them."""
    buffer = memoryview(bytearray(4 << 20))
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with out.open("wb", buffering=0) as file:
        for start in range(0, nbytes, len(buffer)):
            file.write(buffer[: nbytes - start])
        os.fsync(file.fileno())
    out.unlink()


def use_bus(num_models: int, numel: int, device: torch.device) -> None:
    """Copy float32 blocks of all models up, and a block of bf16 down."""
    up = torch.empty(num_models, BLOCK, pin_memory=device.type == "cuda")
    for _ in range(0, numel, BLOCK):
        up.to(device)[0].bfloat16().cpu()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="two matrices of 256 x 256")
    parser.add_argument("--params", type=float, default=1.0, help="billions of parameters")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, required=True, help="a folder with room")
    given = parser.parse_args(arguments)
    device = open_device(given.device)
    side = 256 if given.tiny else SIDE
    count = 2 if given.tiny else max(1, round(given.params * 1e9 / side**2))
    work = given.work / "gpu-merge"
    make_models(work, side, count)
    table = Table("method", "bytes", "CPU", given.device, "disk", "bus", "of the limit", "bound by")
    for method in given.methods:
        recipe = recipe_of(method, work)
        took, made = [], []
        for name in ("cpu", given.device):
            out = work / "out"
            run = partial(
                ledmerge.merge, recipe, out, device=name, threads=given.threads, overwrite=True
            )
            run()  # loads kernels, warms the cache
            began = time.perf_counter()
            run()
            took.append(time.perf_counter() - began)
            made.append(weights_of(out))
            shutil.rmtree(out)
        nbytes = sum(map(len, made[0]))
        is_equal = made[0] == made[1] and nbytes > 0
        names = EXPERTS if method == "linear" else ("base", *EXPERTS)
        inputs = [work / name / "model.safetensors" for name in names]
        disk = seconds(partial(use_disk, inputs, work / "limit.bin", nbytes), device)
        bus = seconds(partial(use_bus, len(inputs), count * side**2, device), device)
        table.row(
            method,
            "equal" if is_equal else "DIFFER",
            f"{took[0]:.2f} s",
            f"{took[1]:.2f} s",
            f"{disk:.2f} s",
            f"{bus:.2f} s",
            f"{took[1] / max(disk, bus):.2f}",
            "disk" if disk > bus else "bus",
            holds=[is_equal],
        )
    table.finish()


if __name__ == "__main__":
    main()
