"""A loss that is no number: where it began, and what a run does about it."""

import json
import os
from pathlib import Path

import lightning as L
import pytest
import torch
from harm import Poison
from in_process import DIGITS, config, parts_of_a_run, train_in_process
from program import draw_picture
from ranks import run_ranks

from cnnlab import experiment
from cnnlab.errors import DivergedError, InputError
from cnnlab.runs.folder import RunFolder

SHORT = (
    *DIGITS,
    "data.batch_size=8",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=2",
    "regularization=[batch_norm]",
)


class History(L.Callback):
    """The state after each step: weights and buffers, optimizer, learning rates."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.moments: list[list[torch.Tensor]] = []
        self.rates: list[list[float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        optimizer = trainer.optimizers[0]
        self.states.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})
        self.moments.append([state[key].clone() for state in optimizer.state.values() for key in sorted(state)])
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def history(folder, *overrides, poisoned=()):
    """Fit what the overrides say, with NaN images in some steps; (history, trainer)."""
    trainer, classifier, data = parts_of_a_run(folder, *SHORT, *overrides)
    kept = History()
    place = next(i for i, callback in enumerate(trainer.callbacks) if callback.__class__.__name__ == "BestMetric")
    trainer.callbacks[place:place] = [Poison(list(poisoned)), kept]
    trainer.fit(classifier, datamodule=data)
    return kept, trainer


def differing(first, second):
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


@pytest.mark.parametrize(("layer", "kind"), [("features.3", "Conv2d"), ("classifier.3", "Linear")])
def test_error_names_step_rate_and_the_layer_it_began_in(tmp_path, layer, kind):
    trainer, classifier, data = parts_of_a_run(tmp_path / "run", *DIGITS, "optimizer.lr=0.25", "scheduler=none")
    weight = classifier.network.get_parameter(f"{layer}.weight")
    with torch.no_grad():
        weight.view(-1)[3] = float("inf")
    with pytest.raises(DivergedError) as caught:
        trainer.fit(classifier, datamodule=data)
    assert "at step 0 (epoch 0, learning rate 0.25)" in str(caught.value)
    expected = f"the first activation that is not finite is the output of {layer} ({kind}), whose weight"
    assert expected in str(caught.value)


def test_loss_alone_can_be_to_blame(tmp_path):
    trainer, classifier, data = parts_of_a_run(tmp_path / "run", *DIGITS)
    classifier.train_loss.register_forward_hook(lambda module, inputs, loss: loss / 0)
    with pytest.raises(DivergedError, match="all activations are finite, only the loss is not"):
        trainer.fit(classifier, datamodule=data)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stopped_run_has_taken_no_step_that_is_not_finite(tmp_path, optimizer):
    trainer, classifier, data = parts_of_a_run(tmp_path / "run", *SHORT, f"optimizer={optimizer}")
    trainer.callbacks.insert(1, Poison([2]))
    with pytest.raises(DivergedError, match=r"at step 2 .*features\.0"):
        trainer.fit(classifier, datamodule=data)
    assert all(weight.isfinite().all() for weight in classifier.network.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_skipped_step_changes_nothing_and_the_next_one_does(tmp_path, optimizer):
    kept, trainer = history(
        tmp_path / "run", "divergence=skip", f"optimizer={optimizer}", "trainer.gradient_clip_val=1", poisoned=[3]
    )
    assert differing(kept.states[2], kept.states[3]) == []
    assert all(torch.equal(*pair) for pair in zip(kept.moments[2], kept.moments[3], strict=True))
    assert {name for name in kept.states[3] if name.endswith("weight")} <= set(
        differing(kept.states[3], kept.states[4])
    )
    assert trainer.global_step == 12
    assert trainer.callback_metrics["train/loss_epoch"].isfinite()


def test_step_of_several_batches_is_skipped_as_a_whole(tmp_path):
    trainer, classifier, data = parts_of_a_run(
        tmp_path / "run", *SHORT, "divergence=skip", "trainer.accumulate_grad_batches=3", "trainer.max_epochs=1"
    )
    kept, calls, preprocessed = History(), [], classifier.preprocessed
    trainer.callbacks.insert(2, kept)

    def first_of_second_step(images):
        calls.append(None)
        return preprocessed(images) * (float("nan") if len(calls) in (4, 7) else 1)  # 7: looked at once more

    classifier.preprocessed = first_of_second_step
    trainer.fit(classifier, datamodule=data)
    assert differing(kept.states[2], kept.states[5]) == []
    (event,) = trainer.callbacks[1].events
    assert event["step"] == 1
    assert event["layer"].startswith("the first activation that is not finite is the output of features.0")


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path):
    steps = [0, 1, 3, 4, 5]
    with pytest.raises(DivergedError, match=r"at step 5 .* 2 steps before it were skipped"):
        history(tmp_path / "run", "divergence=skip", "divergence.at_most=2", poisoned=steps)


@pytest.mark.parametrize("scheduler", ["none", "step", "cosine", "onecycle", "plateau"])
def test_rollback_restores_the_checkpoint_and_shrinks_all_later_rates(tmp_path, scheduler):
    options = [f"scheduler={scheduler}", "regularization=[batch_norm,ema]", "freeze=schedule"]
    options.append("freeze.phases=[{epoch: 0, train: all}, {epoch: 1, train: classifier, lr_multiplier: 0.1}]")
    options += ["scheduler.warmup_epochs=0.5"] if scheduler == "cosine" else []
    whole, _ = history(tmp_path / "whole", *options)
    kept, trainer = history(
        tmp_path / "run", "divergence=rollback", "divergence.lr_factor=0.25", *options, poisoned=[8]
    )
    last_of_epoch_0 = kept.states[5]
    assert differing(kept.states[7], last_of_epoch_0) != []
    assert differing(kept.states[8], last_of_epoch_0) == []
    assert all(torch.equal(*pair) for pair in zip(kept.moments[8], kept.moments[5], strict=True))
    assert kept.rates[:8] == whole.rates[:8]
    assert torch.tensor(kept.rates[8:]).allclose(0.25 * torch.tensor(whole.rates[8:]), rtol=1e-5)
    assert trainer.global_step == 12


def test_rollback_before_the_first_checkpoint_goes_back_to_the_untrained_network(tmp_path):
    kept, _ = history(tmp_path / "run", "divergence=rollback", poisoned=[2])
    _, classifier, _ = parts_of_a_run(tmp_path / "twin", *SHORT)
    assert differing(kept.states[2], classifier.network.state_dict()) == []
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}


def test_rollbacks_are_counted_over_the_whole_run(tmp_path):
    with pytest.raises(DivergedError, match=r"at step 9 .* 2 rollbacks \(learning rate times 0.5 each\) did not help"):
        history(tmp_path / "run", "divergence=rollback", "divergence.at_most=2", poisoned=[1, 7, 9])


def test_record_lists_what_was_skipped(tmp_path):
    options = ("divergence=skip", "trusted_packages=[harm]")
    poison = "+callbacks.poison={_target_: harm.Poison, steps: [4]}"
    train_in_process(tmp_path / "run", *SHORT, *options, poison)
    (event,) = json.loads((tmp_path / "run" / "run.json").read_text())["divergence"]
    assert (event["step"], event["epoch"], event["loss"]) == (4, 0, None)


@pytest.mark.parametrize("options", [("skip", "at_most=0"), ("rollback", "at_most=0"), ("rollback", "lr_factor=2")])
def test_number_that_cannot_be_is_refused(tmp_path, options):
    policy, override = options
    with pytest.raises(InputError, match=rf"divergence\.{override}"):
        train_in_process(tmp_path / "run", *SHORT, f"divergence={policy}", f"divergence.{override}")


def diverge(rank: int, folder: Path, options: list[str]) -> None:
    """What a process of a DDP run does that ends with DivergedError; <folder>/<rank>.json gets what it found."""
    cfg = config(folder / "run", *options)
    run = RunFolder(folder / "run", cfg, options, writes=rank == 0)
    try:
        experiment.train(cfg, run)
    except DivergedError as error:
        (folder / f"{rank}.json").write_text(json.dumps([str(error), run.record["divergence"]]))
        os._exit(error.exit_code)


def test_two_processes_decide_alike(tmp_path):
    """Only the second one's images are NaN: both skip steps 1 and 3, both end at step 4."""
    (tmp_path / "states").mkdir()
    for label, shape in enumerate(("circle", "square")):
        for number in range(8):
            draw_picture(tmp_path / "pictures" / shape / f"{number}.png", shape, 100 * label + number)
    options = [
        *("trainer=ddp_cpu", "model=lenet5", "augmentation=none", "regularization=[batch_norm]"),
        *("divergence=skip", "divergence.at_most=1", "data=image_folder", f"data.root={tmp_path / 'pictures'}"),
        *("data.batch_size=2", "data.num_workers=0", "trainer.max_epochs=3", "trainer.limit_train_batches=3"),
        *("logger=csv", "callbacks=none", "trusted_packages=[kept_states,harm]"),
        f"+callbacks.states={{_target_: kept_states.KeptStates, folder: '{tmp_path / 'states'}'}}",
        "+callbacks.poison={_target_: harm.Poison, steps: [1, 3, 4], rank: 1}",
    ]
    assert run_ranks(diverge, tmp_path, options) == [4, 4]
    (first_error, first_events), (second_error, second_events) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert first_error == second_error
    assert first_error.startswith("The loss is nan at step 4 (epoch 1")
    assert [event["step"] for event in first_events] == [event["step"] for event in second_events] == [1, 3, 4]
    first, second = (torch.load(tmp_path / "states" / f"0-{rank}.pt", weights_only=True) for rank in range(2))
    assert differing(first, second) == []
    assert all(value.isfinite().all() for value in first.values())
