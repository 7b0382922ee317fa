"""Merges across real and large tokenizers: `python benchmarks/real_tokenizers.py FOLDER`.

FOLDER holds tokenizers, each a `tokenizer.json` in a folder of its own, a `.gguf` file whose
tokenizer is taken, or the `.bin` file of llama2.c. Each gets a random model of one layer; it is
merged with the same model under shuffled ids (which must give its rows back, token by token, and
the same answer), and every pair is merged by each vocabulary. Prints tokens, seconds and peak
memory. No weights of FOLDER are read.
"""

import json
import resource
import struct
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "run"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from vocabularies import EMBEDDING, answer, ids_of, shuffled, tensors_of, write

import ledmerge
from ledmerge.errors import RecipeError

PROMPT = "Once upon a time there was a cat"


def main() -> None:
    """All of it."""
    with tempfile.TemporaryDirectory() as place:
        models = [build(path, Path(place)) for path in sorted(Path(sys.argv[1]).iterdir())]
        models.append(build(None, Path(place)))
        for model in models:
            itself(model, Path(place))
        for pair in combinations(models, 2):
            for source in ("base", "union", str(pair[1])):
                together(*pair, source, Path(place))


def build(path: Path | None, place: Path) -> Path:
    """A random model with a tokenizer of FOLDER; without path, one of 150,000 made-up tokens."""
    if path is None:
        name, tokenizer = "made-150k", made_up(150_000)
    elif path.suffix == ".bin":
        name, tokenizer = path.stem, of_llama2c(path.read_bytes())
    else:
        named = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
        opened = AutoTokenizer.from_pretrained(path.parent if named else path, **named)
        name, tokenizer = path.stem, Tokenizer.from_str(opened.backend_tokenizer.to_str())
    return save(place / name, tokenizer, 1)


def save(folder: Path, tokenizer: Tokenizer, seed: int | dict) -> Path:
    """The model's folder, with no token that ends an answer."""
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    tensors = tensors_of(size, seed) if isinstance(seed, int) else seed
    write(folder, tokenizer, tensors, eos_token_id=None)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return folder


def of_llama2c(data: bytes) -> Tokenizer:
    """SentencePiece's BPE from (score, length, bytes) of each token; merges follow the scores."""
    from tokenizers import decoders, models, normalizers

    place, scores = 4, {}
    while place < len(data):
        score, length = struct.unpack_from("<fi", data, place)
        token = data[place + 8 : place + 8 + length].decode().replace(" ", "▁").strip("\n")
        scores.setdefault(token or f"<{len(scores)}>", score)
        place += 8 + length
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
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return made


def made_up(size: int) -> Tokenizer:
    """Byte-level BPE with merges of random pairs, each of tokens that are there."""
    from tokenizers import decoders, models, pre_tokenizers

    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: place for place, token in enumerate(tokens)}
    draw, merges = torch.Generator().manual_seed(0), []
    while len(tokens) < size:
        one, two = (tokens[i] for i in torch.randint(min(len(tokens), 4000), (2,), generator=draw))
        if one + two not in ids:
            ids[one + two] = len(tokens)
            tokens.append(one + two)
            merges.append((one, two))
    made = Tokenizer(models.BPE(ids, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def itself(model: Path, place: Path) -> None:
    """The model and itself under other ids: nothing may change."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    other = shuffled(tokenizer)
    ours, theirs = ids_of(model), other.get_vocab(with_added_tokens=True)
    rows = tensors_in(model)
    for name in (EMBEDDING, "lm_head.weight"):
        moved = rows[name].clone()
        moved[list(map(theirs.__getitem__, ours))] = rows[name][list(ours.values())]
        rows[name] = moved
    twin = save(place / f"{model.name}-shuffled", other, rows)
    said, out = answer(model, PROMPT), place / "out"
    start = time.perf_counter()
    record = merge(model, twin, "base", out)
    seconds = time.perf_counter() - start
    ids, made, expected = ids_of(out), tensors_in(out), tensors_in(model)
    same = ids == ours and all(torch.equal(made[n], rows) for n, rows in expected.items())
    moved = record["vocabulary"]["models"][twin.name]["moved"]["count"]
    print(
        f"{model.name}: {len(ours):,} tokens, {moved:,} moved back in {seconds:.1f} s, "
        f"{peak():.2f} GiB; rows {'same' if same else 'DIFFER'}, answers "
        f"{'same' if answer(out, PROMPT) == said == answer(twin, PROMPT) else 'DIFFER'}"
    )


def together(base: Path, other: Path, source: str, place: Path) -> None:
    """Two models with different tokenizers."""
    word = source if source in ("base", "union") else "model"
    start = time.perf_counter()
    try:
        record = merge(base, other, source, place / "out")
    except RecipeError as error:
        print(f"{base.name} + {other.name}, {word}: refused: {str(error)[:150]}")
        return
    seconds, about = time.perf_counter() - start, record["vocabulary"]
    keeper = other if word == "model" else base
    kept = answer(place / "out", PROMPT).split()
    print(
        f"{base.name} + {other.name}, {word}: {about['tokens']:,} tokens, "
        f"{about['added']['count']:,} added, {about['dropped']['count']:,} dropped, "
        f"{seconds:.1f} s, {peak():.2f} GiB; ids of {keeper.name} "
        f"{'kept' if ids_of(keeper).items() <= ids_of(place / 'out').items() else 'MOVED'}; "
        f"answers with {len(kept)} tokens"
    )


def merge(base: Path, other: Path, source: str, out: Path) -> dict:
    """The merge's record."""
    given = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(other)}],
        "tokenizer": {"source": source},
    }
    return ledmerge.merge(given, out, overwrite=out.exists())


def tensors_in(model: Path) -> dict:
    """The model's tensors."""
    return load_file(model / "model.safetensors")


def peak() -> float:
    """GiB that the program has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
