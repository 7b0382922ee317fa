"""The config of a result whose vocabulary is not its donor's."""

import os
import subprocess
import sys

from ledmerge.models.tokenizer_files import retokened

OURS = {"bos_token_id": 1, "vocab_size": 9, "pad_token_id": 0, "hidden_size": 4, "eos_token_id": 2}
THEIRS = {"image_token_id": 7, "eos_token_id": 5, "vocab_size": 12, "bos_token_id": None}


def test_special_tokens_are_those_of_the_other_and_all_else_is_ours():
    inner = {"vocab_size": 9, "pad_token_id": 0}
    found = retokened({**OURS, "text_config": inner}, 12, THEIRS)
    assert found == {
        "bos_token_id": None,
        "vocab_size": 12,
        "hidden_size": 4,
        "eos_token_id": 5,
        "text_config": {"vocab_size": 12},
        "image_token_id": 7,
    }


def test_keys_are_in_one_order_in_every_process():
    program = f"""if True:
        from ledmerge.models.tokenizer_files import retokened
        print(*retokened({OURS}, 12, {THEIRS}))"""
    orders = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in range(1, 5)
    }
    assert orders == {"bos_token_id vocab_size hidden_size eos_token_id image_token_id\n"}
