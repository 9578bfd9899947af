"""Pictures of what a network learned: one module per `what=`, with `Options` and `draw`.

- `Options` is a dataclass of the picture's own keys and their defaults.
- `draw(subject, options, output) -> list[Path]` writes into the folder `output` and returns the main files.

Each task lists its pictures; a user's package can add modules to the list of its own task.
"""

PICTURES = {
    "filters": "the weights of a convolution",
    "features": "every channel of chosen layers for an image",
    "top_patches": "the patches of a data set that each channel responds to most strongly",
    "attribution": "the pixels that a decision is based on, compared with those of a randomised network",
    "maximize": "images grown from noise to maximize a class or channel",
    "dream": "what a layer sees in an image, amplified octave by octave",
    "style": "the content of one image in the style of another",
    "adversarial": "images that the network misclassifies after a small perturbation, and accuracy by its size",
    "embedding": "the images of a data set in the network's feature space, projected to two dimensions",
    "preprocessing": "the same images, and their covariance, after every kind of preprocessing",
    "augmentation": "one image as training sees it in several epochs, and every augmentation alone",
    "schedule": "learning rate and freezing over the epochs, without training",
    "explore": "one HTML page on which to draw an image and see every layer of a small network compute",
}
"""Picture -> what it shows, in one line."""
OF_NETWORKS = {name: f"cnnlab.explain.{name}" for name in ("filters", "schedule")}
"""Pictures of any staged network -> the module that draws them."""
OF_IMAGES = {name: f"cnnlab.explain.{name}" for name in PICTURES}
"""Pictures of a network that classifies images -> the module that draws them."""
