"""What goes into a merge's key; that it changes with what decides the merge is tested elsewhere."""

from pathlib import Path

import peft_adapters as by
import pytest
from families import recipe, write_family

from ledmerge.run.keys import folder_keys, weights_key
from ledmerge.run.plan import plan


def test_what_json_does_not_know_is_no_part_of_a_key(tmp_path: Path):
    """As text it might be the same for two that differ, or differ from run to run."""
    _, safety, math, _ = write_family(tmp_path)
    with plan(recipe("linear", None, safety, math)) as made:
        key = weights_key(made, allow_nonfinite=False)
        made.chat_template = "text"
        assert weights_key(made, allow_nonfinite=False) != key
        made.chat_template = Path("text")  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(TypeError, match="not JSON serializable"):
            weights_key(made, allow_nonfinite=False)


def test_an_adapters_tokenizer_is_part_of_a_folders_key(tmp_path: Path):
    """It is what the merged folder gets."""
    base = by.write_base(tmp_path / "base", "llama")
    adapter = by.write_adapter(tmp_path / "adapter", base)
    for folder in (base, adapter):
        (folder / "tokenizer.json").write_text("{}")

    def keys() -> tuple[str, ...]:
        with plan(recipe("linear", Path(f"{base}+{adapter}"), base)) as made:
            return folder_keys(made, False, None, False)

    before = keys()
    assert keys() == before
    (adapter / "tokenizer.json").write_text('{"added_tokens": []}')
    assert keys() != before
