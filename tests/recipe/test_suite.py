"""What a suite says of itself where results are written."""

from ledmerge.recipe.suite import Judge


def test_an_endpoint_is_told_without_what_may_be_a_key():
    judge = Judge(endpoint="https://host/v1?key=secret", model="gpt")
    assert judge.endpoint == "https://host/v1?key=secret"
    assert judge.name == "gpt at https://host/v1"
    assert judge.model_dump()["endpoint"] == "https://host/v1"
    assert Judge().model_dump()["endpoint"] is None
