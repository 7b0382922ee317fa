"""How near merging comes to the limit of the machine: reading all inputs and writing the output.

    python benchmarks/merge.py --params 1.0 --methods linear ties led --work /tmp/bench

Makes a bf16 Llama shape (a base and three fine-tunes with small updates, scores for LED) below
--work, once. For each method it then measures, in one run:

    limit  pread of every input byte once, one thread, 4 MiB buffer, and write of the output bytes
    flush  the same with an fsync at the end, which a merge does before it gives the folder its name
    merge  `ledmerge merge` in a fresh process: wall, CPU seconds, peak memory of all its processes

and prints one row, such as

    | linear | 7.9 s | 10.2 s | 12.0 s | 1.5 | 1.2 | 14.1 s | 0.42 GB | 120 MiB |
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

import torch
import yaml
from process_tree import Taken, run_measured
from rich.progress import track

from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.digest import cached_checkpoint_digest
from ledmerge.checkpoint.layout import NewTensor, ShardWriter, lay_out

EXPERTS = ("safety", "math", "code")
HIDDEN, VOCABULARY = 2048, 32_000
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 4 * HIDDEN,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": VOCABULARY,
    "torch_dtype": "bfloat16",
}


def shapes(params: float) -> dict[str, tuple[int, ...]]:
    """A Llama shape of about `params` billion parameters."""
    per_layer = 4 * HIDDEN**2 + 12 * HIDDEN**2
    layers = max(1, round((params * 1e9 - 2 * VOCABULARY * HIDDEN) / per_layer))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{prefix}.self_attn.{part}.weight"] = (HIDDEN, HIDDEN)
        for part in ("gate_proj", "up_proj"):
            found[f"{prefix}.mlp.{part}.weight"] = (4 * HIDDEN, HIDDEN)
        found[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, 4 * HIDDEN)
        for part in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}.{part}.weight"] = (HIDDEN,)
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write(folder: Path, dtype: str, tensors, stem: str = "model") -> None:
    """A checkpoint folder from (name, tensor) pairs of known shapes."""
    tensors = list(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    new = [NewTensor(name, dtype, shape) for name, shape, _ in tensors]
    shards = lay_out(folder, new, 10**18, {"format": "pt"}, stem)
    writer = ShardWriter(shards)
    for name, _, make in track(tensors, description=folder.name, console=None):
        data = make().contiguous().view(-1).view(torch.uint8).numpy()
        writer.write(name, 0, memoryview(data))
    writer.close()


def make_family(work: Path, params: float, with_scores: bool) -> None:
    """Base, experts and score sets, unless they are there."""
    sizes = shapes(params)

    def base_of(name: str) -> torch.Tensor:
        return (noise(name, sizes[name]) * 0.02).bfloat16()

    def expert_of(expert: str, name: str) -> torch.Tensor:
        update = noise(expert + name, sizes[name]) * 1e-3
        return (base_of(name).float() + update).bfloat16()

    def scores_of(expert: str, name: str) -> torch.Tensor:
        return noise("scores" + expert + name, sizes[name]).square_()

    for model in ("base", *EXPERTS):
        if not (work / model / "config.json").exists():
            make = base_of if model == "base" else partial(expert_of, model)
            rows = [(n, s, partial(make, n)) for n, s in sizes.items()]
            write(work / model, "BF16", rows)
            (work / model / "config.json").write_text(json.dumps(CONFIG))
    for expert in EXPERTS if with_scores else ():
        for at in (expert, "base"):
            folder = work / f"scores-{expert}-at-{at}"
            if not (folder / "scores.json").exists():
                seed = expert + at
                rows = [(n, s, lambda n=n, seed=seed: scores_of(seed, n)) for n, s in sizes.items()]
                write(folder, "F32", rows, stem="scores")
                digest = cached_checkpoint_digest(open_checkpoint(work / at))
                provenance = {"model": {"name": at, "digest": digest}, "data": {"rows": expert}}
                (folder / "scores.json").write_text(json.dumps({**provenance, "score": "snip"}))


@cache
def sheet() -> torch.Tensor:
    """Numbers drawn once: drawing as many as there are weights takes longer than merging them."""
    return torch.randn((1 << 24) + 1, generator=torch.Generator().manual_seed(0))


def noise(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal numbers: the sheet, begun at a place of the name's own, as often as it takes."""
    start, numel = crc32(name.encode()) % len(sheet()), math.prod(shape)
    repeats = -(-(start + numel) // len(sheet()))
    return sheet().repeat(repeats)[start : start + numel].view(shape)


def recipe_of(method: str, work: Path) -> Path:
    """The recipe of one row."""
    models = []
    for expert in EXPERTS:
        entry: dict = {"model": expert, "parameters": {"weight": 0.5}}
        if method in ("ties", "led", "dare_ties", "dare_linear"):
            entry["parameters"]["density"] = 0.3
        if method == "led":
            entry |= {
                "scores": f"scores-{expert}-at-{expert}",
                "base_scores": f"scores-{expert}-at-base",
            }
        models.append(entry)
    recipe = {"merge_method": method, "base_model": "base", "models": models, "dtype": "bfloat16"}
    if method == "slerp":
        recipe |= {"models": [{"model": "safety"}], "parameters": {"t": 0.4}}
    path = work / f"{method}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def limit(inputs: list[Path], out: Path, nbytes: int) -> tuple[float, float]:
    """Seconds to read the inputs and write as many bytes as the merge; without and with fsync."""
    buffer = memoryview(bytearray(4 << 20))
    began = time.perf_counter()
    for path in inputs:
        descriptor = os.open(path, os.O_RDONLY)
        while os.readv(descriptor, [buffer]):
            pass
        os.close(descriptor)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for start in range(0, nbytes, len(buffer)):
        os.write(descriptor, buffer[: nbytes - start])
    written = time.perf_counter() - began
    os.fsync(descriptor)
    flushed = time.perf_counter() - began
    os.close(descriptor)
    out.unlink()
    return written, flushed


def measure(recipe: Path, out: Path, threads: int) -> Taken:
    """What a merge takes in a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "ledmerge", "merge", recipe, out, "--threads", threads]
    command += ["--overwrite", "--json"]  # an interrupted run may be in the way
    return run_measured(list(map(str, command)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=float, default=1.0, help="billions of parameters")
    parser.add_argument("--methods", nargs="+", default=["linear", "ties", "led"])
    parser.add_argument(
        "--work", type=Path, required=True, help="a folder with room for the models"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    work = arguments.work / f"{arguments.params:g}G"
    # In a process of its own: a child's peak memory counts from what its parent held at the fork.
    given = (work, arguments.params, "led" in arguments.methods)
    maker = get_context("spawn").Process(target=make_family, args=given)
    maker.start()
    maker.join()
    if maker.exitcode:
        sys.exit("the models were not made")
    idle = run_measured([sys.executable, "-c", "import torch, time; time.sleep(0.3)"])
    columns = "method", "limit", "with flush", "merge", "ratio", "ratio, flushed", "CPU"
    print(f"| {' | '.join(columns)} | peak resident | anonymous, beyond `import torch` |")
    print("|---" * 9 + "|")
    for method in arguments.methods:
        recipe = recipe_of(method, work)
        plan = json.loads(
            subprocess.check_output([sys.executable, "-m", "ledmerge", "plan", recipe, "--json"])
        )
        read = plan["models"] if method == "linear" else [plan["base"], *plan["models"]]
        folders = [work / name for name in read]
        if method == "led":
            folders += sorted(work.glob("scores-*"))
        inputs = [path for folder in folders for path in folder.glob("*.safetensors")]
        measure(recipe, work / "out", arguments.threads)  # compiles kernels, warms the cache
        written, flushed = limit(inputs, work / "limit.bin", plan["bytes_out"])
        taken = measure(recipe, work / "out", arguments.threads)
        wall, beyond = taken.wall, (taken.anonymous - idle.anonymous) / 2**20
        print(
            f"| {method} | {written:.1f} s | {flushed:.1f} s | {wall:.1f} s | {wall / written:.2f} "
            f"| {wall / flushed:.2f} | {taken.cpu:.1f} s | {taken.resident / 1e9:.2f} GB "
            f"| {beyond:.0f} MiB |",
            flush=True,
        )
        shutil.rmtree(work / "out")


if __name__ == "__main__":
    main()
