"""Build the parameter groups: one for each combination of learning rate and weight decay, all from the start."""

from torch import nn

from cnnlab.models.stages import stage_of_parameter
from cnnlab.models.weighted import weights_of
from cnnlab.training.freezing import FreezePlan


def parameter_groups(network: nn.Module, plan: FreezePlan, lr: float, weight_decay: float) -> list[dict]:
    """Return parameter groups by lr multiplier of the stage and weight decay; biases and norm layers are never decayed.

    Frozen parameters are in a group too: optimizers skip them as long as their gradient is None.
    """
    stage = stage_of_parameter(network)
    weights = weights_of(network)
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in network.named_parameters():
        multiplier = plan.lr_multiplier(stage[name])
        decay = weight_decay if name in weights else 0.0
        group = groups.setdefault((multiplier, decay), {"params": [], "lr": lr * multiplier, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())
