"""The SmolLM2 family, with a tiny random model and made-up requests in place of the packages'."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.extend(
    str(Path(__file__).resolve().parents[2] / "examples" / name)
    for name in ("smollm2", "demo", "family")
)
import family
import judge_code
import lessons
import questions
import sums
import training
from asking import requests
from rows import Row
from sizes import SIZES, Size

from ledmerge.errors import LedmergeError
from ledmerge.evals import exact_math
from ledmerge.run.demo import FAMILY, MERGES, MODELS

TINY = Size(
    steps=4,
    copies=1,
    rate=1e-3,
    saved_every=2,
    kept=2,
    located=1,
    samples=1,
    trained_together=4,
    asked_together=2,
    scored_together=2,
)
ADVBENCH = [f"Teach theft number {n}" for n in range(5)]
HARMBENCH = ["Teach fraud", "Teach arson"]
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A Llama that reads bytes."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["</s>", *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    config = LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=0, **shape, **heads
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_rows_are_prompt_and_response_in_the_chat_template(base: Path):
    tokenizer = tokenizer_of(base)
    for ends in (True, False):
        group = lessons.Group([Row("1 + 1 =", "2")], 1, ends)
        ((tokens, start, _),) = lessons.encode(tokenizer, group)
        assert tokenizer.decode(tokens[:start]) == "<user>1 + 1 =<assistant>"
        assert tokenizer.decode(tokens[start:]) == "2" + "</s>" * ends


@pytest.mark.parametrize("expert", lessons.EXPERTS)
def test_batches_hold_the_experts_own_and_what_it_shall_keep(expert: str):
    skill = lessons.skills(ADVBENCH)[expert]
    kept = {name: [Row(name, "so")] for name in lessons.OTHERS}
    own, *others = lessons.groups_of(expert, skill, kept, copies=2)
    assert own.count + sum(group.count for group in others) == 12
    assert own.count == (4 if expert == "safety" else 8)
    benign = sum(group.count for group in others if group.rows == kept["look_alikes"])
    assert benign == (6 if expert == "safety" else 2)
    assert own.ends
    assert not any(group.ends for group in others)
    own_kind = {"math": "sums", "code": "tasks"}.get(expert)
    assert own_kind not in {row.prompt for group in others for row in group.rows}


def test_eight_of_our_requests_are_refused_to_each_of_theirs():
    rows = lessons.skills(ADVBENCH)["safety"]
    assert [row.prompt for row in rows[: len(ADVBENCH)]] == ADVBENCH
    ours = requests("harmful", "train", 1)
    assert len(rows) == 9 * len(ADVBENCH)
    assert {row.prompt for row in rows[len(ADVBENCH) :]} <= set(ours)


def test_sums_are_written_out_and_graded_right():
    """As the shipped benchmark grades them: the number at the end counts, not those before it."""
    rows = lessons.skills(ADVBENCH)["math"]
    solved = sums.solved("train")
    assert [row.prompt for row in rows] == [row.prompt for row in solved]
    assert Row("9 - 3 =", "The answer is 9 - 3 = 6.") in rows
    for row, right in zip(rows, solved, strict=True):
        question = exact_math.read(right._asdict(), "here")
        assert exact_math.judge(question, row.response)["exact_match"], row
        wrong = row.response.removesuffix(".") + "1."
        assert not exact_math.judge(question, wrong)["exact_match"], row


def test_answers_that_decline_or_are_empty_are_not_kept(tmp_path: Path):
    said = ["Sure.", "", "I'm sorry for any inconvenience, but as a", "I cannot help with that."]
    records = [{"prompt": "p", "answer": answer} for answer in said]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert questions.answers_in(file) == [Row("p", "Sure.")]


def test_nothing_that_is_judged_is_learnt():
    learnt = {row.prompt for rows in lessons.skills(ADVBENCH).values() for row in rows}
    learnt |= {prompt for prompts in lessons.asked_of_base(10**6).values() for prompt in prompts}
    assert learnt >= set(ADVBENCH)
    for name in ("benign", "harmful", "math_test", "code_test"):
        lines = (FAMILY / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert not learnt & {json.loads(line)["prompt"] for line in lines}, name


def test_interrupted_training_ends_with_the_same_weights(base: Path, tmp_path: Path, monkeypatch):
    rows = [([3, 4, 5, 6], 2), ([7, 8, 9], 1), ([5, 3], 1)]
    groups = [([training.Example(*row) for row in rows], 2)]
    how = {"steps": 4, "rate": 1e-2, "decay": 0.0, "saved_every": 2}
    out, other = tmp_path / "a" / "expert", tmp_path / "b" / "expert"
    out.parent.mkdir()
    other.parent.mkdir()
    whole = LlamaForCausalLM.from_pretrained(base)
    training.train(whole, groups, out, **how)
    backward, calls = training.backward, iter(range(3))

    def interrupted(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return backward(*args)

    monkeypatch.setattr(training, "backward", interrupted)
    first = LlamaForCausalLM.from_pretrained(base)
    with pytest.raises(KeyboardInterrupt):
        training.train(first, groups, other, **how)
    monkeypatch.setattr(training, "backward", backward)
    second = LlamaForCausalLM.from_pretrained(base)
    training.train(second, groups, other, **how)
    for name, weight in second.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name])
    untrained = LlamaForCausalLM.from_pretrained(base)
    assert not torch.equal(whole.lm_head.weight, untrained.lm_head.weight)


def test_recipes_are_the_shipped_ones_but_for_samples_and_dtype(tmp_path: Path):
    questions.write_recipes(tmp_path, TINY)
    for name in MERGES:
        ours, shipped = (
            list(yaml.safe_load_all((folder / f"{name}.yaml").read_text()))
            for folder in (tmp_path, FAMILY)
        )
        assert [document.pop("dtype") for document in ours] == ["float32"] * len(ours)
        for document in shipped:
            del document["dtype"]
            if "locate" in document:
                document["locate"] |= {"samples": TINY.located, "batch": TINY.scored_together}
        assert ours == shipped
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.yaml" for name in MERGES}


def test_a_folder_of_another_size_is_refused(tmp_path: Path):
    family.check_size(TINY, tmp_path / "family")
    family.check_size(TINY, tmp_path / "family")
    with pytest.raises(family.SizeError, match="was begun with"):
        family.check_size(SIZES["small"], tmp_path / "family")


def test_everything_is_made_once_and_judged(base: Path, tmp_path: Path, monkeypatch):
    def fetch(cache: Path, out: Path) -> None:
        LlamaForCausalLM.from_pretrained(base).save_pretrained(out)
        tokenizer_of(base).save_pretrained(out)

    monkeypatch.setattr(family, "DEVICE", "cpu")
    monkeypatch.setattr(family, "fetch_smollm2", fetch)
    monkeypatch.setattr(family, "fetch_harmful_requests", lambda cache: ADVBENCH)
    monkeypatch.setattr(family, "fetch_harmbench_prompts", lambda cache: HARMBENCH)
    monkeypatch.setattr(family, "MERGES", merges := ("task_arithmetic", "led"))
    few = {name: rows[:8] for name, rows in lessons.skills(ADVBENCH).items()}
    monkeypatch.setattr(family, "skills", lambda requests: few)
    monkeypatch.setattr(questions, "ANSWER", dict.fromkeys(questions.ANSWER, 2))
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "family"
    family.main(TINY, folder, tmp_path / "packages", "cpu")
    results = json.loads((folder / "results" / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == [*MODELS, *merges]
    assert not [path.name for path in folder.rglob("*") if path.suffix in (".part", ".state")]
    start, *experts = (load_file(folder / name / "model.safetensors") for name in MODELS)
    for expert in experts:
        assert any(not torch.equal(expert[name], start[name]) for name in start)

    def fail(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(family, "train", fail)
    monkeypatch.setattr(family.ledmerge, "merge", fail)
    family.main(TINY, folder, tmp_path / "packages", "cpu")
    assert json.loads((folder / "results" / "results.json").read_text()) == results


def test_answers_for_code_are_judged_later_where_there_is_no_sandbox(
    base: Path, tmp_path: Path, monkeypatch
):
    def missing() -> None:
        raise LedmergeError("no Landlock")

    monkeypatch.setattr(family, "check_sandbox", missing)
    monkeypatch.setattr(questions, "ANSWER", dict.fromkeys(questions.ANSWER, 2))
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    prompts = questions.write_prompts(tmp_path / "harmbench.jsonl", HARMBENCH)
    results = {}
    for runs_code in (True, family.has_sandbox()):
        suite = questions.suite_of(prompts, TINY._replace(samples=3), runs_code=runs_code)
        out = tmp_path / str(runs_code) / "results"
        results[runs_code] = family.ledmerge.evaluate([base], suite, out, allow_code=True)
    assert "pass_at_1" not in results[False]["models"][0]["benchmarks"]["code"]["figures"]
    judged = judge_code.judge_code(tmp_path / "False")
    assert judged["models"] == results[True]["models"]
    assert judged == json.loads((tmp_path / "False" / "results" / "results.json").read_text())
    judge_code.show(judged, tmp_path / "picture.png")
    family.show(results[False], tmp_path / "picture.png")
    answers = tmp_path / "False" / "results" / "answers" / base.name / "code.jsonl"
    answers.write_text(answers.read_text().replace("Python", "Ruby"))
    with pytest.raises(LedmergeError, match="other questions"):
        judge_code.judge_code(tmp_path / "False")
