"""Adapters where a model may stand: the merge PEFT makes, and refusals where it would be wrong."""

import json
import shutil
from pathlib import Path

import peft_adapters as by
import pytest
import torch
from families import read_all, recipe, same
from safetensors.torch import load_file
from transformers import AutoTokenizer

import ledmerge
from ledmerge.checkpoint.digest import cached_checkpoint_digest
from ledmerge.errors import LedmergeError
from ledmerge.models.backend import open_answering
from ledmerge.models.find import find_model
from ledmerge.models.loading import open_model
from ledmerge.run.plan import plan

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES = {
    "plain": ("llama", {}),
    "square and not": ("llama", {"target_modules": [*ATTENTION, "up_proj", "down_proj"]}),
    "rslora": ("llama", {"use_rslora": True}),
    "patterns": (
        "llama",
        {
            "rank_pattern": {"up_proj": 3, "model.layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 5, r".*1\.mlp\.up_proj": 7},
        },
    ),
    "patterns, rslora": ("llama", {"rank_pattern": {"q_proj": 3}, "use_rslora": True}),
    "some layers": ("llama", {"layers_to_transform": [1]}),
    "modules_to_save": ("llama", {"modules_to_save": ["embed_tokens", "lm_head", "norm"]}),
    "embeddings": ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "embedding alone": ("llama", {"target_modules": ["embed_tokens"]}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "all biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "biases of lora": ("qwen2", {"target_modules": ["q_proj", "k_proj"], "bias": "lora_only"}),
    "tied, not trained": ("llama_tied", {}),
    "tied, saved as one": (
        "llama_tied",
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("bases")
    return {family: by.write_base(home / family, family) for family in by.FAMILIES}


def applied(reference: object, out: Path, **fields: object) -> dict[str, torch.Tensor]:
    """The model of one reference, written out."""
    given = {"merge_method": "passthrough", "models": [{"model": reference}], **fields}
    ledmerge.merge(given, out, threads=1)
    return read_all(out)


@pytest.mark.parametrize("case", CASES)
def test_a_model_with_an_adapter_is_what_peft_merges(bases, tmp_path: Path, case: str):
    family, settings = CASES[case]
    base = bases[family]
    adapter = by.write_adapter(tmp_path / "adapter", base, **settings)
    merged = applied(f"{base}+{adapter}", tmp_path / "out")
    expected, changed = by.merged_by_peft(base, adapter), 0
    for name, tensor in merged.items():
        theirs = expected[name if name in expected else f"transformer.{name}"]
        torch.testing.assert_close(tensor, theirs, rtol=1e-6, atol=1e-6)
        changed += not torch.equal(tensor, read_all(base)[name])
    assert changed >= 1
    logits = [
        by.open_base(folder)(torch.arange(8)[None]).logits for folder in (tmp_path / "out", base)
    ]
    assert not torch.allclose(*logits, atol=1e-2)


GROWN = {
    "saved beside the LoRA": ("llama_tied", {}),
    "trained whole": ("llama", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "trained by LoRA": ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
}


@pytest.mark.parametrize("case", GROWN)
def test_embeddings_that_were_given_more_rows(bases, tmp_path: Path, case: str):
    family, settings = GROWN[case]
    base = bases[family]
    adapter = by.write_adapter(tmp_path / "adapter", base, num_rows=44, **settings)
    merged = applied(f"{base}+{adapter}", tmp_path / "out")
    expected = by.merged_by_peft(base, adapter, num_rows=44)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)
    assert by.open_base(tmp_path / "out").get_input_embeddings().weight.shape[0] == 44


def test_adapters_are_experts_on_the_recipes_base(bases, tmp_path: Path):
    base = bases["llama"]
    adapters = [by.write_adapter(tmp_path / f"a{seed}", base, seed=seed) for seed in (1, 2)]
    whole = [tmp_path / "whole1", tmp_path / "whole2"]
    for adapter, folder in zip(adapters, whole, strict=True):
        applied(f"{base}+{adapter}", folder)
    for experts, out in ((adapters, "streamed"), (whole, "written")):
        given = recipe("ties", base, *experts, parameters={"density": 0.3}, dtype="bfloat16")
        ledmerge.merge(given, tmp_path / out, threads=2)
    streamed, written = read_all(tmp_path / "streamed"), read_all(tmp_path / "written")
    assert [name for name in written if not same(streamed[name], written[name])] == []
    ledmerge.verify(tmp_path / "streamed", deep=True)


def test_the_result_keeps_the_bases_dtype(bases, tmp_path: Path):
    base = tmp_path / "bf16"
    by.open_base(bases["llama"]).bfloat16().save_pretrained(base)
    adapter = by.write_adapter(tmp_path / "adapter", base)
    merged = applied(f"{base}+{adapter}", tmp_path / "out")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    name = "model.layers.0.mlp.up_proj.weight"
    factors = load_file(adapter / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.{name[:-7]}.lora_{x}.weight"] for x in "AB")
    exact = read_all(base)[name].double() + 6 / 4 * (b.double() @ a.double())
    assert torch.equal(merged[name], exact.float().bfloat16())  # rounded once


def test_an_adapter_alone_is_put_on_the_base_it_names(bases, tmp_path: Path):
    base = bases["llama"]
    adapter = by.write_adapter(tmp_path / "adapter", base)
    alone = applied(str(adapter), tmp_path / "alone")
    pair = applied(f"{base}+{adapter}", tmp_path / "pair")
    assert all(same(alone[name], pair[name]) for name in pair)
    by.edit_settings(adapter, base_model_name_or_path="/nowhere/base")
    with pytest.raises(LedmergeError, match=r"base is not found .*give it with 'base_model'"):
        applied(str(adapter), tmp_path / "lost")
    given = {
        "merge_method": "passthrough",
        "base_model": str(base),
        "models": [{"model": str(adapter)}],
    }
    assert "adapter was trained on /nowhere/base; here it is put on llama" in plan(given).notes
    on_base = applied(str(adapter), tmp_path / "given", base_model=str(base))
    assert all(same(on_base[name], pair[name]) for name in pair)


def test_paths_with_a_plus_are_given_by_their_parts(bases, tmp_path: Path):
    base = shutil.copytree(bases["llama"], tmp_path / "a+base@1")
    adapter = by.write_adapter(tmp_path / "b+lora", base)
    expected = by.merged_by_peft(base, adapter)
    merged = applied({"path": str(base), "lora": str(adapter)}, tmp_path / "out")
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)
    ledmerge.verify(tmp_path / "out", deep=True)  # its record holds the parts
    merged = applied(str(adapter), tmp_path / "whole")  # a path that exists is a path
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)
    with pytest.raises(LedmergeError, match=r"where a path holds a '\+', write"):
        applied(f"{base}+{adapter}", tmp_path / "text")


def test_names_may_differ_by_what_stands_before_them(bases, tmp_path: Path):
    adapter = by.write_adapter(
        tmp_path / "adapter", bases["gpt2"], target_modules=["c_attn", "c_proj"]
    )
    expected = by.merged_by_peft(bases["gpt2"], adapter)
    base = shutil.copytree(bases["gpt2"], tmp_path / "bare")
    by.edit_tensors(
        base, lambda t: {k.removeprefix("transformer."): v for k, v in t.items()}, "model"
    )
    for name, tensor in applied(f"{base}+{adapter}", tmp_path / "out").items():
        theirs = expected.get(name, expected.get(f"transformer.{name}"))
        torch.testing.assert_close(tensor, theirs, rtol=1e-6, atol=1e-6)


def test_an_old_file_is_read_without_running_it(bases, tmp_path: Path):
    adapter = by.write_adapter(tmp_path / "adapter", bases["llama"])
    expected = applied(str(adapter), tmp_path / "out")
    file = adapter / "adapter_model.safetensors"
    torch.save(load_file(file), adapter / "adapter_model.bin")
    file.unlink()
    found = applied(str(adapter), tmp_path / "old")
    assert all(same(found[name], expected[name]) for name in expected)
    torch.save({"x": print}, adapter / "adapter_model.bin")
    with pytest.raises(LedmergeError, match="weights-only loader refuses"):
        applied(str(adapter), tmp_path / "hostile")


KINDS = {
    "dora": ({"use_dora": True}, {}, "'use_dora' is set: DoRA"),
    "dora by its tensors": ({"use_dora": True}, {"use_dora": False}, "is of DoRA"),
    "pissa": ({"init_lora_weights": "pissa"}, {}, "path_initial_model_for_weight_conversion"),
    "ia3": ({}, {"peft_type": "IA3"}, "of the kind IA3, expected LORA"),
    "vera": ({}, {"peft_type": "VERA"}, "of the kind VERA, expected LORA"),
    "a later setting": ({}, {"use_foo": True}, "'use_foo: True' is not known"),
    "rows of an embedding": ({"trainable_token_indices": [1, 2]}, {}, "single rows"),
    "bias of B": ({"lora_bias": True}, {}, "biases of its own in B"),
    "another rank": ({}, {"r": 5}, "but rank 5 by adapter_config.json"),
    "no number": ({}, {"lora_alpha": "x"}, "'lora_alpha' or 'alpha_pattern' is wrong"),
    "a bad pattern": ({}, {"rank_pattern": {"(": 1}}, "'r' or 'rank_pattern' is wrong"),
    "no object": ({}, {"rank_pattern": [1]}, "'r' or 'rank_pattern' is wrong"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_would_come_out_wrong_is_refused_by_name(bases, tmp_path: Path, kind: str):
    made, edited, said = KINDS[kind]
    base = bases["qwen2" if kind == "bias of B" else "llama"]
    targets = {"target_modules": ["q_proj"]}
    adapter = by.write_adapter(tmp_path / "adapter", base, **targets, **made)
    by.edit_settings(adapter, **edited)
    with pytest.raises(LedmergeError, match=said):
        applied(f"{base}+{adapter}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


TIED = {
    "input": {"target_modules": ["embed_tokens"]},
    "output": {"target_modules": ["lm_head"]},
    "saved input": {"modules_to_save": ["embed_tokens"]},
    "saved apart": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("case", TIED)
def test_tied_embeddings_are_not_changed_at_one_end(bases, tmp_path: Path, case: str):
    adapter = by.write_adapter(tmp_path / "adapter", bases["llama_tied"], **TIED[case])
    with pytest.raises(LedmergeError, match="ties them; untie the base first"):
        applied(str(adapter), tmp_path / "out")


def test_embeddings_are_tied_by_default_where_transformers_has_it_so(bases, tmp_path: Path):
    adapter = by.write_adapter(tmp_path / "adapter", bases["gpt2"], target_modules=["wte"])
    shutil.copytree(bases["gpt2"], tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    del config["tie_word_embeddings"]  # as older versions of transformers wrote it
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(LedmergeError, match="ties them; untie the base first"):
        applied(f"{tmp_path / 'base'}+{adapter}", tmp_path / "out")


def test_a_low_rank_change_of_both_tied_ends_is_made_once(bases, tmp_path: Path):
    # PEFT's own merge adds it twice, so the reference is the adapter as it runs.
    base = bases["llama_tied"]
    adapter = by.write_adapter(
        tmp_path / "adapter", base, target_modules=["embed_tokens"], ensure_weight_tying=True
    )
    applied(str(adapter), tmp_path / "out")
    ours = by.open_base(tmp_path / "out")(torch.arange(8)[None]).logits
    torch.testing.assert_close(ours, by.run(base, adapter), rtol=1e-5, atol=1e-5)


def test_tensors_that_are_not_understood_are_named(bases, tmp_path: Path):
    base = bases["llama"]
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A"
    cases = {
        "a name left in": (
            lambda t: {k.replace("lora_A.", "lora_A.default."): v for k, v in t.items()},
            "is not understood; expected names such as",
        ),
        "no B": (
            lambda t: {k: v for k, v in t.items() if "lora_B" not in k},
            "expected one pair of A and B",
        ),
        "no such layer": (
            lambda t: {k.replace("layers.0", "layers.9"): v for k, v in t.items()},
            r"changes 'model\.layers\.9.*which is not there",
        ),
        "other widths": (
            lambda t: {k: v[:, :8].contiguous() if "lora_A" in k else v for k, v in t.items()},
            r"by a matrix \(\d+, 8\), but it is",
        ),
        "a convolution": (lambda t: {**t, f"{name}.weight": torch.ones(4, 16, 1)}, "no conv"),
        "nothing": (lambda t: {}, "holds no tensor"),
    }
    for case, (change, said) in cases.items():
        adapter = by.write_adapter(tmp_path / case, base, target_modules=["q_proj"])
        by.edit_tensors(adapter, change)
        with pytest.raises(LedmergeError, match=said):
            applied(str(adapter), tmp_path / "out")


def test_a_folder_that_is_model_and_adapter_is_asked_about(bases, tmp_path: Path):
    both = by.write_adapter(tmp_path / "both", bases["llama"])
    shutil.copytree(bases["llama"], both, dirs_exist_ok=True)
    with pytest.raises(LedmergeError, match="holds a model and an adapter; say which"):
        applied(str(both), tmp_path / "out")
    model = applied({"path": str(both)}, tmp_path / "model")
    assert all(same(model[name], tensor) for name, tensor in read_all(bases["llama"]).items())
    changed = applied({"path": str(bases["llama"]), "lora": str(both)}, tmp_path / "changed")
    assert not all(same(model[name], tensor) for name, tensor in changed.items())


def test_another_alpha_is_another_model(bases, tmp_path: Path):
    adapter = by.write_adapter(tmp_path / "adapter", bases["llama"])
    first = cached_checkpoint_digest(find_model(adapter).checkpoint)
    by.edit_settings(adapter, lora_alpha=60)  # scores located before do not fit any more
    assert cached_checkpoint_digest(find_model(adapter).checkpoint) != first


def test_a_model_that_runs_with_an_adapter_is_the_adapted_one(bases, tmp_path: Path, tokenizer):
    for family, targets in (("llama", ["q_proj", "embed_tokens"]), ("gpt2", ["c_attn", "c_proj"])):
        adapter = by.write_adapter(tmp_path / family, bases[family], target_modules=targets)
        tokenizer.save_pretrained(adapter)
        folder = find_model(f"{bases[family]}+{adapter}")
        model, found = open_model(folder, torch.float32, torch.device("cpu"))
        logits = model(torch.arange(8)[None]).logits
        torch.testing.assert_close(logits, by.run(bases[family], adapter), rtol=1e-5, atol=1e-5)
        assert len(found) == len(tokenizer)  # the base has none


def test_a_model_whose_adapter_has_more_rows_runs(bases, tmp_path: Path, tokenizer):
    base = shutil.copytree(bases["llama_tied"], tmp_path / "base")
    tokenizer.save_pretrained(base)
    adapter = by.write_adapter(tmp_path / "adapter", base, num_rows=44)
    model, _ = open_model(find_model(f"{base}+{adapter}"), torch.float32, torch.device("cpu"))
    expected = by.merged_by_peft(base, adapter, num_rows=44)
    assert torch.equal(model.get_input_embeddings().weight, expected["model.embed_tokens.weight"])


def test_an_adapter_is_located_as_the_model_it_makes(model_folder, rows_file, tmp_path: Path):
    base = model_folder("llama")
    adapter = by.write_adapter(tmp_path / "adapter", base)
    applied(f"{base}+{adapter}", tmp_path / "written")
    for expert, out in ((adapter, "streamed"), (tmp_path / "written", "whole")):
        model = {"model": str(expert), "locate": {"data": str(rows_file), "samples": 4}}
        given = recipe("led", base, parameters={"density": 0.2}, models=[model])
        ledmerge.merge(given, tmp_path / out)
    streamed, whole = read_all(tmp_path / "streamed"), read_all(tmp_path / "whole")
    assert [name for name in whole if not same(streamed[name], whole[name])] == []


def test_an_adapters_own_tokenizer_goes_along(model_folder, tmp_path: Path):
    base = model_folder("llama")
    adapter = by.write_adapter(tmp_path / "adapter", base)
    applied(str(adapter), tmp_path / "plain")
    (adapter / "chat_template.jinja").write_text("no vocabulary beside it")
    applied(str(adapter), tmp_path / "template")
    shutil.copyfile(base / "tokenizer.json", adapter / "tokenizer.json")
    applied(str(adapter), tmp_path / "own")
    assert (tmp_path / "plain" / "tokenizer.json").exists()
    assert not (tmp_path / "template" / "chat_template.jinja").exists()
    assert (tmp_path / "own" / "chat_template.jinja").read_text() == "no vocabulary beside it"
    assert not (tmp_path / "own" / "adapter_config.json").exists()


def test_nothing_of_the_bases_tokenizer_is_left_beside_the_adapters(model_folder, tmp_path: Path):
    base = shutil.copytree(model_folder("llama"), tmp_path / "base")
    adapter = by.write_adapter(tmp_path / "adapter", base)
    (base / "special_tokens_map.json").write_text('{"eos_token": "a", "pad_token": "b"}')
    (base / "chat_template.jinja").write_text("base")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("base, tools")
    own = AutoTokenizer.from_pretrained(model_folder("llama"))
    own.save_pretrained(adapter)
    (adapter / "chat_template.jinja").unlink(missing_ok=True)
    applied(f"{base}+{adapter}", tmp_path / "plain")
    assert (tmp_path / "plain" / "chat_template.jinja").read_text() == "base"
    own.chat_template = "adapter"
    own.save_pretrained(adapter, save_jinja_files=False)  # as older versions of transformers
    applied(f"{base}+{adapter}", tmp_path / "out")
    found, expected = (AutoTokenizer.from_pretrained(each) for each in (tmp_path / "out", adapter))
    assert found.chat_template == expected.chat_template == "adapter"
    assert found.special_tokens_map == expected.special_tokens_map


def test_layers_may_come_from_adapted_models(bases, tmp_path: Path):
    base = bases["llama"]
    adapter = by.write_adapter(tmp_path / "adapter", base)
    whole = applied(str(adapter), tmp_path / "whole")
    slices = [
        {"sources": [{"model": model, "layer_range": [0, 1]}]}
        for model in (str(base), {"path": str(base), "lora": str(adapter)})
    ]
    ledmerge.merge({"merge_method": "passthrough", "slices": slices}, tmp_path / "out")
    found, first = read_all(tmp_path / "out"), read_all(base)
    name = "model.layers.{}.self_attn.q_proj.weight"
    assert same(found[name.format(0)], first[name.format(0)])
    assert same(found[name.format(1)], whole[name.format(0)])
    ledmerge.verify(tmp_path / "out", deep=True)


def test_vllm_is_given_whole_models(bases, tmp_path: Path):
    folder = find_model(by.write_adapter(tmp_path / "adapter", bases["llama"]))
    with pytest.raises(LedmergeError, match="write one with `ledmerge apply`"):
        open_answering(folder, "none", torch.float32, torch.device("cpu"), False, "vllm")
