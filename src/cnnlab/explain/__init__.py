"""Pictures of what a network learned: one module for each `what=`, with `Options` and `draw`.

- `Options` is a dataclass of the picture's own keys with their defaults.
- `draw(subject, options, output) -> list[Path]` writes into the folder `output` and returns the main files.

A task lists what can be drawn of it; a package of the user's own can add modules to its task's list.
"""

PICTURES = {
    "filters": "the weights of a convolution",
    "features": "every channel of chosen layers for an image",
    "top_patches": "the patches of a data set to which each channel answers most strongly",
    "attribution": "which pixels a decision rests on, beside the same of a randomised network",
    "maximize": "images grown from noise that a class or channel answers to",
    "dream": "what a layer sees in an image, amplified octave by octave",
    "style": "the content of one image in the style of another",
    "adversarial": "images that a small perturbation makes the network mistake, and accuracy by its size",
    "embedding": "where the images of a data set lie in the space of the network's features",
    "preprocessing": "what every kind of preprocessing makes of the same images and their covariance",
    "augmentation": "one image as training sees it, draw by draw, and every augmentation alone",
    "schedule": "learning rate and freezing over the epochs, without training",
    "explore": "one page in which a small network can be drawn for and looked into",
    "policy": "the moves that a policy network of Go finds probable, on the board: sgf=game.sgf move=42",
}
"""What cnnlab can draw, in a line each."""
OF_NETWORKS = {name: f"cnnlab.explain.{name}" for name in ("filters", "maximize", "schedule")}
"""What can be drawn of any staged network -> the module that draws it."""
OF_IMAGES = {name: f"cnnlab.explain.{name}" for name in PICTURES if name != "policy"}
"""What can be drawn of a network that classifies images -> the module that draws it."""
