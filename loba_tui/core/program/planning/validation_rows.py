"""UNet rows that the evaluations of a run take, worked out from the calls of its training."""

from __future__ import annotations

from loba_tui.core.program.planning.method_calls import MethodCalls
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.validation import ValidationSection


def validation_rows(recipe: Recipe, calls: MethodCalls) -> int:
    """Return the rows without gradients of all evaluations, and of what is made once for them.

    How many images there are is not known before they are opened: it is taken for the most that
    are evaluated.
    """
    section = recipe.validation
    if section is None or not calls.student_rows:
        return 0
    num_evaluations = -(-recipe.train.steps // section.every)
    student = calls.student_rows / recipe.train.micro_batch_size
    teacher = calls.teacher_rows / recipe.train.micro_batch_size
    if not section.concepts:
        num_samples = section.most * section.timesteps * (2 if section.training_loss else 1)
        every = calls.rows_per_step(with_grad=False) / recipe.train.micro_batch_size
        return round(num_evaluations * num_samples * (student + every))
    num_concepts = _num_concepts(recipe, section)
    rollout_steps = int(recipe.method.options.get("rollout_steps", 20))
    once = 2 * num_concepts * rollout_steps + num_concepts * section.timesteps * teacher
    return round(once + num_evaluations * num_concepts * section.timesteps * student)


def _num_concepts(recipe: Recipe, section: ValidationSection) -> int:
    trained = recipe.method.expanded_concepts if section.training_loss else ()
    both = (section.expanded_concepts, trained)
    return sum(len(spread(concepts, section.most)) for concepts in both)
