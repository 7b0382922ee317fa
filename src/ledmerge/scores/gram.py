"""The Gram matrix of a linear layer's inputs: no score of entries, but what they multiply."""

from torch import Tensor

NEEDS = "products"


def update_(total: Tensor, products: Tensor) -> None:
    """Add X^T X (d_in, d_in) of the tokens X (N, d_in) of one batch."""
    total.add_(products)


def finish(total: Tensor, num_tokens: int) -> Tensor:
    """X^T X / N over all N tokens of all samples, prompt and response, (d_in, d_in), symmetric.

    Of the weights (d_out, d_in) of linear layers alone; an embedding (a tied output embedding too)
    and a vector have none. A mean over tokens, so that a model with more or longer rows does not
    count for more; over all tokens, unlike the other rules, since keys and values are mostly those
    of the prompt, and since every method that takes this takes all tokens. Entries off the diagonal
    may be below 0.

    It takes 4 d_in^2 bytes for each weight: 39 GB for a Llama of 8 B, whose float32 scores of other
    rules take 32 GB. Weights that share their input (q, k and v; gate and up) each have a copy of
    their own, which is a fifth of that.

    Source: Jin et al. 2023, https://arxiv.org/abs/2212.09849.
    """
    return total / num_tokens
