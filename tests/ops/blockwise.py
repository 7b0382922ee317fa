"""Goes over tensors block by block as the merge loop does, to compare with answers at once."""

import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ledmerge.ops.block_survey import Answers, BlockSurvey
from ledmerge.ops.blocks import blocks
from ledmerge.ops.survey import Pending, Scope

Ask = Callable[[BlockSurvey, int, int, int], Tensor]


def in_blocks(
    numels: Sequence[int], ask: Ask, *, workers: int = 1, scope: Scope = "tensor"
) -> tuple[list[Tensor], int]:
    """`ask(survey, tensor, start, stop)` of every block of tensors worked on together.

    Blocks are visited last first, so that an answer which leans on the order shows. Several workers
    take turns; each has its copy of the answers, as a process would.

    Returns:
        The blocks of each tensor joined on their last axis, and how many passes it took.
    """
    answers, found, passes = Answers(sum(numels), scope), {}, 0
    jobs = [(place, *cut) for place, numel in enumerate(numels) for cut in blocks(numel)]
    while len(found) < len(jobs):
        left = [job for job in reversed(jobs) if job not in found]
        copies = [pickle.loads(pickle.dumps(answers.blank())) for _ in range(workers)]
        for turn, job in enumerate(left):
            place, start, stop = job
            survey = BlockSurvey(copies[turn % workers], place, start, numels[place])
            with suppress(Pending):
                found[job] = ask(survey, place, start, stop)
        for copy in copies:
            answers.absorb(pickle.loads(pickle.dumps(copy)))
        answers.close_pass()
        passes += 1
    joined = [
        torch.cat([found[job] for job in jobs if job[0] == place], -1)
        for place in range(len(numels))
    ]
    return joined, passes
