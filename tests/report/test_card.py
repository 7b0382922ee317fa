"""The model card: front matter that the hub reads, the recipe, and what was kept."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ledmerge.report.card import write_card

RECIPE = {"merge_method": "led", "base_model": "b", "models": [{"model": "m"}], "seed": 0}


def model(tmp_path: Path, name: str, card: str | None) -> tuple[str, Path]:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "README.md").write_text(card)
    return name, folder


def licensed(licence: str) -> str:
    return f"---\nlicense: {licence}\n---\n# A model\n"


def front_matter(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def write(inputs: list[tuple[str, Path]], summary: dict[str, Any] | None = None) -> str:
    return write_card("merged", inputs[0], inputs[1:], RECIPE, summary or {}, "1.2.3")


def test_front_matter_names_the_hubs_models_and_the_method(tmp_path: Path):
    inputs = [model(tmp_path, name, licensed("mit")) for name in ("base", "safety", "math")]
    ids = ["org/base", "org/math", "org/math"]
    card = write_card("merged", inputs[0], inputs[1:], RECIPE, {}, "1.2.3", hub_ids=ids)
    assert front_matter(card) == {
        "base_model": ["org/base", "org/math"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "ledmerge", "led"],
        "license": "mit",
    }


def test_folders_are_no_models_of_the_hub(tmp_path: Path):
    inputs = [model(tmp_path, name, licensed("mit")) for name in ("base", "safety", "math")]
    card = write([*inputs, inputs[1]])
    assert not {"base_model", "base_model_relation"} & front_matter(card).keys()
    assert "from the base `base` and\n\n- safety\n- math\n" in card


def test_without_a_base_none_is_named(tmp_path: Path):
    models = [model(tmp_path, name, licensed("mit")) for name in ("safety", "math")]
    card = write_card("merged", None, models, RECIPE, {}, "1.2.3")
    assert "from the base" not in card
    assert "- safety\n- math\n" in card


CARDS = {
    "the strictest": (["mit", "apache-2.0", "llama3.1"], {"license": "llama3.1"}),
    "none covers the other": (
        ["gpl-3.0", "llama3.1", "mit"],
        {"license": "other", "license_name": "gpl-3.0 and llama3.1 and mit"},
    ),
}


@pytest.mark.parametrize("case", CARDS)
def test_the_licence_is_the_strictest_or_names_all(tmp_path: Path, case: str):
    licences, expected = CARDS[case]
    inputs = [model(tmp_path, n, licensed(n)) for n in licences]
    front = front_matter(write(inputs))
    assert {key: front[key] for key in front if key.startswith("license")} == expected


def test_a_licence_that_is_asked_for_is_named(tmp_path: Path):
    inputs = [model(tmp_path, n, licensed(n)) for n in ("mit", "llama3.1")]
    card = write_card("merged", inputs[0], inputs[1:], RECIPE, {}, "1.2.3", "gpl-3.0")
    assert front_matter(card)["license"] == "gpl-3.0"


def test_models_whose_cards_name_no_licence_are_named(tmp_path: Path):
    inputs = [model(tmp_path, "base", licensed("mit")), model(tmp_path, "math", None)]
    assert "The cards of these name no licence: math.\n" in write(inputs)
    assert "no licence" not in write(inputs[:1])


NO_LICENCE = {
    "no card": None,
    "no front matter": "# A model\nlicense: mit\n",
    "broken front matter": "---\nlicense: [\n---\n",
    "an impossible date": "---\nlicense: mit\ndate: 2024-99-99\n---\n",
    "a list": "---\n- mit\n---\n",
    "empty": "---\nlicense:\n---\n",
    "nested 50,000 deep": "---\n" + "[" * 50_000 + "\n---\n",
}


@pytest.mark.parametrize("card", NO_LICENCE.values(), ids=NO_LICENCE)
def test_a_card_without_a_readable_licence_gives_none(tmp_path: Path, card: str | None):
    assert "license" not in front_matter(write([model(tmp_path, "base", card)]))


def test_the_recipe_in_the_card_is_the_recipe(tmp_path: Path):
    card = write([model(tmp_path, "base", None), model(tmp_path, "math", None)])
    shown = card.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(shown) == RECIPE
    assert "# merged\n" in card
    assert "1.2.3" in card
    assert "- math\n" in card
    assert "elected" not in card


def test_an_led_card_shows_what_each_expert_kept(tmp_path: Path):
    figures = {"elected": [0.4, 0.2], "owned": [0.32, 0.0026], "kept_square": [0.5, 0.01]}
    summary = {"models": ["safety", "math"], **figures}
    card = write([model(tmp_path, "base", None)], summary)
    assert "| safety | 40.00% | 32.00% | 50.00% |\n| math | 20.00% | 0.26% | 1.00% |\n" in card
