"""How far apart models are that share a base, a start or nothing: `python benchmarks/relation.py`.

Trains small language models of one shape on this repository's own text and prints the figures of
`ledmerge diff` for each against the first. About a minute on two cores.
"""

import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ledmerge.run.diff import diff

ROOT = Path(__file__).parent.parent
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
CONFIG = LlamaConfig(vocab_size=256, num_attention_heads=4, tie_word_embeddings=True, **SHAPE)


def text(pattern: str) -> torch.Tensor:
    """All files of the pattern as bytes."""
    found = sorted(ROOT.glob(pattern))
    return torch.tensor(list(b"".join(path.read_bytes() for path in found)))


def train(model: LlamaForCausalLM, data: torch.Tensor, steps: int, rate: float, seed: int):
    """The model, trained in place."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        starts = torch.randint(len(data) - 65, (16,), generator=draw)
        batch = torch.stack([data[start : start + 64] for start in starts.tolist()])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def fresh(seed: int) -> LlamaForCausalLM:
    """A model that has learnt nothing."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(CONFIG)


def main() -> None:
    """Print a line for each pair."""
    words, code = text("docs/**/*.md"), text("src/ledmerge/**/*.py")
    base = train(fresh(0), words, 400, 2e-3, seed=0)
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}

    def tuned(steps: int, rate: float) -> LlamaForCausalLM:
        model = fresh(0)
        model.load_state_dict(state)
        return train(model, code, steps, rate, seed=1)

    others = {
        "fine-tuned gently (100 steps at 1e-4)": tuned(100, 1e-4),
        "fine-tuned hard (200 steps at 1e-3)": tuned(200, 1e-3),
        "trained on for as long as the base (400 at 2e-3)": tuned(400, 2e-3),
        "from the same start, other text": train(fresh(0), code, 400, 2e-3, seed=1),
        "from another start, the same text": train(fresh(1), words, 400, 2e-3, seed=0),
        "from another start, other text": train(fresh(1), code, 400, 2e-3, seed=1),
    }
    print("| model | relative change | cosine, whole | median over matrices | verdict |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        base.load_state_dict(state)
        base.save_pretrained(Path(folder) / "base")
        for place, (name, model) in enumerate(others.items()):
            model.save_pretrained(Path(folder) / str(place))
            found = diff(Path(folder) / "base", Path(folder) / str(place))
            whole = found["whole"]
            print(
                f"| {name} | {whole['relative']:.3f} | {whole['cosine']:.3f} | "
                f"{found['cosine']:.3f} | {found['verdict']} |"
            )


if __name__ == "__main__":
    main()
