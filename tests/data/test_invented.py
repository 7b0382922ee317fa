"""What is read of the reply of a model that was to think of a prompt."""

import pytest

from ledmerge.data.invented import comparable, read_invented


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        ("How tall is a giraffe?", "How tall is a giraffe?"),
        ("  How tall is a giraffe?\n", "How tall is a giraffe?"),
        ("Here is another message:\n\nHow tall is a giraffe?", "How tall is a giraffe?"),
        ("6. How tall is a giraffe?", "How tall is a giraffe?"),
        ('"How tall is a giraffe?"', "How tall is a giraffe?"),
        ("“How tall is a giraffe?”", "How tall is a giraffe?"),
        ("Sure:\n6. How tall is a giraffe?\n7. And a zebra?", "How tall is a giraffe?"),
        ("Sort these:\n3, 1, 2", "Sort these:\n3, 1, 2"),
        ("Sort 3, 1, 2.\nThen add them.", "Sort 3, 1, 2.\nThen add them."),
        ('Say "yes" or "no".', 'Say "yes" or "no".'),
        ('"Yes" and "no"', '"Yes" and "no"'),
        ("'Who are you?'", "Who are you?"),
        ("‘What don’t you know?’", "What don’t you know?"),
        ("\"Who said 'no'?\"", "Who said 'no'?"),
        ("'Hamlet' or 'Macbeth'", "'Hamlet' or 'Macbeth'"),
        ("Sort these:\n1. pears\n2. apples", "Sort these:\n1. pears\n2. apples"),
        ("What is 2.5 plus 1?", "What is 2.5 plus 1?"),
        ("", None),
        ('""', None),
        ("7.", None),
        ("?!", None),
    ],
)
def test_what_stands_around_a_prompt_is_left_out(reply, prompt):
    assert read_invented(reply) == prompt


def test_case_spaces_and_a_mark_at_the_end_make_no_other_prompt():
    assert comparable("How  tall is\na giraffe?") == comparable("how tall is a Giraffe")
    assert comparable("Add 1 and 2.") != comparable("Add 1 and 3.")
