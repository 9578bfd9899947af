"""Preprocessing as the first layer of the model: fitted on the training images and stored in the checkpoint."""

import hashlib
import inspect
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cnnlab.errors import DataError, InputError, Problems
from cnnlab.models.moments import largest_magnitude, moments, principal_components
from cnnlab.system.files import load_tensors, write_bytes

log = logging.getLogger(__name__)

VERSION = 1
"""Version of the fitted statistics; increase it when they change, so that stored ones are not reused."""
CACHED = 1 << 16
"""Numbers that stay in a CPU's cache between two operations."""
LARGEST_PCA = 64
"""Largest side in pixels of decorrelated images or patches; the covariance grows with its fourth power."""


class Normalize(nn.Module):
    """Computes (x - mean) / std, with one mean and std for each channel (C) or for each pixel (C x H x W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence | Tensor, std: Sequence | Tensor) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            values = torch.as_tensor(value, dtype=torch.float32)
            self.register_buffer(name, values if values.ndim == 3 else values.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalize float N x C x H x W in [0, 1]; shape and dtype are kept."""
        if not self._by_rows(images):
            return (images - self.mean) / self.std
        # Same result, but faster on the CPU: broadcasting over rows of W C numbers instead of pixels of C.
        mean, std = (_for_rows(values, images) for values in (self.mean, self.std))
        return _from_rows((_rows(images) - mean).div_(std), images)

    def from_uint8(self, images: Tensor) -> Tensor:
        """Compute `forward(images / 255)` for uint8 N x C x H x W, up to rounding, in the same memory format."""
        scale, shift = 1 / (255 * self.std), -self.mean / self.std
        if not self._by_rows(images) or images.device.type != "cpu":
            return torch.addcmul(shift, images.float(), scale)
        # In portions, so that what the first operation writes is still in the CPU's cache when the second reads it.
        scale, shift = _for_rows(scale, images), _for_rows(shift, images)
        rows = _rows(images)
        result = torch.empty(rows.shape)
        portion = max(1, CACHED // rows[0].numel())
        for source, target in zip(rows.split(portion), result.split(portion), strict=True):
            torch.addcmul(shift, target.copy_(source), scale, out=target)
        return _from_rows(result, images)

    def _by_rows(self, images: Tensor) -> bool:
        """Return whether to broadcast over rows; never while torch traces, which would record the size of the batch."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return False
        return self.mean.shape[1:] == (1, 1) and images.is_contiguous(memory_format=torch.channels_last)

    def extra_repr(self) -> str:
        if self.mean.shape[1:] != (1, 1):
            return f"of each pixel of {' x '.join(map(str, self.mean.shape))}"
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def _rows(images: Tensor) -> Tensor:
    """View channels-last N x C x H x W as N x H x (W C)."""
    return images.permute(0, 2, 3, 1).flatten(2)


def _from_rows(rows: Tensor, images: Tensor) -> Tensor:
    """Invert `_rows`: view N x H x (W C) as N x C x H x W with the channels of `images`."""
    return rows.unflatten(2, (-1, images.shape[1])).permute(0, 3, 1, 2)


def _for_rows(values: Tensor, images: Tensor) -> Tensor:
    """Repeat C x 1 x 1 to W C, in the order of the rows of `images`."""
    return values.flatten().repeat(images.shape[3])


class Decorrelate(nn.Module):
    """Computes (x - mean) matrix + offset on the pixels of whole images, or of each patch of h x w.

    mean, offset: C x h x w. matrix: D x D with D = C h w; x is a row vector.
    """

    mean: Tensor
    matrix: Tensor
    offset: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("matrix", matrix), ("offset", offset)):
            self.register_buffer(name, value.float())

    def forward(self, images: Tensor) -> Tensor:
        """Transform float N x C x H x W in [0, 1] to the same shape; H and W must be multiples of h and w.

        Computes in float32 even under autocast, because bfloat16 would round small components away.
        """
        with torch.autocast(images.device.type, enabled=False):
            rows = patches(images.float(), *self.mean.shape[1:])
            mapped = (rows - self.mean.flatten()) @ self.matrix + self.offset.flatten()
            return from_patches(mapped, images.shape, *self.mean.shape[1:])

    def extra_repr(self) -> str:
        return f"{' x '.join(map(str, self.mean.shape))}"


def patches(images: Tensor, height: int, width: int) -> Tensor:
    """Cut N x C x H x W into a grid of patches and return each as a row of C * height * width.

    Raises InputError if the patches do not cover the images exactly.
    """
    rows, columns = images.shape[2] / height, images.shape[3] / width
    if rows % 1 or columns % 1:
        raise InputError(f"Patches of {height} x {width} do not cover images of {images.shape[2]} x {images.shape[3]}.")
    grid = images.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)


def from_patches(rows: Tensor, shape: Sequence[int], height: int, width: int) -> Tensor:
    """Invert `patches`: return N x C x H x W of the given shape."""
    count, channels, image_height, image_width = shape
    grid = rows.view(count, image_height // height, image_width // width, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(shape)


# --- Fitting: each function takes batches N x C x H x W and their common shape C x H x W. ---

Batches = Iterator[Tensor]
Shape = tuple[int, int, int]


def _none(batches: Batches, shape: Shape) -> nn.Module:
    return nn.Identity()


def _zero_mean(batches: Batches, shape: Shape, per: str = "channel") -> nn.Module:
    _, mean, _ = moments(_columns(batches, per))
    mean = mean.view(_extent(shape, per))
    return Normalize(mean, torch.ones_like(mean))


def _standardize(batches: Batches, shape: Shape, per: str = "channel") -> nn.Module:
    count, mean, squares = moments(_columns(batches, per))
    std = (squares / count).sqrt()
    std = torch.where(std < 1e-6, 1.0, std)  # constant values become 0, as in scikit-learn's StandardScaler
    return Normalize(mean.view(_extent(shape, per)), std.view(_extent(shape, per)))


def _max_abs(batches: Batches, shape: Shape, per: str = "channel") -> nn.Module:
    largest = largest_magnitude(_columns(batches, per)).view(_extent(shape, per))
    return Normalize(torch.zeros_like(largest), torch.where(largest == 0, 1.0, largest))


def _pca(batches: Batches, shape: Shape, components: float | None = None, patch: int | None = None) -> nn.Module:
    mean, _, directions = _components(batches, patch, components)
    return Decorrelate(mean, directions @ directions.T, mean)


def _pca_whiten(
    batches: Batches,
    shape: Shape,
    components: float | None = None,
    epsilon: float = 0.0,
    patch: int | None = None,
) -> nn.Module:
    mean, variances, directions = _components(batches, patch, components, epsilon)
    whitened = directions * _inverse_root(variances, epsilon)
    matrix = nn.functional.pad(whitened, (0, len(directions) - len(variances)))
    return Decorrelate(mean, matrix, torch.zeros_like(mean))


def _zca(batches: Batches, shape: Shape, epsilon: float = 0.0, patch: int | None = None) -> nn.Module:
    mean, variances, directions = _components(batches, patch, None, epsilon)
    matrix = directions * _inverse_root(variances, epsilon) @ directions.T
    return Decorrelate(mean, matrix, torch.zeros_like(mean))


SCHEMES: dict[str, Callable[..., nn.Module]] = {
    "none": _none,
    "zero_mean": _zero_mean,
    "standardize": _standardize,
    "max_abs": _max_abs,
    "pca": _pca,
    "pca_whiten": _pca_whiten,
    "zca": _zca,
}
NAMES = ("weights", *SCHEMES)


def fit(
    name: str,
    images_NCHW: Tensor | Iterable[Tensor],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """Return the preprocessing layer `name`, fitted on images in [0, 1], given as one tensor or in batches.

    none: x.  weights: (x - mean) / std with the given statistics of pretrained weights.
    zero_mean: x - mean.  standardize: (x - mean) / std (biased).  max_abs: x / max |x|, in [-1, 1].
        per: "channel" (default) or "pixel".
    pca: projection onto the principal components, and back into an image.  pca_whiten: the coordinates along them, each
        with variance 1, largest original variance first, as in scikit-learn's PCA(whiten=True); padded with zeros if
        there are fewer than pixels.  zca: the same rotated back, closest to the image (Krizhevsky 2009, appendix A).
        components: number of components, or the share of the variance that they must explain; None: all.
        epsilon: added to the variances before dividing by them; without it, components without variance become 0.
        patch: side of the square patches that are transformed separately; None: the whole image.
    Statistics are accumulated in float64; memory grows with the covariance, not with the number of images.
    Raises InputError for an unknown name or option and for settings that `check_fit` refuses, DataError for no images.
    """
    if name == "weights":
        if mean is None or std is None:
            raise InputError(
                "preprocessing=weights needs pretrained weights with a mean and std; use preprocessing=standardize."
            )
        return Normalize(mean, std)
    _check_options(name, options)
    if name == "none":
        return nn.Identity()
    batches = iter([images_NCHW] if isinstance(images_NCHW, Tensor) else images_NCHW)
    first = next(batches, None)
    if first is None:
        raise DataError("Preprocessing cannot be fitted: the data have no images.")
    shape = (first.shape[1], first.shape[2], first.shape[3])
    check_fit(name, options, shape)
    return SCHEMES[name](chain([first], batches), shape, **options)


def fit_once(folder: Path, fingerprint: str, name: str, images_NCHW: Iterable[Tensor], **options: Any) -> nn.Module:
    """Return the layer of `fit`, cached in `folder` for all runs with the same images, options and version.

    fingerprint: hash of the contents and size of the images, which are read only if no cached layer is found.
    """
    key = hashlib.blake2b(repr((VERSION, fingerprint, sorted(options.items()))).encode(), digest_size=8).hexdigest()
    path = folder / f"{name}-{key}.safetensors"
    if path.is_file():
        with suppress(DataError, KeyError):  # a damaged file is fitted again
            return from_state(load_tensors(path))
    layer = fit(name, images_NCHW, **options)
    state = {f"preprocessing.{key}": value.contiguous() for key, value in layer.state_dict().items()}
    if state:
        try:
            write_bytes(path, save(state))
        except OSError as error:
            log.warning("Could not write %s (%s): preprocessing is fitted again in each run.", path, error.strerror)
    return layer


def check_fit(name: str, options: Mapping[str, Any], shape: Shape, count: int | None = None) -> None:
    """Raise one InputError with every reason why `name` cannot be fitted on images of C x H x W = `shape`.

    count: number of images, if it is already known.
    """
    _check_options(name, options)
    if name not in ("pca", "pca_whiten", "zca"):
        return
    channels, height, width = shape
    patch = options.get("patch")
    rows, columns = (patch, patch) if patch else (height, width)
    problems = Problems()
    with problems:
        if patch and (height % patch or width % patch):
            raise InputError(f"preprocessing.patch={patch} does not divide images of {height} x {width} pixels.")
    with problems:
        if max(rows, columns) > LARGEST_PCA:
            entries = channels * rows * columns
            raise InputError(
                f"preprocessing={name} on {rows} x {columns} pixels needs a covariance of {entries:,} x {entries:,} "
                f"numbers, {8 * entries**2 / 2**30:,.0f} GiB. Whiten patches (preprocessing.patch=16), or choose a "
                f"smaller model.image_size (at most {LARGEST_PCA})."
            )
    with problems:
        if count is not None:
            samples = count * (height // rows) * (width // columns)
            _check_rank(name, samples, channels * rows * columns, options)
    problems.raise_all(f"preprocessing={name} cannot be fitted:")


def from_state(state: Mapping[str, Tensor]) -> nn.Module:
    """Return the layer whose buffers are in a checkpoint's state_dict as `preprocessing.*`."""
    prefix = "preprocessing."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if "matrix" in own:
        return Decorrelate(own["mean"], own["matrix"], own["offset"])
    return Normalize(own["mean"], own["std"]) if "mean" in own else nn.Identity()


def _check_options(name: str, options: Collection[str]) -> None:
    if name not in NAMES:
        raise InputError(f"preprocessing.name={name}: use one of {', '.join(NAMES)}.")
    known = list(inspect.signature(SCHEMES[name]).parameters)[2:] if name in SCHEMES else ["mean", "std"]
    if unknown := [option for option in options if option not in known]:
        has = ", ".join(known) or "none"
        raise InputError(f"preprocessing={name} has no option {', '.join(unknown)}. Available: {has}.")


def _check_rank(name: str, samples: int, dimensions: int, options: Mapping[str, Any]) -> None:
    """Raise InputError if whitening needs more samples.

    n centred samples span n - 1 dimensions; the variance of the others is 0 and cannot be made 1.
    """
    wanted = options.get("components")
    asks_for_all = wanted is None or (isinstance(wanted, int) and wanted >= samples)
    if name != "pca" and asks_for_all and samples <= dimensions and not options.get("epsilon"):
        raise InputError(
            f"preprocessing={name}: {samples} samples do not span all {dimensions} dimensions. "
            "Set preprocessing.epsilon=0.01, whiten smaller patches (preprocessing.patch), or use more images."
        )


def _columns(batches: Batches, per: str) -> Iterator[Tensor]:
    """Yield the batches as matrices whose columns are the channels, or the pixels of an image."""
    if per not in ("channel", "pixel"):
        raise InputError(f"preprocessing.per={per}: use channel or pixel.")
    for batch in batches:
        yield batch.flatten(1) if per == "pixel" else batch.permute(0, 2, 3, 1).flatten(0, 2)


def _extent(shape: Shape, per: str) -> Shape:
    return shape if per == "pixel" else (shape[0], 1, 1)


def _components(
    batches: Batches, patch: int | None, wanted: float | None, epsilon: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C x h x w), variances (k) and directions (D x k) of the components of images or patches."""
    first = next(batches)
    size = (patch, patch) if patch else (first.shape[2], first.shape[3])
    rows = (patches(batch, *size) for batch in chain([first], batches))
    count, mean, squares = moments(rows, covariance=True)
    if epsilon is not None:
        _check_rank("whitening", count, len(mean), {"components": wanted, "epsilon": epsilon})
    variances, directions = principal_components(count, squares)
    kept = _number_of(variances, wanted)
    return mean.view(first.shape[1], *size), variances[:kept], directions[:, :kept]


def _number_of(variances: Tensor, wanted: float | None) -> int:
    """Return how many components to keep: all (None), `wanted` of them, or as few as explain that share of variance."""
    if wanted is None:
        return len(variances)
    if isinstance(wanted, float) and 0 < wanted < 1:
        explained = variances.cumsum(0) / variances.sum()
        return int(torch.searchsorted(explained, wanted, right=True)) + 1
    if wanted == int(wanted) and 1 <= wanted <= len(variances):
        return int(wanted)
    raise InputError(
        f"preprocessing.components={wanted}: use a number from 1 to {len(variances)}, or a share of the variance "
        "between 0 and 1."
    )


def _inverse_root(variances: Tensor, epsilon: float) -> Tensor:
    if epsilon < 0 or not math.isfinite(epsilon):
        raise InputError(f"preprocessing.epsilon={epsilon}: it must not be negative.")
    total = variances + epsilon
    return torch.where(total > 0, total.rsqrt(), 0.0)
