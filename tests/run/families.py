"""A small family: a base and experts near it in mixed dtypes, and score folders made by hand."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.digest import cached_checkpoint_digest
from ledmerge.run.progress import Progress

SHAPES = {
    "model.embed_tokens.weight": ((457, 300), torch.bfloat16),  # 137,100 entries: two blocks
    "model.layers.0.attn.weight": ((33, 9), torch.bfloat16),
    "model.layers.0.norm.weight": ((99,), torch.float32),
    "model.layers.1.attn.weight": ((33, 9), torch.float16),
    "model.layers.1.scale": ((), torch.float32),
    "model.layers.1.none": ((0, 4), torch.bfloat16),
}
WHOLE_NUMBERS = {
    "model.ids": torch.arange(7),
    "model.mask": torch.tensor([True, False]),
}
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}

Tensors = Mapping[str, Tensor]


def base_tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    made = {n: torch.randn(shape, generator=draw).to(d) for n, (shape, d) in SHAPES.items()}
    return {**made, **WHOLE_NUMBERS}


def expert_tensors(seed: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The base with a tenth of its size in changes; in its dtypes, or all in one."""
    draw = torch.Generator().manual_seed(seed)
    made = dict(WHOLE_NUMBERS)
    for name, tensor in base_tensors().items():
        if tensor.is_floating_point():
            change = 0.1 * torch.randn(tensor.shape, generator=draw)
            made[name] = (tensor.float() + change).to(dtype or tensor.dtype)
    return made


def write_model(folder: Path, tensors: Tensors, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def write_family(folder: Path) -> list[Path]:
    """A base and three experts: in the base's dtypes, in float32, in float16."""
    return [
        write_model(folder / "base", base_tensors()),
        write_model(folder / "safety", expert_tensors(1)),
        write_model(folder / "math", expert_tensors(2, torch.float32)),
        write_model(folder / "code", expert_tensors(3, torch.float16)),
    ]


def spoil(folder: Path, name: str, value: float, place: int = -1) -> Path:
    """A copy of the model in which one entry is `value`."""
    tensors = read_all(folder)
    tensors[name].view(-1)[place] = value
    return write_model(folder.with_name(f"spoilt-{folder.name}"), tensors)


def random_scores(seed: int) -> dict[str, Tensor]:
    """Whole numbers below 50, so that many are equal."""
    draw = torch.Generator().manual_seed(seed)
    return {n: torch.randint(50, s, generator=draw).float() for n, (s, _) in SHAPES.items()}


def write_scores(folder: Path, model: Path, scores: Tensors, **provenance: object) -> Path:
    """A score folder as `ledmerge locate` leaves it."""
    folder.mkdir(parents=True)
    save_file(dict(scores), folder / "scores.safetensors")
    with open_checkpoint(model) as checkpoint:
        digest = cached_checkpoint_digest(checkpoint)
    facts = {
        "model": {"name": model.name, "digest": digest},
        "data": {"name": "rows.jsonl", "rows": "r"},
        "score": "snip",
        **provenance,
    }
    (folder / "scores.json").write_text(json.dumps(facts))
    return folder


def recipe(method: str, base: Path | None, *experts: Path, **fields: Any) -> dict[str, Any]:
    """A recipe in absolute paths. `own` gives the experts' options, one mapping each."""
    own = fields.pop("own", None) or [{}] * len(experts)
    models = [
        {"model": str(path), **({"parameters": options} if options else {})}
        for path, options in zip(experts, own, strict=True)
    ]
    found = {"merge_method": method, "models": models, **fields}
    return {**found, "base_model": str(base)} if base else found


def read_all(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, by the safetensors library."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether dtype, shape and every bit are the same."""
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    return torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (ours, theirs)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too, by its path inside the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def listen(on_advance: Callable[[], None] = lambda: None) -> tuple[Progress, list[Any]]:
    """A progress that calls `on_advance`, and the list of what it hears of starts and notes."""
    heard: list[Any] = []
    progress = SimpleNamespace(
        start=lambda what, total, unit, done=0: heard.append((what, total, unit, done)),
        advance=lambda amount=1: on_advance(),
        note=heard.append,
    )
    return progress, heard


def stop_after(count: int) -> Progress:
    """A progress that presses Ctrl-C when `count` blocks are written."""
    left = iter(range(count - 1, -1, -1))

    def press() -> None:
        if next(left, 0) == 0:
            raise KeyboardInterrupt

    return listen(press)[0]
