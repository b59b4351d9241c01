"""One process of a launched job that trains as the tool does, and writes down what it saw.

    python -m paddle.distributed.launch --nproc_per_node 2 launched.py OUT --cfg_file F [KEY=VALUE ...]

OUT/rank_N.npz: its gradients of the first step (`own/*`), the averaged ones (`averaged/*`), and its weights
at the end (`weights/*`). OUT/rank_N.json: the captions it trained on, step by step, the steps where it was
stopped, and the gradients of parameters that process 1 alone or no process uses. Process 1 alone is told to
stop when it has averaged step 4, which all hear of in step 5; both go on, and process 0 alone is told to stop
in the validation after step 6.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config.load import add_config_arguments, config_from_arguments
from engine.runtime import prepare_runtime


def main(out: Path) -> None:
    """Train as one process of the job."""
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    cfg = config_from_arguments(parser.parse_args())
    prepare_runtime(device="cpu", seed=cfg.MISC.SEED)

    import numpy as np

    from engine.parallel.processes import broadcast_layer, process_number, start_process_group, world_size
    from engine.runs.run_log import RunLog
    from engine.tasks.build_trainer import build_trainer
    from engine.tasks.loading import run_folder
    from engine.training.outcomes import TrainingStoppedError
    from engine.weights.tensors import layer_arrays

    start_process_group()
    folder = run_folder(cfg)
    if process_number() == 0:
        folder.open_for_training(resume=False, overwrite=False)
    log = RunLog(folder.log_file, None, enabled=process_number() == 0)
    trainer, _ = build_trainer(cfg, folder, log, None, process_number(), world_size())
    if process_number() == 1:  # as if the processes had begun apart
        trainer.model.image_encoder.fc.bias.set_value(trainer.model.image_encoder.fc.bias + 1)
    broadcast_layer(trainer.model)
    captions, gradients = watch(trainer)
    stops = []
    for _ in range(2):
        trainer.stop_signal = 0
        try:
            trainer.fit()
        except TrainingStoppedError:
            stops.append(trainer.position.step)
    weights = {f"weights/{name}": array for name, array in layer_arrays(trainer.model).items()}
    np.savez(out / f"rank_{process_number()}.npz", **gradients, **weights)
    best = [trainer.position.best_score, trainer.position.best_step]
    seen = {"captions": captions, "stops": stops, "best": best, "lonely": lonely_gradients()}
    (out / f"rank_{process_number()}.json").write_text(json.dumps(seen))


def watch(trainer) -> tuple[list, dict]:
    """Ask for the stops; return what will hold the captions of each step and the first step's gradients."""
    import engine.training.trainer
    from datasets.retrieval_dataset import RetrievalDataset
    from engine.parallel.processes import average_gradients

    captions, gradients = [], {}
    make_batch, validate = RetrievalDataset.batch, trainer.validate

    def watched_batch(dataset, caption_indices):
        captions.append(caption_indices.tolist())
        return make_batch(dataset, caption_indices)

    def watched_average(parameters, extra):
        own = {f"own/{index}": parameter.grad.numpy() for index, parameter in enumerate(parameters)}
        values = average_gradients(parameters, extra)
        averaged = {f"averaged/{i}": parameter.grad.numpy() for i, parameter in enumerate(parameters)}
        if len(captions) == 1:
            gradients.update(own | averaged)
        if trainer.rank == 1 and len(captions) == 4:  # too late for the others to hear of it in this step
            trainer.stop_signal = 15
        return values

    def stopped_validation(show):
        trainer.stop_signal = 2 if trainer.position.step == 6 else 0
        return validate(show)

    RetrievalDataset.batch, trainer.validate = watched_batch, stopped_validation
    engine.training.trainer.average_gradients = watched_average
    return captions, gradients


def lonely_gradients() -> list[list[float] | None]:
    """Return four averaged gradients, or None where there is none.

    A small and a large one are 3 in process 1 and missing in process 0; two such are missing in both.
    """
    import numpy as np
    import paddle

    from engine.parallel.processes import average_gradients, process_number

    lonely, unused = (
        [paddle.create_parameter(shape, "float32") for shape in ([2], [700, 700])] for _ in range(2)
    )
    if process_number() == 1:
        sum((each * 3).sum() for each in lonely).backward()
    assert average_gradients([*unused, *lonely], [4.0, process_number()]) == [4.0, 0.5]
    gradients = [each.grad for each in (*lonely, *unused)]
    return [None if each is None else np.unique(each.numpy()).tolist() for each in gradients]


if __name__ == "__main__":
    main(Path(sys.argv.pop(1)))
