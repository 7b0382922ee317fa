"""Benchmarks: what a model is asked and what counts as a good answer, one file each.

A benchmark is a constant or two and a few functions:

- `FIGURES`: what it measures -> "lower" or "higher", whichever is better.
- `MAX_NEW_TOKENS`: of an answer, where the suite names no other number. A benchmark without it asks
  for likelihoods.
- `read(record, place)` makes a `Question` of one record of the user's file.
- `read_file(path)`, if there is one, gives (place, record) of a file in the benchmark's own format,
  or None for a file of rows.
- `with_behaviors(records, behaviors)`, if there is one, joins the suite's `behaviors` to the
  records: a benchmark without it takes none.
- `judge(question, answer, ...)` gives every figure of one answer: a bool, whose mean is a share, or
  a float. Keyword-only arguments are requests by name, which the loop answers:
  `harmful(behavior, answer)` and `refuses(prompt, answer)`, verdicts of the judge of the suite and
  of refusal phrases; `passes(program)`, whether a Python program runs to its end in the sandbox.

The folder is the registry: a file added here is a benchmark, unless it opens with an underscore.
Nothing here loads a model or knows where answers come from.
"""
