"""A merge takes no more memory for a large tensor than for a small one."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from families import CONFIG
from safetensors.torch import save_file

MERGE = """
import resource
from ledmerge import merge
merge("recipe.yaml", "out", threads=2)
whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
print([resource.getrusage(each).ru_maxrss for each in whose])
"""
NAME = "model.embed_tokens.weight"


def write_zeros(folder: Path, rows: int) -> Path:
    """A model of one bfloat16 tensor (rows, 4096), whose zeros take no room on the disk."""
    size = rows * 4096 * 2
    entry = {"dtype": "BF16", "shape": [rows, 4096], "data_offsets": [0, size]}
    header = json.dumps({NAME: entry}).encode()
    header += b" " * (-len(header) % 8)
    folder.mkdir(parents=True)
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(file, 8 + len(header) + size)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write_adapter(folder: Path, rows: int) -> Path:
    """A LoRA of rank 8 on that tensor."""
    folder.mkdir(parents=True)
    name = f"base_model.model.{NAME.removesuffix('.weight')}"
    factors = {"A": torch.zeros(8, rows), "B": torch.zeros(4096, 8)}
    tensors = {f"{name}.lora_embedding_{key}": tensor for key, tensor in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def peak(method: str, rows: int, folder: Path, write_expert=write_zeros, **options: float) -> int:
    """Peak resident bytes of a merge of five models, of whichever process takes most."""
    base = write_zeros(folder / "base", rows)
    experts = [write_expert(folder / name, rows) for name in "abcd"]
    recipe = {
        "merge_method": method,
        "base_model": str(base),
        "models": [{"model": str(path), "parameters": options} for path in experts],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", MERGE]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return max(json.loads(done.stdout)) * 1024


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_memory_does_not_grow_with_the_tensor(tmp_path: Path, method: str):
    # Equal magnitudes everywhere: TIES also takes its third pass, which counts them per block.
    small, large = (peak(method, rows, tmp_path / f"{rows}", density=0.3) for rows in (320, 16_000))
    assert large - small < 100e6


def test_adapters_are_never_made_whole(tmp_path: Path):
    rows = (320, 8_000)  # one adapted model of the larger would take 131 MB
    small, large = (peak("task_arithmetic", n, tmp_path / f"{n}", write_adapter) for n in rows)
    assert large - small < 60e6
