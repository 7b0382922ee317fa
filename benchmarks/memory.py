"""Peak memory of a merge whose embedding is 128256 x 4096, for each method.

    python benchmarks/memory.py --work /tmp/bench-memory

Five models of one tensor each (1.05 GB in bf16, all zeros: what is in them does not matter), a
fresh process per method, `--memory 512MiB`. Prints one row per method, such as

    | ties | 0.43 GiB | 290 MiB |
"""

import argparse
import shutil
import sys
from pathlib import Path

import yaml
from process_tree import run_measured

from ledmerge.checkpoint.layout import NewTensor, ShardWriter, lay_out

SHAPE = (128_256, 4_096)
EXPERTS = ("a", "b", "c", "d")
LIMIT = 1.5 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["linear", "ties", "dare_ties"])
    arguments = parser.parse_args()
    for model in ("base", *EXPERTS):
        folder = arguments.work / model
        folder.mkdir(parents=True, exist_ok=True)
        new = [NewTensor("model.embed_tokens.weight", "BF16", SHAPE)]
        ShardWriter(lay_out(folder, new, 10**18, {"format": "pt"})).close()
        (folder / "config.json").write_text('{"model_type": "llama"}')
    idle = run_measured([sys.executable, "-c", "import torch, time; time.sleep(0.3)"])
    print("| method | peak resident | anonymous, beyond `import torch` |\n|---|---|---|")
    for method in arguments.methods:
        density = {} if method == "linear" else {"density": 0.3}
        recipe = {
            "merge_method": method,
            "base_model": "base",
            "models": [{"model": expert, "parameters": density} for expert in EXPERTS],
        }
        path = arguments.work / f"{method}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        out = arguments.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "ledmerge", "merge", str(path), str(out), "--json"]
        command += ["--overwrite", "--memory", "512MiB"]  # an interrupted run may be in the way
        taken = run_measured(command)
        beyond = (taken.anonymous - idle.anonymous) / 2**20
        print(f"| {method} | {taken.resident / 2**30:.2f} GiB | {beyond:.0f} MiB |", flush=True)
        if taken.resident > LIMIT:
            sys.exit(f"{method}: expected at most {LIMIT / 2**30} GiB")


if __name__ == "__main__":
    main()
