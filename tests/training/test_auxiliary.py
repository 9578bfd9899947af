"""Auxiliary losses of GoogLeNet and Inception v3: part of the training loss, with the weights of their papers."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cnnlab.errors import InputError
from cnnlab.models.cutting import Cut
from cnnlab.models.stages import with_features_and_classifier
from cnnlab.tasks.classification.module import Classifier
from cnnlab.tasks.regression.module import Regressor
from cnnlab.training.freezing import FreezePlan
from cnnlab.training.module import TaskModule
from cnnlab.training.recipe import Recipe
from cnnlab.training.regularizers.targets import LabelSmoothing

CLASSES = [str(number) for number in range(4)]


class Branched(nn.Module):
    """A network that returns in training what torchvision's Inception v3 does."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 5, 3)
        self.aux = nn.Linear(5, outputs)
        self.fc = nn.Linear(5, outputs)

    def forward(self, images: Tensor) -> Tensor | torchvision.models.InceptionOutputs:
        features = self.body(images).mean((2, 3))
        scores = self.fc(features)
        return torchvision.models.InceptionOutputs(scores, self.aux(features)) if self.training else scores


def module_of(network: nn.Module, kind=Classifier, loss=nn.CrossEntropyLoss, **recipe) -> TaskModule:
    plan = FreezePlan(network, [{"epoch": 0, "train": "all"}])
    made = Recipe(torch.optim.SGD, lambda optimizer, **steps: None, loss, plan, lr=0.1, seed=0, **recipe)
    module = kind(nn.Identity(), with_features_and_classifier(network), CLASSES if kind is Classifier else [], {}, made)
    module.log = module.log_dict = lambda *arguments, **options: None
    return module.train()


def test_training_loss_of_googlenet_is_that_of_its_paper():
    """Cross entropy of the main scores plus 0.3 times that of each of the two others (Szegedy et al. 2015)."""
    torch.manual_seed(0)
    network = torchvision.models.googlenet(num_classes=4, init_weights=False, dropout=0.0, dropout_aux=0.0).train()
    images, labels = torch.rand(3, 3, 64, 64), torch.tensor([0, 3, 1])
    scores = network(images)
    terms = [nn.functional.cross_entropy(each, labels).item() for each in scores]
    expected = terms[0] + 0.3 * (terms[1] + terms[2])
    module = module_of(network)

    loss = module.training_step((images, labels), 0)

    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert module.step_values["train/loss"].item() == pytest.approx(terms[0], rel=1e-4)
    assert module.step_values["train/auxiliary_loss"].item() == pytest.approx(expected - terms[0], rel=1e-3)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_auxiliary_loss_is_smoothed_like_the_main_one_and_never_validated():
    torch.manual_seed(0)
    network, images, labels = Branched(), torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    main, auxiliary = (each.detach() for each in network(images))
    smooth = nn.CrossEntropyLoss(label_smoothing=0.2)
    expected = smooth(main, labels) + 0.4 * smooth(auxiliary, labels)
    module = module_of(network, regularizers={"label_smoothing": LabelSmoothing(0.2)})
    assert module.training_step((images, labels), 0).item() == pytest.approx(expected.item(), rel=1e-6)
    module.eval().validation_step((images, labels), 0)
    assert module.val_loss.compute().item() == pytest.approx(nn.functional.cross_entropy(main, labels).item(), rel=1e-5)


def test_auxiliary_values_of_a_regression_have_the_shape_of_its_values():
    torch.manual_seed(0)
    network, images, values = Branched(outputs=1), torch.rand(5, 3, 8, 8), torch.arange(5.0)
    main, auxiliary = (each.detach().squeeze(1) for each in network(images))
    expected = nn.functional.mse_loss(main, values) + 0.4 * nn.functional.mse_loss(auxiliary, values)
    module = module_of(network, Regressor, nn.MSELoss)
    assert module.training_step((images, values), 0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_trial_step_accepts_auxiliary_outputs_and_no_others():
    batch = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4)
    module = module_of(Branched())
    module.check_step(batch)
    assert module.auxiliary == []

    class Pair(Branched):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tuple(super().forward(images))

    with pytest.raises(InputError, match="Pair returns a tuple, not a tensor"):
        module_of(Pair()).check_step(batch)


def test_network_with_several_heads_is_not_cut_for_cached_features():
    network = with_features_and_classifier(torchvision.models.googlenet(num_classes=4, init_weights=False)).eval()
    with pytest.raises(InputError, match=r"GoogLeNet has several heads \(fc, aux1, aux2\)"):
        Cut(network, "classifier", torch.rand(2, 3, 64, 64))
