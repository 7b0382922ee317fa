"""Models and score sets of a Llama shape to measure merges on, and the recipes that merge them."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

import torch
import yaml
from rich.progress import track

from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.digest import cached_checkpoint_digest
from ledmerge.checkpoint.layout import NewTensor, ShardWriter, lay_out
from ledmerge.ops.rank_codes import STEPS, rank_codes

SIDES = ((0.2, 2048, 32_000), (0.05, 1024, 8_000), (0.0, 256, 8_000))
"""(From how many billion parameters, hidden size, vocabulary)."""
DENSITY = 77 / STEPS
"""About 0.3, and one of the shares that rank codes tell."""
TRIMMED = ("ties", "dare_linear", "dare_ties", "della", "della_linear", "led")
FORMS = {"led": "float32", "led_codes": "codes"}
"""Row -> how its scores are stored; other rows have none."""
SCORE_BYTES = {"float32": 4, "codes": 1}

Shapes = dict[str, tuple[int, ...]]
Rows = list[tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]]


def experts_of(count: int) -> list[str]:
    return [f"expert-{place}" for place in range(1, count + 1)]


def config_of(params: float) -> dict:
    """Of a Llama shape of about `params` billion parameters."""
    hidden, vocabulary = next(sides for least, *sides in SIDES if params >= least)
    layers = max(1, round((params * 1e9 - 2 * vocabulary * hidden) / (16 * hidden**2)))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": hidden // 128,
        "vocab_size": vocabulary,
        "torch_dtype": "bfloat16",
    }


def shapes_of(config: dict) -> Shapes:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    ends = (config["vocab_size"], hidden)
    found: Shapes = {"model.embed_tokens.weight": ends}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{prefix}.self_attn.{part}.weight"] = (hidden, hidden)
        for part in ("gate_proj", "up_proj"):
            found[f"{prefix}.mlp.{part}.weight"] = (wide, hidden)
        found[f"{prefix}.mlp.down_proj.weight"] = (hidden, wide)
        for part in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}.{part}.weight"] = (hidden,)
    return found | {"model.norm.weight": (hidden,), "lm_head.weight": ends}


def nbytes_of(params: float, count: int, forms: list[str]) -> int:
    """Of a base, `count` experts and their score sets."""
    entries = sum(map(math.prod, shapes_of(config_of(params)).values()))
    scores = sum(SCORE_BYTES[form] for form in forms)
    return entries * (2 * (1 + count) + 2 * count * scores)


def make(work: Path, params: float, count: int, forms: list[str]) -> None:
    """A base, `count` experts and score sets, unless they are there.

    In a process of its own: a child's peak memory counts from what its parent held at the fork.
    """
    given = (work, config_of(params), experts_of(count), forms)
    maker = get_context("spawn").Process(target=_make, args=given)
    maker.start()
    maker.join()
    if maker.exitcode:
        sys.exit("the models were not made")


def _make(work: Path, config: dict, experts: list[str], forms: list[str]) -> None:
    shapes = shapes_of(config)

    def base_of(name: str) -> torch.Tensor:
        return _noise(name, shapes[name]).mul_(0.02).bfloat16()

    def expert_of(expert: str, name: str) -> torch.Tensor:
        update = _noise(expert + name, shapes[name]).mul_(1e-3)
        return update.add_(base_of(name)).bfloat16()

    def scores_of(seed: str, form: str, name: str) -> torch.Tensor:
        scores = _noise("scores" + seed + name, shapes[name]).square_()
        return rank_codes(scores) if form == "codes" else scores

    def rows(each: Callable[[str], torch.Tensor]) -> Rows:
        return [(name, shape, partial(each, name)) for name, shape in shapes.items()]

    for model in ("base", *experts):
        each = base_of if model == "base" else partial(expert_of, model)
        _write(work / model, "BF16", rows(each), "config.json", config)
    for form in forms:
        for expert in experts:
            for at in (expert, "base"):
                digest = cached_checkpoint_digest(open_checkpoint(work / at))
                told = {"model": {"name": at, "digest": digest}, "data": {"rows": expert}}
                _write(
                    work / f"{form}-{expert}-at-{at}",
                    "U8" if form == "codes" else "F32",
                    rows(partial(scores_of, expert + at, form)),
                    "scores.json",
                    {**told, "score": "snip", "stored": form},
                )


def _write(folder: Path, dtype: str, rows: Rows, mark: str, told: dict) -> None:
    """A folder of tensors; `mark`, written last, tells that it is whole."""
    if (folder / mark).exists() and json.loads((folder / mark).read_text()) == told:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    new = [NewTensor(name, dtype, shape) for name, shape, _ in rows]
    stem = "scores" if mark == "scores.json" else "model"
    writer = ShardWriter(lay_out(folder, new, 10**18, {"format": "pt"}, stem))
    for name, _, tensor in track(rows, description=folder.name):
        data = tensor().contiguous().view(-1).view(torch.uint8).numpy()
        writer.write(name, 0, memoryview(data))
    writer.close()
    (folder / mark).write_text(json.dumps(told))


@cache
def _sheet() -> torch.Tensor:
    """Numbers drawn once: drawing as many as there are weights takes longer than merging them."""
    return torch.randn((1 << 24) + 1, generator=torch.Generator().manual_seed(0))


def _noise(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal numbers: the sheet, begun at a place of the name's own, as often as it takes."""
    sheet, out, filled = _sheet(), torch.empty(math.prod(shape)), 0
    place = crc32(name.encode()) % len(sheet)
    while filled < len(out):
        part = sheet[place : place + len(out) - filled]
        out[filled : filled + len(part)] = part
        filled, place = filled + len(part), 0
    return out.view(shape)


def recipe_of(row: str, work: Path, count: int = 3) -> Path:
    """The recipe of one row, written to `ROW.yaml` beside the models it names."""
    form = FORMS.get(row)
    method = "led" if form else row
    options = {} if method == "tsvm" else {"weight": 0.5}
    if method in TRIMMED:
        options["density"] = DENSITY
    models: list[dict] = []
    for expert in experts_of(count):
        entry = {"model": expert, "parameters": options}
        if form:
            entry["scores"] = f"{form}-{expert}-at-{expert}"
            entry["base_scores"] = f"{form}-{expert}-at-base"
        models.append(entry)
    recipe = {"merge_method": method, "base_model": "base", "models": models, "dtype": "bfloat16"}
    if method == "linear":
        del recipe["base_model"]
    if method == "slerp":
        recipe |= {"models": [{"model": "base"}, {"model": "expert-1"}], "parameters": {"t": 0.4}}
    path = work / f"{row}.yaml"
    path.write_text(yaml.dump(recipe, Dumper=_Plain, sort_keys=False))
    return path


def inputs_of(recipe: Path) -> list[Path]:
    """All files of weights and scores that a merge by the recipe reads."""
    told = yaml.safe_load(recipe.read_text())
    folders = {told["base_model"]: None} if "base_model" in told else {}
    for entry in told["models"]:
        folders |= dict.fromkeys(
            entry[key] for key in ("model", "scores", "base_scores") if key in entry
        )
    return [path for name in folders for path in (recipe.parent / name).glob("*.safetensors")]


class _Plain(yaml.SafeDumper):
    """Without anchors and aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True
