"""What messages and pages advise to install is what `pyproject.toml` asks for."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_ADVISED = re.compile(r"pip install ((?:['\"]?[A-Za-z][\w-]*(?:[><=~!]=?[\d.]+)?['\"]?[ ,]?)+)")


def texts(*patterns: str) -> dict[str, str]:
    """File -> its text, with strings in one that go on in the next line."""
    files = (path for pattern in patterns for path in ROOT.glob(pattern))
    return {
        str(file.relative_to(ROOT)): re.sub(r'"\s*\n\s*f?"', "", file.read_text())
        for file in sorted(files)
    }


def requirements(text: str) -> list[str]:
    """Everything with a version that a text says `pip install` of."""
    found = " ".join(_ADVISED.findall(text))
    return re.findall(r"[\w-]+[><=~!]=[\d.]*\d", found)


def test_every_advised_requirement_is_an_extra():
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    advised = {each for text in texts("src/**/*.py").values() for each in requirements(text)}
    assert advised == {each for each in advised if f'"{each}"' in extras}
    names = {re.split("[><=]", each)[0] for each in advised}
    assert names == {"cmaes", "datasets", "gguf", "lm-eval", "optuna", "pyarrow", "ray", "vllm"}
    for text in texts("docs/**/*.md", "README.md").values():
        assert all(f'"{each}"' in extras for each in requirements(text))


@pytest.mark.parametrize("name", texts("src/**/*.py", "docs/**/*.md", "README.md"))
def test_nobody_is_told_to_fetch_ledmerge_from_an_index(name: str):
    text = (ROOT / name).read_text()
    assert "ledmerge[" not in text
    assert not re.search(r"pip install ['\"]?ledmerge", text)
