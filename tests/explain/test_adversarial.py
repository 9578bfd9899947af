"""The picture of adversarial examples, and training against them."""

import json

import lightning as L
import pytest
import torch
from in_process import DIGITS, train_in_process
from torch.utils.data import DataLoader, TensorDataset

from cnnlab.cli.subjects import RunSubject
from cnnlab.cli.visualize import visualize
from cnnlab.errors import InputError
from cnnlab.models.attacks import Attack

EPSILON = 0.1


@pytest.fixture(scope="module")
def natural(quick_run):
    """Trained for three epochs without attacks."""
    return quick_run


@pytest.fixture(scope="module")
def hardened(natural, tmp_path_factory):
    """Trained further for an epoch, against an attack."""
    folder = tmp_path_factory.mktemp("hardened") / "run"
    options = [f"model.weights={natural}", "optimizer.lr=0.002", "scheduler=none", "trainer.max_epochs=1"]
    attack = [f"regularization.adversarial.epsilon={EPSILON}", "regularization.adversarial.steps=2"]
    few = ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    train_in_process(folder, *DIGITS, *options, *few, "regularization=[adversarial]", *attack)
    return folder


def test_files_and_the_order_of_attacks(natural, tmp_path):
    arguments = [f"run={natural}", "what=adversarial", "limit=60", "shown=2", "steps=5", f"output={tmp_path}"]
    arguments.append("epsilons=[0, 0.02, 0.05, 0.1, 0.2]")
    paths = visualize([*arguments, f"epsilon={EPSILON}"])
    assert [path.name for path in paths] == ["triples.png", "curve.png", "adversarial.json"]
    found = json.loads((tmp_path / "adversarial.json").read_text())
    curves = found["accuracy"]
    assert found["epsilons"] == [0, 0.02, 0.05, 0.1, 0.2]
    assert curves["fgsm"][0] == curves["pgd"][0] > 0.8
    assert curves["fgsm"][-1] < curves["fgsm"][0]
    assert all(strong <= weak for strong, weak in zip(curves["pgd"], curves["fgsm"], strict=True))
    assert curves["pgd"] == sorted(curves["pgd"], reverse=True)
    assert all(0.5 * EPSILON < row["linf"] <= EPSILON + 1e-6 for row in found["images"])
    assert len(found["images"]) == 60


def test_training_against_an_attack_protects_against_it(natural, hardened):
    def accuracies(run):
        subject = RunSubject(run, {})
        pictures = subject.pictures(None, 120)
        images = torch.cat([picture.batch for picture in pictures])
        truth = torch.tensor([picture.target for picture in pictures])
        found = Attack("pgd", EPSILON, steps=10)(subject.model, images, truth)
        return [float((subject.probabilities(each).argmax(1) == truth).float().mean()) for each in (images, found)]

    clean, attacked = accuracies(natural)
    clean_hardened, attacked_hardened = accuracies(hardened)
    assert attacked < clean
    assert clean_hardened > 0.8
    assert attacked_hardened > attacked + 0.1


def test_attack_in_lightnings_test_loop(natural):
    """It runs under inference mode, where torch.enable_grad() is not enough."""

    class Attacked(L.LightningModule):
        def __init__(self, model) -> None:
            super().__init__()
            self.model = model
            self.changed: list[float] = []

        def test_step(self, batch, batch_idx) -> None:
            assert torch.is_inference_mode_enabled()
            (images,) = batch
            found = Attack("pgd", EPSILON, steps=2)(
                self.model, images * 1.0, torch.zeros(len(images), dtype=torch.long)
            )
            self.changed.append(float((found - images).abs().max()))

    images = torch.rand(8, 1, 32, 32)
    module = Attacked(RunSubject(natural, {}).model)
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.test(module, DataLoader(TensorDataset(images), batch_size=4), verbose=False)
    assert module.changed == pytest.approx([EPSILON] * 2, abs=1e-6)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("target=12", "'12' is not a class of run: use 0 to 9"),
        ("attack=cw", "use fgsm or pgd"),
        ("epsilon=-1", "must not be negative"),
        ("limit=0", "limit=0"),
        ("shown=0", "shown=0"),
        ("epsilons=[0, -0.1]", "must not be negative"),
    ],
)
def test_wrong_options_are_named(natural, argument, message):
    with pytest.raises(InputError, match=message):
        visualize([f"run={natural}", "what=adversarial", argument])


def test_weights_without_a_classifier_are_refused(tmp_path, pictures):
    import torchvision

    trunk = torchvision.models.squeezenet1_1().features.state_dict(prefix="features.")
    torch.save(trunk, tmp_path / "features.pth")
    arguments = ["what=adversarial", "model=squeezenet1_1", f"model.weights={tmp_path / 'features.pth'}"]
    with pytest.raises(InputError, match="no classifier, which this picture needs"):
        visualize([*arguments, f"images={pictures}"])
