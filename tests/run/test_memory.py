"""A merge takes no more memory for a large tensor than for a small one."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from families import CONFIG

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


def peak(method: str, rows: int, folder: Path) -> int:
    """Peak resident bytes of a merge of five models, in a process of its own."""
    base, *experts = (write_zeros(folder / name, rows) for name in ("base", *"abcd"))
    recipe = {
        "merge_method": method,
        "base_model": str(base),
        "models": [{"model": str(path), "parameters": {"density": 0.3}} for path in experts],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "ledmerge", "merge", "recipe.yaml", "out"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0
    return usage.ru_maxrss * 1024


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_memory_does_not_grow_with_the_tensor(tmp_path: Path, method: str):
    # Equal magnitudes everywhere: TIES also takes its third pass, which counts them per block.
    small, large = (peak(method, rows, tmp_path / f"{rows}") for rows in (320, 16_000))
    assert large - small < 100e6
