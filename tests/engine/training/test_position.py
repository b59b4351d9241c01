"""Where training stands after a step and after a validation."""

from engine.training.position import TrainingPosition


def test_the_last_batch_of_an_epoch_begins_the_next():
    position = TrainingPosition(finished_parts=[[8, 2, 1]])
    assert not position.epoch_ended, "a part of it is done"
    position.advance(2, batches_of_epoch=3)
    assert (position.epoch, position.batch, position.step, position.epoch_ended) == (0, 2, 1, False)
    position.advance(1, batches_of_epoch=3)
    assert (position.epoch, position.batch, position.step, position.epoch_ended) == (1, 0, 2, True)
    assert position.finished_parts == []


def test_of_scores_that_differ_by_rounding_alone_the_first_is_best():
    position = TrainingPosition(step=4)
    first, again = 496.66666666666663, 496.6666666666667  # sums of the same six recalls, in two orders
    assert first < again and position.judge(first) and not position.judge(again)
    assert (position.best_score, position.best_step) == (first, 4)
    assert position.judge(again + 0.01)


def test_a_score_is_judged_by_the_best_before_it():
    position, judged = TrainingPosition(), []
    for step, score in ((3, 0.0), (6, -1.0), (9, 0.0), (12, 2.0)):
        position.step = step
        judged.append((position.judge(score), position.validations_without_gain))
    assert judged == [(True, 0), (False, 1), (False, 2), (True, 0)]
    assert (position.best_score, position.best_step, position.last_validation) == (2.0, 12, 12)
