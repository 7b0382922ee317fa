"""A GGUF file written as a Hugging Face folder."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.digest import checkpoint_digest, digest_tensors
from ledmerge.checkpoint.staging import Staging, check_destination, destination
from ledmerge.checkpoint.written import LIST
from ledmerge.models.gguf import open_gguf
from ledmerge.models.loading import silence
from ledmerge.run.progress import Progress, Quiet

MARK = "gguf.json"
"""Says which file a folder was made from."""


def convert_gguf(
    file: Path,
    out: str | Path,
    *,
    dtype: str | None,
    shard_size: int,
    overwrite: bool,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the model of a GGUF file, whole in memory on the way, and its tokenizer.

    An interrupted conversion begins again.

    Returns:
        What `gguf.json` holds: "gguf", the file's name; "digest" of the weights; "dtype";
        "versions" of what read it.

    Raises:
        LedmergeError: as `open_gguf`, or `out` cannot be written.
    """
    out, progress = destination(out), progress or Quiet()
    check_destination(out, marks=(MARK,), is_resumable=False, overwrite=overwrite)
    progress.start(f"read {file.name}", 2, "steps")
    model, tokenizer = open_gguf(file, dtype)
    progress.advance()
    key = json.dumps([str(file), dtype, shard_size])
    with Staging(out, key, marks=(MARK,), is_resumable=False, overwrite=overwrite) as staging:
        with silence():
            model.save_pretrained(staging.folder, max_shard_size=shard_size)
            tokenizer.save_pretrained(staging.folder)
        with open_checkpoint(staging.folder) as written:
            digest = checkpoint_digest(written.entries.values(), digest_tensors(written))
        record = {
            "format": 1,
            "gguf": file.name,
            "digest": digest,
            "dtype": str(model.dtype).removeprefix("torch."),
            "versions": {
                name: version(name) for name in ("ledmerge", "torch", "transformers", "gguf")
            },
            LIST: staging.files(),
        }
        (staging.folder / MARK).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        staging.publish()
    progress.advance()
    return record
