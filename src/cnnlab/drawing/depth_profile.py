"""Plot signals, gradients and updates over the depth of a network."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

LOWEST, HIGHEST = 1e-12, 1e12
"""Range of the logarithmic axes; values outside it, 0 included, are drawn at its ends, so that all plots compare."""
DECADES = [10.0**power for power in range(-12, 13, 3)]
"""The labelled ticks of the logarithmic axes."""
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
    names = list(signals)
    longest = max(map(len, names), default=0)
    # Fixed margins, and few ticks with plain labels: a layout by matplotlib takes longer than the drawing itself.
    margins = {"left": 0.05, "right": 0.99, "top": 0.92, "bottom": min(0.5, 0.03 + 0.01 * longest)}
    figure = Figure(figsize=(12, 7))
    figure.subplots_adjust(**margins, hspace=0.15, wspace=0.12)
    figure.suptitle(f"step {step}")
    for axes, (key, title) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS.items(), strict=True):
        values = [signals[name].get(key, float("nan")) for name in names]
        if key == "zero_share":
            axes.set_ylim(-0.02, 1.02)
        else:
            axes.set_yscale("log")
            axes.set_ylim(LOWEST / 3, HIGHEST * 3)
            axes.set_yticks(DECADES, [f"{decade:.0e}" for decade in DECADES], fontsize=8)
            axes.yaxis.set_minor_locator(NullLocator())
            values = [min(max(value, LOWEST), HIGHEST) if value == value else value for value in values]
        if key == "update_ratio":
            axes.axhline(1e-3, color="grey", linestyle=":", linewidth=1)
        axes.plot(range(len(names)), values, marker="o", markersize=4)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        shown = range(0, len(names), -(-len(names) // 20) or 1)
        axes.set_xticks(list(shown), [names[number] for number in shown], rotation=90, fontsize=8)
    return figure
