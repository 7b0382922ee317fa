"""Extracted adapters: PEFT makes the expert of them again, and what is lost is told."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import peft_adapters as by
import pytest
import torch
from families import files_of, read_all
from safetensors.torch import load_file, save_file

import ledmerge
from ledmerge.checkpoint import staging
from ledmerge.cli.app import main
from ledmerge.errors import LedmergeError, NonFiniteError, OutputError


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("bases")
    return {family: by.write_base(home / family, family) for family in by.FAMILIES}


def write_expert(folder: Path, base: Path, part: str = "", size: float = 0.1) -> Path:
    """The base with every tensor moved whose name holds `part`."""
    shutil.copytree(base, folder)
    draw = torch.Generator().manual_seed(5)
    return by.edit_tensors(
        folder,
        lambda tensors: {
            name: t + size * torch.randn(t.shape, generator=draw) * (part in name)
            for name, t in tensors.items()
        },
        "model",
    )


def test_the_change_of_an_adapter_comes_back_whole(bases, tmp_path: Path):
    targets = ["q_proj", "down_proj", "embed_tokens", "lm_head"]
    adapter = by.write_adapter(tmp_path / "lora", bases["llama"], target_modules=targets)
    ledmerge.apply(adapter, tmp_path / "expert")
    record = ledmerge.extract_lora(
        tmp_path / "expert", tmp_path / "out", base=bases["llama"], rank=4
    )
    assert record["difference"] < 1e-5
    assert {name.rpartition(".")[2] for name in record["modules"]} == set(targets)
    assert (record["saved"], record["dropped"]) == ([], {})
    expert = read_all(tmp_path / "expert")
    for name, tensor in by.merged_by_peft(bases["llama"], tmp_path / "out").items():
        torch.testing.assert_close(tensor, expert[name], rtol=1e-4, atol=1e-5)
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(bases["llama"].resolve())


def test_an_expert_that_is_read_is_never_replaced(bases, tmp_path: Path):
    expert = write_expert(tmp_path / "expert", bases["llama"])
    ledmerge.convert(expert, tmp_path / "own")  # a folder that --overwrite would replace
    before = files_of(tmp_path / "own")
    with pytest.raises(OutputError, match="own: is read by this extraction, which would replace"):
        ledmerge.extract_lora(
            tmp_path / "own", tmp_path / "own", base=bases["llama"], rank=4, overwrite=True
        )
    assert files_of(tmp_path / "own") == before


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "llama_tied"])
def test_what_no_low_rank_can_change_is_saved_whole(bases, tmp_path: Path, family: str):
    base = bases[family]
    expert = write_expert(tmp_path / "expert", base)
    record = ledmerge.extract_lora(expert, tmp_path / "out", base=base, rank=99)
    assert record["difference"] < 1e-5
    wanted = read_all(expert)
    logits = by.open_base(expert)(torch.arange(8)[None]).logits
    for merged in (by.merged_by_peft(base, tmp_path / "out"), None):
        if merged is None:
            ledmerge.apply(tmp_path / "out", tmp_path / "again")
            merged = read_all(tmp_path / "again")
        for name, tensor in wanted.items():
            torch.testing.assert_close(merged[name], tensor, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by.run(base, tmp_path / "out"), logits, rtol=1e-3, atol=1e-3)


def test_what_a_small_rank_loses_is_told(bases, tmp_path: Path):
    base = bases["qwen2"]
    expert = write_expert(tmp_path / "expert", base)
    record = ledmerge.extract_lora(expert, tmp_path / "out", base=base, rank=2, rest="drop")
    before, wanted = read_all(base), read_all(expert)
    merged = by.merged_by_peft(base, tmp_path / "out")
    lost = total = 0.0
    for name, tensor in wanted.items():
        size = float((tensor.double() - before[name]).norm())
        off = float((merged[name].double() - tensor).norm())
        module = record["modules"].get(name.removesuffix(".weight"))
        if module and not name.endswith(".bias"):
            assert module["norm"] == pytest.approx(size, rel=1e-5)
            assert module["difference"] == pytest.approx(off / size, rel=1e-3)
            best = torch.linalg.svdvals((tensor - before[name]).double())[2:].norm() / size
            assert module["difference"] < 1.02 * best + 1e-6
        else:
            assert record["dropped"][name] == pytest.approx(size, rel=1e-5)
            assert torch.equal(merged[name], before[name])
        lost, total = lost + off**2, total + size**2
    assert record["norm"] == pytest.approx(total**0.5, rel=1e-5)
    assert record["difference"] == pytest.approx((lost / total) ** 0.5, rel=1e-3)
    assert json.loads((tmp_path / "out" / "ledmerge.json").read_text()) == record


def test_an_error_is_that_of_the_stored_factors(bases, tmp_path: Path):
    adapter = by.write_adapter(tmp_path / "lora", bases["llama"])
    ledmerge.apply(adapter, tmp_path / "expert")
    record = ledmerge.extract_lora(
        tmp_path / "expert", tmp_path / "out", base=bases["llama"], rank=4, dtype="bfloat16"
    )
    assert 1e-4 < record["difference"] < 1e-2
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_the_same_bytes_again(bases, tmp_path: Path):
    expert = write_expert(tmp_path / "expert", bases["llama"], "up_proj")
    for out in ("one", "two"):
        ledmerge.extract_lora(expert, tmp_path / out, base=bases["llama"], rank=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_what_cannot_be_extracted_is_refused(bases, tmp_path: Path):
    base, out = bases["llama"], tmp_path / "out"
    adapter = by.write_adapter(tmp_path / "lora", base)
    for expert, given, said in (
        (base, {}, "there is nothing to extract"),
        (write_expert(tmp_path / "norms", base, "norm"), {}, "no layer that a LoRA can change"),
        (bases["gpt2"], {}, "has architectures"),
        (bases["llama_tied"], {}, "ties its embeddings and the other does not"),
        (adapter, {"rank": 0}, "expected a whole number above 0"),
        (adapter, {"dtype": "float23"}, "did you mean 'float32'"),
        (base, {"base": adapter}, "is an adapter on a model, and the result needs"),
        (write_expert(tmp_path / "nan", base, "up", float("nan")), {}, "is NaN or infinite"),
    ):
        with pytest.raises(LedmergeError, match=said):
            ledmerge.extract_lora(expert, out, **{"base": base, "rank": 2, **given})
        assert not out.exists()


def test_experts_that_are_fused_in_transformers_are_named(model_folder, tmp_path: Path):
    base = model_folder("mixtral")
    expert = write_expert(tmp_path / "expert", base)
    with pytest.raises(LedmergeError, match=r"no module of its own for it .*--rest drop"):
        ledmerge.extract_lora(expert, tmp_path / "out", base=base, rank=2)
    record = ledmerge.extract_lora(expert, tmp_path / "out", base=base, rank=2, rest="drop")
    assert any("experts" in name for name in record["dropped"])
    assert {name.rpartition(".")[2] for name in record["modules"]} >= {"q_proj", "o_proj"}


def test_only_an_adapter_is_applied(bases, tmp_path: Path):
    adapter = by.write_adapter(tmp_path / "lora", bases["llama"])
    moved = shutil.copytree(bases["llama"], tmp_path / "moved")
    record = ledmerge.apply(adapter, tmp_path / "out", base=moved, dtype="bfloat16")
    expected = by.merged_by_peft(bases["llama"], adapter)
    for name, tensor in read_all(tmp_path / "out").items():
        torch.testing.assert_close(tensor, expected[name].bfloat16())
    assert record["recipe"]["models"][0]["model"] == {"path": str(moved), "lora": str(adapter)}
    ledmerge.verify(tmp_path / "out", deep=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "from the base `moved` and\n\n- lora\n" in card
    with pytest.raises(LedmergeError, match="expected a PEFT LoRA folder"):
        ledmerge.apply(bases["llama"], tmp_path / "model")


def test_overwrite_spares_what_somebody_put_beside_an_adapter(bases, tmp_path: Path):
    expert, out = write_expert(tmp_path / "expert", bases["llama"], "up_proj"), tmp_path / "lora"
    for overwrite in (False, True):
        ledmerge.extract_lora(expert, out, base=bases["llama"], rank=2, overwrite=overwrite)
    (out / "notes.md").write_text("x")
    with pytest.raises(OutputError, match=r"holds notes.md, which ledmerge did not write"):
        ledmerge.extract_lora(expert, out, base=bases["llama"], rank=2, overwrite=True)
    assert (out / "notes.md").exists()


def test_nan_goes_through_apply_where_it_is_allowed(bases, tmp_path: Path):
    base = shutil.copytree(bases["llama"], tmp_path / "base")
    expert = write_expert(tmp_path / "expert", base, "proj")
    ledmerge.extract_lora(expert, tmp_path / "lora", base=base, rank=3)
    tensors = read_all(base)
    name = next(name for name in tensors if "up_proj" in name)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteError, match="--resume --allow-nonfinite"):
        ledmerge.apply(tmp_path / "lora", tmp_path / "out", base=base)
    asked = {"resume": True, "allow_nonfinite": True}
    ledmerge.apply(tmp_path / "lora", tmp_path / "out", base=base, **asked)
    assert read_all(tmp_path / "out")[name].isnan().sum() == 1


def test_the_commands_extract_and_apply(bases, tmp_path: Path, capsys, monkeypatch):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ledmerge", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    base = bases["llama"]
    expert, lora = write_expert(tmp_path / "expert", base, "proj"), tmp_path / "lora"
    asked = ("extract-lora", expert, lora, "--base", base, "--rank", 3)
    capsys.readouterr()
    code, out, err = run(*asked)
    assert (code, err) == (0, "")
    assert "off the change" in out
    assert "model.layers.*.mlp.up_proj" in out
    assert out.endswith(f"wrote {lora}\n")
    code, out, _ = run(*asked, "--overwrite", "--json")
    assert json.loads(out) == json.loads((lora / "ledmerge.json").read_text())
    assert run(*asked, "--rest", "keep")[0] == 2
    code, out, err = run("apply", lora, tmp_path / "model", "--base", base)
    assert (code, err) == (0, "")
    assert out == f"wrote {tmp_path / 'model'}\n"
    code, out, err = run("apply", lora, tmp_path / "model", "--base", base, "--resume")
    assert (code, out) == (0, "")
    assert err == f"note: {tmp_path / 'model'} is there already: nothing to do\n"
    assert read_all(tmp_path / "model").keys() == read_all(base).keys()


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_disk_that_is_too_small_is_told_with_both_numbers(
    bases, tmp_path: Path, monkeypatch, dtype: str
):
    expert, how = tmp_path / "expert", {"base": bases["llama"], "rank": 2, "dtype": dtype}
    write_expert(expert, bases["llama"])
    ledmerge.extract_lora(expert, tmp_path / "first", **how)
    stored = load_file(tmp_path / "first" / "adapter_model.safetensors")
    needed = sum(tensor.nbytes for tensor in stored.values())
    for free in (needed - 1, needed):
        monkeypatch.setattr(
            staging.shutil, "disk_usage", lambda place, free=free: Usage(0, 0, free)
        )
        if free < needed:
            said = f"out: the result needs {needed:,} bytes, {free:,} are free; make room or write"
            with pytest.raises(OutputError, match=said):
                ledmerge.extract_lora(expert, tmp_path / "out", **how)
            assert not list(tmp_path.glob("*out*"))
    ledmerge.extract_lora(expert, tmp_path / "out", **how)
