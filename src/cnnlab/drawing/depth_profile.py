"""Plot signals, gradients and updates over the depth of a network."""

from collections.abc import Mapping

from matplotlib.figure import Figure

LOWEST, HIGHEST = 1e-12, 1e12
"""Range of the logarithmic axes; values outside it, 0 included, are drawn at its ends, so that all plots compare."""
PANELS = {
    "activation_std": "standard deviation of the outputs",
    "zero_share": "share of zeros after the nonlinearity",
    "gradient_norm": "norm of the weight's gradient",
    "update_ratio": "update / weight",
}


def depth_profile(signals: Mapping[str, Mapping[str, float]], step: int) -> Figure:
    """Plot each quantity of PANELS over the layers.

    signals: layer -> quantity -> value, in order of depth; a quantity that a layer lacks leaves a gap.
    """
    figure = Figure(figsize=(12, 7), layout="constrained")
    figure.suptitle(f"step {step}")
    names = list(signals)
    for axes, (key, title) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items(), strict=True):
        values = [signals[name].get(key, float("nan")) for name in names]
        if key == "zero_share":
            axes.set_ylim(-0.02, 1.02)
        else:
            axes.set_yscale("log")
            axes.set_ylim(LOWEST / 3, HIGHEST * 3)
            values = [min(max(value, LOWEST), HIGHEST) if value == value else value for value in values]
        if key == "update_ratio":
            axes.axhline(1e-3, color="grey", linestyle=":", linewidth=1)
        axes.plot(range(len(names)), values, marker="o", markersize=4)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        shown = range(0, len(names), -(-len(names) // 20) or 1)
        axes.set_xticks(list(shown), [names[number] for number in shown], rotation=90, fontsize=8)
    return figure
