"""What searches of the tests vary."""

import yaml

WEIGHTS = {f"models[{i}].parameters.weight": {"low": -1.0, "high": 2.0} for i in (0, 1)}


def with_weights(write_search, *weights):
    """The recipe's models with weights of their own, as searches look for them."""
    models = yaml.safe_load(write_search().with_name("recipe.yaml").read_text())["models"]
    return {
        "models": [
            {**model, "parameters": {"weight": weight}}
            for model, weight in zip(models, weights, strict=True)
        ]
    }
