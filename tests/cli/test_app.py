"""The commands: what stands on which stream, exit codes, and nothing more in a pipe."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

COMMANDS = (
    *("adapters", "apply", "convert", "demo", "diff", "evaluate", "extract-lora", "info"),
    *("locate", "merge", "methods", "plan", "push", "schema", "search", "synthesize"),
    "verify",
)


def test_a_merge_prints_its_table_and_where_it_went(ledmerge, home: Path):
    code, out, err = ledmerge("merge", home / "good.yaml", home / "out", "--threads", 2)
    assert (code, err) == (0, "")
    assert "task vectors" in out
    assert "one base" in out
    assert "model.layers.*.up.weight" in out
    assert out.splitlines()[-1] == f"wrote {home / 'out'}"
    assert (home / "out" / "model.safetensors").exists()


def test_a_model_of_another_base_is_warned_of(ledmerge, home: Path):
    code, out, err = ledmerge("merge", home / "strange.yaml", home / "out")
    assert code == 0
    assert "no common base" in out
    (line,) = err.splitlines()
    assert line.startswith("warning: stranger and base share no base")


def test_json_is_alone_on_standard_output(ledmerge, home: Path):
    def strict(text: str) -> dict:
        return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))

    code, out, err = ledmerge("merge", home / "good.yaml", home / "out", "--json")
    assert (code, err) == (0, "")
    assert strict(out) == json.loads((home / "out" / "ledmerge.json").read_text())
    code, out, err = ledmerge("verify", home / "out", "--deep", "--json")
    assert (code, err) == (0, "")
    assert strict(out)["deep"] == ["model.layers.0.up.weight"]
    code, out, err = ledmerge("plan", home / "good.yaml", "--json")
    assert (code, err, strict(out)["problems"]) == (0, "", [])
    code, out, err = ledmerge("merge", home / "good.yaml", home / "out", "--dry-run", "--json")
    assert (code, err, strict(out)["bytes_out"]) == (0, "", 8000)
    code, out, err = ledmerge("methods", "--json")
    assert (code, err) == (0, "")
    assert {"led", "ties", "linear"} <= {method["name"] for method in strict(out)}


def test_what_a_library_prints_is_not_on_standard_output(ledmerge, home: Path, monkeypatch):
    import ledmerge.run.merge as module

    make_plan = module.make_plan

    def print_and_plan(*arguments, **options):
        print("here is a library")
        return make_plan(*arguments, **options)

    monkeypatch.setattr(module, "make_plan", print_and_plan)
    code, out, err = ledmerge("merge", home / "good.yaml", home / "out", "--json")
    assert (code, err) == (0, "here is a library\n")
    assert json.loads(out)["format"] == 1


def test_json_stays_json_where_weights_are_no_numbers(ledmerge, home: Path, write_model):
    name = "model.layers.0.up.weight"
    write_model("math", {name: torch.full((50, 40), float("nan"))})
    code, out, _ = ledmerge(
        "merge", home / "good.yaml", home / "out", "--json", "--allow-nonfinite"
    )
    assert code == 0
    for text in (out, (home / "out" / "ledmerge.json").read_text()):
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


CODES = {
    "a misspelt recipe": (
        ["merge", "{home}/misspelt.yaml", "{home}/out"],
        2,
        "did you mean 'dtype'",
    ),
    "models that do not fit": (["merge", "{home}/unfit.yaml", "{home}/out"], 2, "'model.layers.0"),
    "a lost model": (["merge", "{home}/lost.yaml", "{home}/out"], 1, "nowhere: no such folder"),
    "a lost recipe": (
        ["plan", "{home}/none.yaml"],
        2,
        "none.yaml: cannot be read (No such file or directory)\n",
    ),
    "an unknown method": (["methods", "tise"], 2, "did you mean 'ties'"),
    "a method of adapters": (["methods", "cat"], 2, "by `ledmerge adapters`; docs/adapters.md"),
    "a folder in use": (["merge", "{home}/good.yaml", "{home}/base"], 1, "--overwrite"),
    "no merge to verify": (["verify", "{home}/base"], 1, "ledmerge.json: not a merge's record"),
    "rubbish for a size": (["merge", "{home}/good.yaml", "o", "--memory", "x"], 2, "--memory: 'x'"),
    "a shard of rubbish": (["merge", "{home}/good.yaml", "o", "--shard-size", "x"], 2, "--shard"),
    "a shard of nothing": (["merge", "{home}/good.yaml", "o", "--shard-size", "0"], 2, "1MB or"),
    "a small shard": (["convert", "{home}/base", "o", "--shard-size", "999kB"], 2, "1MB or more"),
    "a folder for a recipe": (["plan", "{home}"], 2, "is a folder; expected a YAML file"),
    "a recipe of bytes": (
        ["plan", "{home}/base/model.safetensors"],
        2,
        "is not UTF-8); expected a YAML file",
    ),
    "a place nobody can write": (
        ["merge", "{home}/good.yaml", "/proc/out"],
        1,
        "/proc/out: cannot be made in /proc (",
    ),
    "a place below a file": (
        ["merge", "{home}/good.yaml", "{home}/good.yaml/out"],
        1,
        "good.yaml (Not a directory)",
    ),
    "a misspelt method": (
        ["plan", "{home}/method.yaml"],
        2,
        "method.yaml: no merge method 'tise'",
    ),
    "an unknown device": (
        ["merge", "{home}/good.yaml", "o", "--device", "x"],
        2,
        "device: found 'x'",
    ),
    "an unknown option": (["merge", "--frce", "a", "b"], 2, "No such option"),
    "no thread": (["merge", "{home}/good.yaml", "o", "--threads", "0"], 2, "--threads"),
    "an unknown command": (["mrge"], 2, "No such command"),
}


@pytest.mark.parametrize("case", CODES)
def test_mistakes_are_lines_on_standard_error(ledmerge, home: Path, case: str):
    arguments, expected, said = CODES[case]
    code, out, err = ledmerge(*(argument.format(home=home) for argument in arguments))
    assert (code, out) == (expected, "")
    assert said in err
    assert list(Path().iterdir()) == []


def test_an_error_is_one_line_however_long_its_path(ledmerge, home: Path):
    missing = home / ("x" * 150) / "with spaces in it"
    _, _, err = ledmerge("verify", missing)
    (line,) = err.splitlines()
    assert line.startswith(f"error: {missing}/ledmerge.json: ")


def test_an_error_of_the_system_is_one_line(ledmerge, home: Path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "somewhere")

    monkeypatch.setattr("ledmerge.run.info.info", fail)
    assert ledmerge("info", home / "base") == (1, "", "error: somewhere: Input/output error\n")


def test_every_problem_of_a_plan_is_a_line_and_the_exit_code_is_1(ledmerge, home: Path):
    code, out, err = ledmerge("plan", home / "unfit.yaml", "--memory", "1kB", "--threads", 1)
    assert code == 1
    problems = err.splitlines()
    assert len(problems) == 2
    assert problems[0].startswith("problem: 'model.layers.0.up.weight' is (2, 2) in other but")
    assert problems[1].startswith("problem: --memory 1,000 bytes is too small")
    assert "ties" in out
    code, out, _ = ledmerge("plan", home / "unfit.yaml", "--json")
    assert (code, len(json.loads(out)["problems"])) == (1, 1)


def test_a_dry_run_writes_nothing(ledmerge, home: Path):
    before = sorted(home.rglob("*"))
    code, out, _ = ledmerge("merge", home / "good.yaml", home / "out", "--dry-run")
    assert code == 0
    assert "merged" in out
    assert "1 tensors" in out
    assert sorted(home.rglob("*")) == before


def test_a_plan_shows_whole_names_in_a_pipe(ledmerge, home: Path):
    deep = home / ("a" * 100)
    (home / "base").rename(deep)
    text = (home / "good.yaml").read_text().replace("base_model: base", f"base_model: {deep}")
    (home / "deep.yaml").write_text(text)
    _, out, _ = ledmerge("plan", home / "deep.yaml")
    assert str(deep) in out


def test_an_explanation_merges_nothing(ledmerge, home: Path):
    before = sorted(home.rglob("*"))
    name = "model.layers.0.up.weight"
    code, out, err = ledmerge("merge", home / "good.yaml", "--explain", name)
    assert (code, err) == (0, "")
    for said in (f"{name}, F32 [50, 40]", "merge", "ties: ", "density 1", "algorithm 1"):
        assert said in out
    assert "not by default" not in out
    scoped = home / "scoped.yaml"
    scoped.write_text((home / "good.yaml").read_text() + "parameters: {scope: layer}\n")
    _, out, _ = ledmerge("merge", scoped, "--explain", name)
    assert "Here, not by default:\n- scope layer: " in out
    scoped.unlink()
    code, out, _ = ledmerge("merge", home / "good.yaml", "--explain", name, "--json")
    assert (code, json.loads(out)["action"]) == (0, "merge")
    code, out, err = ledmerge("merge", home / "good.yaml", home / "out", "--explain", "")
    assert (code, out) == (2, "")
    assert "no tensor ''" in err
    code, out, err = ledmerge("merge", home / "good.yaml")
    assert (code, out) == (2, "")
    assert "name the new model folder" in err
    assert sorted(home.rglob("*")) == before


def test_the_licence_that_is_asked_for_is_in_the_card(ledmerge, home: Path):
    ledmerge("merge", home / "good.yaml", home / "out", "--license", "mit")
    assert "\nlicense: mit\n" in (home / "out" / "README.md").read_text()


@pytest.mark.parametrize("command", ["merge", "convert", "locate", "evaluate"])
def test_a_finished_folder_is_not_said_to_be_written(ledmerge, home: Path, suite, command: str):
    out = home / "out"
    asked = {
        "merge": (home / "good.yaml", out),
        "convert": (home / "base", out),
        "locate": (home / "base", out, "--score", "magnitude"),
        "evaluate": (suite[1], "--suite", suite[0], "--out", out),
    }[command]
    said = ledmerge(command, *asked)[1]
    assert said.endswith(f"wrote {out}\n")
    note = f"note: {out} is there already: nothing to do\n"
    assert ledmerge(command, *asked, "--resume") == (0, said.removesuffix(f"wrote {out}\n"), note)
    code, told, err = ledmerge(command, *asked, "--resume", "--json")
    assert (code, err) == (0, note)
    assert isinstance(json.loads(told), dict)


def test_methods_are_listed_and_shown_in_full(ledmerge):
    code, out, err = ledmerge("methods")
    assert (code, err) == (0, "")
    for name in ("dare_linear", "dare_ties", "led", "linear", "slerp", "task_arithmetic", "ties"):
        assert name in out
    assert "by `ledmerge adapters`: cat, do_merging, linear, osrm, svd." in out
    code, out, err = ledmerge("methods", "led")
    assert (code, err) == (0, "")
    for said in ("density", "disjoint", "symmetric", "2502.16770", "required", "per model"):
        assert said in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(ledmerge, command: str):
    code, out, err = ledmerge(command, "--help")
    assert (code, err) == (0, "")
    assert "Usage: " in out
    assert command == "schema" or "--json" in out


def test_help_lists_the_commands(ledmerge):
    code, out, _ = ledmerge("--help")
    assert code == 0
    listed = re.findall(r"^  ([a-z-]+) ", out.partition("Commands:")[2], re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_help_cuts_no_description(ledmerge):
    _, out, _ = ledmerge("--help")
    assert "..." not in out.partition("Commands:")[2]
    assert max(map(len, out.splitlines())) <= 80


def test_the_version_is_told(ledmerge):
    from ledmerge import __version__

    assert ledmerge("--version") == (0, f"ledmerge {__version__}\n", "")


def test_the_demo_takes_its_folder_by_name_too(ledmerge, monkeypatch):
    asked = []

    def run(out: Path, **_: object) -> dict:
        asked.append(out)
        return {}

    monkeypatch.setattr("ledmerge.run.demo.demo", run)
    for words in (["there"], ["--out", "there"], []):
        assert ledmerge("demo", *words, "--json")[0] == 0
    assert asked == [Path("there"), Path("there"), Path("ledmerge-demo")]


def test_two_experts_in_folders_of_one_name_are_told_apart(ledmerge, home: Path):
    for place, name in (("x", "safety"), ("y", "math")):
        (home / place).mkdir()
        (home / name).rename(home / place / "model")
    text = (home / "good.yaml").read_text()
    text = text.replace("model: safety", "model: x/model").replace("model: math", "model: y/model")
    (home / "twins.yaml").write_text(text)
    code, out, _ = ledmerge("merge", home / "twins.yaml", home / "out")
    assert code == 0
    assert "x/model" in out
    assert "y/model" in out


def test_importing_ledmerge_loads_neither_torch_nor_transformers():
    script = (
        "import sys, ledmerge, ledmerge.cli.app\n"
        "print([name for name in ('torch', 'transformers', 'numba') if name in sys.modules])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[0] == "[]"


def test_an_unknown_attribute_is_an_attribute_error():
    import ledmerge

    with pytest.raises(AttributeError, match="no attribute 'mrege'"):
        ledmerge.mrege  # noqa: B018


HUB = """
import json, sys
import ledmerge
from ledmerge.errors import LedmergeError

record = ledmerge.merge(sys.argv[1], sys.argv[2])
try:
    models = [{"model": "org/none"}, {"model": "org/math@v9"}]
    ledmerge.plan({"merge_method": "linear", "models": models})
except LedmergeError as error:
    print(json.dumps([record, str(error)]))
"""


def test_hub_ids_are_merged_from_the_cache_and_their_commits_kept(tmp_path: Path, write_model):
    commits = {"org/base": "b" * 40, "org/math": "c" * 40}
    for seed, (name, commit) in enumerate(commits.items()):
        home = tmp_path / "hf" / "hub" / f"models--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        draw = torch.Generator().manual_seed(seed)
        folder = write_model(f"made-{seed}", {"w": torch.randn(3, 3, generator=draw)})
        (home / "snapshots").mkdir()
        (home / "blobs").mkdir()
        snapshot = home / "snapshots" / commit
        snapshot.mkdir()
        for file in folder.iterdir():
            file.rename(home / "blobs" / file.name)
            (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "org/base",
        "models": [{"model": "org/math@main"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = subprocess.run(
        [sys.executable, "-c", HUB, str(tmp_path / "recipe.yaml"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    record, error = json.loads(found.stdout.splitlines()[-1])
    assert record["revisions"] == {"org/base": "b" * 40, "org/math@main": "c" * 40}
    assert [Path(source["path"]).name for source in record["inputs"]] == ["b" * 40, "c" * 40]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "config.json").is_symlink()
    lines = error.splitlines()
    assert lines[0].startswith("org/none: no folder at org/none, and the hub does not give it")
    assert lines[1].startswith("org/math@v9: no folder at org/math@v9, and the hub does not")


def test_the_schema_is_json_alone(ledmerge):
    code, out, err = ledmerge("schema")
    assert (code, err) == (0, "")
    assert "merge_method" in json.loads(out)["properties"]
    code, out, err = ledmerge("schema", "--adapters")
    assert (code, err) == (0, "")
    assert "svd" in json.loads(out)["properties"]["merge_method"]["enum"]


def test_a_plan_shows_steps_slices_and_settings(ledmerge, home: Path):
    layers = {"model": "safety", "layer_range": [0, 1]}
    sources = [{"model": "half", "layer_range": [0, 1]}, layers]
    documents = [
        {"name": "half", "merge_method": "linear", "models": [{"model": "math"}]},
        {
            "merge_method": "slerp",
            "base_model": "half",
            "slices": [{"sources": sources}],
            "parameters": {"t": [0.25, 0.5]},
        },
    ]
    (home / "steps.yaml").write_text(yaml.safe_dump_all(documents))
    code, out, _ = ledmerge("plan", home / "steps.yaml")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["first", "half,", "by", "linear", "of", "math"] in lines
    assert ["slice", "0", "1", "tensors", "of", "half,", "safety"] in lines
    assert ["t", "0.25,", "0.5"] in lines


def test_a_plan_shows_what_differs_per_tensor_as_a_recipe_has_it(ledmerge, home: Path):
    given = yaml.safe_load((home / "good.yaml").read_text())
    weight = [{"filter": "up", "value": [1.0, 0.2]}, {"value": 0.5}]
    normalize = [{"filter": "[down]", "value": [True, False]}, {"value": False}]
    given["models"][1]["parameters"] = {"weight": weight}
    given["parameters"] = {"normalize": normalize}
    (home / "layers.yaml").write_text(yaml.safe_dump(given))
    code, out, _ = ledmerge("plan", home / "layers.yaml")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["weight"].strip() == "1, [{filter: up, value: [1.0, 0.2]}, {value: 0.5}]"
    assert yaml.safe_load(lines["normalize"]) == normalize
    assert "True" not in lines["normalize"]


@pytest.mark.parametrize(
    "command",
    [
        ["locate", "model", "model/out"],
        ["evaluate", "model", "--suite", "suite.yaml", "--out", "model/out"],
        ["synthesize", "rows.yaml", "model/out"],
        ["extract-lora", "model", "model/deep/out", "--base", "model", "--rank", "1"],
        ["adapters", "recipe.yaml", "model/out"],
    ],
)
def test_nothing_is_written_inside_a_model(
    ledmerge, tmp_path: Path, write_model, monkeypatch, command: list[str]
):
    model = write_model("model", {"weight": torch.ones(2)})
    before = sorted(model.rglob("*"))
    monkeypatch.chdir(tmp_path)
    code, _, err = ledmerge(*command)
    assert (code, sorted(model.rglob("*"))) == (1, before)
    assert f"lies inside the model {model}; choose a folder outside of it" in err


def test_a_command_seldom_looks_for_garbage_and_never_at_its_end():
    script = (
        "import gc, sys\nfrom ledmerge.cli.app import main\nsys.argv = ['ledmerge', '--version']\n"
        "try: main()\nexcept SystemExit: pass\nprint(gc.get_threshold()[0], gc.get_freeze_count())"
    )
    told = subprocess.check_output([sys.executable, "-c", script], text=True).splitlines()[-1]
    threshold, frozen = map(int, told.split())
    assert threshold > 10_000 < frozen
