"""Which licence covers which, and what cards say of theirs."""

from pathlib import Path

import pytest

from ledmerge.report.licence import CHAINS, RESTRICTED, front_matter, read_licence, strictest

STRICTEST = {
    ("mit",): "mit",
    ("mit", "apache-2.0"): "apache-2.0",
    ("MIT", "mit"): "mit",
    ("apache-2.0", "gpl-3.0", "agpl-3.0"): "agpl-3.0",
    ("cc-by-4.0", "cc-by-nc-4.0", "mit"): "cc-by-nc-4.0",
    ("apache-2.0", "gemma"): "gemma",
    ("llama3", "llama3.1"): None,
    ("cc-by-sa-4.0", "cc-by-nc-sa-4.0"): None,
    ("gpl-3.0", "gemma"): None,
    ("mit", "my-own"): None,
    ("my-own",): "my-own",
    (): None,
}


@pytest.mark.parametrize("licences", STRICTEST, ids=" ".join)
def test_the_strictest_asks_for_all_the_others_ask(licences: tuple[str, ...]):
    assert strictest(licences) == STRICTEST[licences]
    assert strictest(reversed(licences)) in (STRICTEST[licences], "MIT")


def test_no_two_licences_cover_each_other():
    known = sorted({*RESTRICTED, *(name for chain in CHAINS for name in chain)})
    for ours in known:
        for theirs in known:
            assert strictest([ours, theirs]) == strictest([theirs, ours])
            assert strictest([ours, theirs]) in (None, ours, theirs)


SAID = {
    "license: mit": ("mit", {"license": "mit"}),
    "license: other\nlicense_name: qwen": (
        "other: qwen",
        {"license": "other", "license_name": "qwen"},
    ),
    "license: [mit, cc-by-4.0]": (
        "other: mit and cc-by-4.0",
        {"license": "other", "license_name": "mit and cc-by-4.0"},
    ),
}


FORMS = {
    "nothing after it": "---\nlicense: mit\n---",
    "a byte order mark": "\ufeff---\nlicense: mit\n---\n# A model\n",
    "an empty line before it": "\n---\nlicense: mit\n---\n# A model\n",
    "spaces at the ends of lines": "--- \nlicense: mit\n--- \n# A model\n",
    "lines of Windows": "---\r\nlicense: mit\r\n---\r\n# A model\r\n",
    "a list of one": "---\nlicense:\n- mit\n---\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_front_matter_is_what_the_hub_takes_for_it(tmp_path: Path, form: str):
    (tmp_path / "README.md").write_text(FORMS[form], encoding="utf-8", newline="")
    assert read_licence(tmp_path) == "mit"


@pytest.mark.parametrize("value", ["!!int ''", "!!bool maybe", "!!timestamp noon", "!!float ''"])
def test_front_matter_that_yaml_stumbles_over_gives_none(tmp_path: Path, value: str):
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\nother: {value}\n---\n")
    assert read_licence(tmp_path) is None


@pytest.mark.parametrize("said", SAID)
def test_a_card_says_its_licence(tmp_path: Path, said: str):
    (tmp_path / "README.md").write_text(f"---\n{said}\n---\n# A model\n")
    licence, front = SAID[said]
    assert read_licence(tmp_path) == licence
    assert front_matter([licence]) == front
