"""Who says what an answer does: refusal phrases, a classifier, an endpoint."""
