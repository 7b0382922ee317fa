"""The tokenizer and the config of a result whose vocabulary is not its donor's."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.digest import digest_text
from ledmerge.models.folder import ModelFolder, remove_tokenizer

_STALE = ("vocab.*", "merges.txt", "added_tokens.json", "*.model", "*.tiktoken", "tekken.json")
"""What says a second time, in older forms, which tokens `tokenizer.json` has."""
_GENERATION = "generation_config.json"  # names special tokens by id
_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class TokenizerFiles:
    """The model whose files they are, and what `tokenizer.json` holds where tokens were added."""

    source: ModelFolder
    grown: dict[str, Any] | None = None

    def key(self) -> str:
        """Stands for what is written."""
        return f"{self.source.tokenizer_digest()} {digest_text(json.dumps(self.grown))}"


def write_tokenizer(files: TokenizerFiles, donor: ModelFolder, out: Path) -> None:
    """Give a finished folder, which has the donor's files, the tokenizer it is to have."""
    source = files.source
    if source.tokenizer_path != donor.tokenizer_path:
        remove_tokenizer(out)
        _remove(out, [_GENERATION])
        source.copy_tokenizer(out)
        source.own_files.fetch([_GENERATION])
        for path in source.path.glob(_GENERATION):
            shutil.copyfile(path, out / path.name)
    if files.grown is not None:
        _remove(out, _STALE)
        text = json.dumps(files.grown, ensure_ascii=False)
        (out / "tokenizer.json").write_text(text, encoding="utf-8")
        _extend_config(out / _CONFIG, files.grown)


def _remove(folder: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def _extend_config(file: Path, grown: dict[str, Any]) -> None:
    """Add the new tokens where older versions of transformers list them again."""
    if not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    listed = config.get("added_tokens_decoder")
    if listed is None:
        return
    for token in grown["added_tokens"]:
        listed.setdefault(str(token["id"]), {k: v for k, v in token.items() if k != "id"})
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def retokened(config: dict[str, Any], num_rows: int, source: dict[str, Any]) -> dict[str, Any]:
    """A config with another vocabulary: as many rows, and the special tokens of `source`.

    Keys stay in their order, and what `source` has alone follows in its own.
    """
    made = {key: value for key, value in config.items() if not _tells_token(key) or key in source}
    made |= {key: value for key, value in source.items() if _tells_token(key)}
    if "vocab_size" in config:
        made["vocab_size"] = num_rows
    if isinstance(config.get("text_config"), dict):
        made["text_config"] = retokened(
            config["text_config"], num_rows, source.get("text_config") or {}
        )
    return made


def _tells_token(key: str) -> bool:
    return key.endswith(("_token_id", "_token_index"))


def says_rows(config: dict[str, Any]) -> bool:
    """Whether a config says how many rows there are."""
    return "vocab_size" in config or "vocab_size" in (config.get("text_config") or {})
