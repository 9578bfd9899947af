"""The gallery: what `cnnlab visualize` draws, by the commands that a user would type, from networks trained here.

    make gallery                    # or: python docs/gallery.py
    make gallery DATA=FOLDER        # where flower_photos, go and weights are; without it data/
    python docs/gallery.py dream    # only the pictures of these names

trains five small networks into outputs/gallery, where they are kept for the next time, draws every picture of PICTURES,
and writes docs/gallery: the pictures in small, and README.md, which shows them. A picture whose data, weights or
browser are missing is left as it is, with a reason. All of it takes 8 minutes on two cores of an AMD EPYC.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cnnlab.cli.visualize import visualize
from cnnlab.errors import DataError
from cnnlab.system.files import write_bytes

HERE = Path(__file__).parent / "gallery"
OUTPUTS = Path("outputs/gallery")
DATA = Path("data")
STYLE = OUTPUTS / "strokes.png"
DAISY = "data/flower_photos/daisy/7568630428_8cf0fc16ff_n.jpg"
DANDELION = "data/flower_photos/dandelion/2521811279_1f7fc353bf_n.jpg"
CREDITS = {
    DAISY: "Daisy by A Guy Taking Pictures, https://www.flickr.com/photos/80901381@N04/7568630428/",
    DANDELION: "Dandelion by David Hepworth, https://www.flickr.com/photos/medhead/2521811279/",
}
"""From the LICENSE.txt of the flower photos; photographs without a credit here do not belong in the gallery."""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

RUNS = {
    "quickstart": "python train.py experiment=quickstart",
    "lenet5": "python train.py model=lenet5 data=mnist data.images_per_class=500 augmentation=none optimizer.lr=0.002 "
    "trainer=cpu trainer.max_epochs=5 speed.num_threads=1",
    "flowers": "python train.py experiment=flowers_frozen data.images_per_class=300 freeze.cache_views=1",
    "shapes": "python train.py data=shapes model=mask_rcnn model.image_size=128 model.network.channels=64 "
    "model.network.proposals=100 model.network.samples=64 data.dataset.images=160 optimizer.lr=0.001 "
    "scheduler=onecycle trainer.max_epochs=2 callbacks=none",
    "reader": "python train.py data=text_lines model=crnn model.network.width=16 model.network.hidden=96 "
    "optimizer.lr=0.003 trainer=cpu trainer.max_epochs=6 trainer.gradient_clip_val=5",
    "go": "python train.py experiment=alphago_sl_fast data.root=data/go/tygem_9d_2016_07 trainer.max_epochs=1",
}
"""The networks, each of which goes to outputs/gallery/NAME."""


@dataclass(frozen=True)
class Picture:
    """file: in docs/gallery, at most `width` pixels wide. made: the file in the command's output folder it is of."""

    file: str
    title: str
    caption: str
    command: str
    made: str
    width: int = 900

    @property
    def name(self) -> str:
        return Path(self.file).stem

    @property
    def run(self) -> str | None:
        """The network of RUNS that is looked at."""
        return next((name for name in RUNS if f"run={OUTPUTS / name} " in self.command), None)


PICTURES = [
    Picture(
        "dream.jpg",
        "Deep Dream",
        "What a deep layer of VGG16 sees in a dandelion, amplified octave by octave.",
        f"cnnlab visualize model=vgg16 what=dream layer=features.26 size=320 image={DANDELION}",
        "dream.png",
        400,
    ),
    Picture(
        "style.jpg",
        "Style transfer",
        "A daisy in the strokes of another picture: descent on the feature maps and Gram matrices of VGG16.",
        f"cnnlab visualize model=vgg16 what=style size=320 content={DAISY} style={STYLE}",
        "style.png",
        1000,
    ),
    Picture(
        "adversarial.png",
        "Adversarial image",
        "Noise that nobody sees, and SqueezeNet takes a daisy for a teapot.",
        f"cnnlab visualize model=squeezenet1_1 what=adversarial target=teapot epsilon=0.02 shown=1 images={DAISY}",
        "triples.png",
    ),
    Picture(
        "adversarial_accuracy.png",
        "Accuracy under attack",
        "How the accuracy of LeNet-5 on handwritten digits falls with the size of the perturbation.",
        "cnnlab visualize run=outputs/gallery/lenet5 what=adversarial epsilon=0.1 limit=200",
        "curve.png",
        700,
    ),
    Picture(
        "attribution.jpg",
        "Attributions",
        "Six methods say on which pixels the word daisy rests; below, what they say of a network with random weights.",
        f"cnnlab visualize model=squeezenet1_1 what=attribution images={DAISY}",
        f"{Path(DAISY).stem}.png",
        1200,
    ),
    Picture(
        "maximize.jpg",
        "Activation maximization",
        "Images grown from noise, for each of six classes, to make SqueezeNet answer with it as strongly as can be.",
        "cnnlab visualize model=squeezenet1_1 what=maximize steps=120 "
        "target=daisy,goldfish,peacock,pineapple,volcano,jellyfish",
        "maximize.png",
    ),
    Picture(
        "features.jpg",
        "Feature maps",
        "All 64 channels behind VGG16's second convolution: edges of every direction, petals, the yellow centre.",
        f"cnnlab visualize model=vgg16 what=features layer=3 images={DAISY}",
        "layer_3/grid.png",
        1200,
    ),
    Picture(
        "filters.png",
        "Filters",
        "The first convolution of AlexNet: gratings, edges and blobs of colour.",
        "cnnlab visualize model=torchvision model.name=alexnet what=filters",
        "filters_features.0.png",
        800,
    ),
    Picture(
        "film.gif",
        "Filters over the epochs",
        "How the first six filters of LeNet-5 change from their initial values to the last epoch.",
        "cnnlab visualize run=outputs/gallery/quickstart what=filters",
        "film_features.0.gif",
    ),
    Picture(
        "top_patches.png",
        "Top patches",
        "The pieces of digits to which each channel of LeNet-5's second convolution answers most strongly.",
        "cnnlab visualize run=outputs/gallery/lenet5 what=top_patches layer=features.3",
        "patches_features.3.png",
        800,
    ),
    Picture(
        "explore.png",
        "A network to draw for",
        "One HTML page: draw a digit, watch every layer compute, point at a unit to see patch, kernel and sum.",
        "cnnlab visualize run=outputs/gallery/lenet5 what=explore",
        "explore.html",
        1366,
    ),
    Picture(
        "embedding.png",
        "Embedding",
        "Five kinds of flowers in the space of MobileNetV2's features, which never saw their names.",
        "cnnlab visualize run=outputs/gallery/flowers what=embedding images=data/flower_photos",
        "embedding.png",
        1000,
    ),
    Picture(
        "preprocessing.png",
        "Preprocessing",
        "The same digits raw, centred, standardized, projected and whitened, and the covariance of their pixels.",
        "cnnlab visualize run=outputs/gallery/lenet5 what=preprocessing",
        "preprocessing.png",
    ),
    Picture(
        "augmentation.jpg",
        "Augmentation",
        "One photograph as training sees it, and what every draw chose.",
        "cnnlab visualize model=mobilenet_v2 what=augmentation "
        f"augmentation=[random_resized_crop,flip,rotate,color_jitter,noise] images={DANDELION}",
        "draws.png",
        1030,
    ),
    Picture(
        "detections.png",
        "Objects found",
        "Circles, squares and triangles outlined by Mask R-CNN after two epochs on 144 drawn pictures.",
        "cnnlab visualize run=outputs/gallery/shapes what=detections",
        "00011.png",
        1000,
    ),
    Picture(
        "proposals.png",
        "Proposals",
        "The boxes that its first stage passes on to the second, the brighter the surer of an object.",
        "cnnlab visualize run=outputs/gallery/shapes what=proposals",
        "00007.png",
        1000,
    ),
    Picture(
        "anchors.png",
        "Anchors",
        "Anchors that training of Faster R-CNN matches to each object, in the colour of their level of the pyramid.",
        "cnnlab visualize model=faster_rcnn model.image_size=128 data=shapes what=anchors",
        "00004.png",
        1000,
    ),
    Picture(
        "objects.jpg",
        "Augmentation of objects",
        "Drawn shapes as training of a detector sees them: boxes and outlines move along, also into a mosaic.",
        "cnnlab visualize model=mask_rcnn data=shapes what=augmentation "
        "augmentation=[rotate,random_scale,color_jitter,mosaic] draws=7 alone=false",
        "draws.png",
        1030,
    ),
    Picture(
        "alignment.png",
        "A line of text",
        "Drawn digits, and in which columns the reader finds each of them; between them it answers with the blank.",
        "cnnlab visualize run=outputs/gallery/reader what=alignment",
        "alignment.png",
    ),
    Picture(
        "schedule.png",
        "Schedule",
        "Learning rate and freezing over the epochs, drawn before anything is trained.",
        "cnnlab visualize model=mobilenet_v2 freeze=gradual scheduler=onecycle what=schedule",
        "schedule.png",
    ),
    Picture(
        "policy.png",
        "A policy network of Go",
        "The moves that AlphaGo's policy network in small finds probable after one epoch; the blue frame was played.",
        "cnnlab visualize run=outputs/gallery/go what=policy move=20 symmetries=8 sgf=data/go/tygem_9d_2016_07/00.sgf",
        "00-20.png",
    ),
]


def main() -> None:
    given = arguments()
    chosen = [picture for picture in PICTURES if not given.names or picture.name in given.names]
    paint_strokes(STYLE)
    needed = dict.fromkeys(picture.run for picture in chosen if picture.run)
    trained = [name for name in needed if train(name, given.data)]
    for picture in chosen:
        try:
            if picture.run and picture.run not in trained:
                raise DataError(f"{OUTPUTS / picture.run} could not be trained: see above.")
            draw(picture, given.data)
        except DataError as error:
            print(f"{picture.name} is left as it is: {error}", flush=True)
        else:
            print(f"{picture.name} is drawn", flush=True)
    write_bytes(HERE / "README.md", page().encode())
    print(f"Took {sum(os.times()[:4]):.0f} s of CPU time.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [picture.name for picture in PICTURES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all, if none is given")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with flower_photos, go and weights")
    given = parser.parse_args()
    if unknown := set(given.names) - set(known):
        parser.error(f"no picture is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return given


def train(name: str, data: Path) -> bool:
    """Train the network unless it is there already; returns whether it is there."""
    folder = OUTPUTS / name
    record = folder / "run.json"
    if record.is_file() and json.loads(record.read_text())["status"] == "finished":
        return True
    shutil.rmtree(folder, ignore_errors=True)
    _, *arguments = located(RUNS[name], data)
    ended = subprocess.run([sys.executable, *arguments, f"paths.data_dir={data}", f"paths.output_dir={folder}"])
    return ended.returncode == 0


def draw(picture: Picture, data: Path) -> None:
    """Run the picture's command and keep what it made, in small; raises DataError if something for it is missing."""
    _, _, *arguments = located(picture.command, data)
    files = [Path(argument.split("=", 1)[1]) for argument in arguments if f"={data}/" in argument]
    if missing := [str(path) for path in files if not path.exists()]:
        raise DataError(f"there is no {', '.join(missing)}.")
    folder = OUTPUTS / "pictures" / picture.name
    output = folder / picture.made if picture.made.endswith(".html") else folder
    visualize([*arguments, f"output={output}", *([f"paths.data_dir={data}"] if data != DATA else [])])
    made = folder / picture.made
    write_small(HERE / picture.file, screenshot(made) if made.suffix == ".html" else made, picture.width)


def located(command: str, data: Path) -> list[str]:
    """The words of a command that reads from `data` where it says data/."""
    return [word.replace("=data/", f"={data}/") for word in shlex.split(command)]


def write_small(target: Path, source: Path, width: int) -> None:
    """A copy of a picture that is at most `width` pixels wide, in the format that the target's name says."""
    if target.suffix == ".gif":
        write_bytes(target, source.read_bytes())
        return
    image = Image.open(source).convert("RGB")
    image.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    if target.suffix == ".png":
        image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=85, optimize=True)
    write_bytes(target, buffer.getvalue())


def screenshot(page: Path) -> Path:
    """The page as a browser shows it."""
    if BROWSER is None:
        raise DataError("no chromium or google-chrome is installed to open the page in.")
    target = page.with_suffix(".png")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1366,900"]
    address = page.absolute().as_uri()
    command = [BROWSER, *options, "--virtual-time-budget=3000", f"--screenshot={target.absolute()}", address]
    subprocess.run(command, check=True, capture_output=True)
    return target


def paint_strokes(path: Path, width: int = 384, height: int = 288, count: int = 7000) -> None:
    """A picture to paint in the style of: strokes of a brush along a field of whirls, light on dark."""
    rng = np.random.default_rng(3)
    image = Image.new("RGB", (width, height), (16, 24, 62))
    pen = ImageDraw.Draw(image)
    whirls = [(*rng.uniform(0, (width, height)), rng.choice([-1, 1]), rng.uniform(30, 70)) for _ in range(8)]
    palette = [(22, 48, 110), (38, 92, 160), (92, 158, 196), (232, 196, 72), (246, 232, 176), (196, 98, 44)]
    for number in range(count):
        x, y = rng.uniform(0, (width, height))
        nearness = max(np.exp(-np.hypot(x - a, y - b) / reach) for a, b, _, reach in whirls)
        shade = int(np.clip(nearness * 5 + rng.normal(0, 0.7), 0, 5))
        colour = tuple(int(np.clip(value + rng.normal(0, 10), 0, 255)) for value in palette[shade])
        points = [(x, y)]
        for _ in range(7):
            along = np.array([0.6, 0.15])
            for a, b, turn, reach in whirls:
                away = np.array([x - a, y - b])
                along += turn * 3 * np.exp(-np.hypot(*away) / reach) * np.array([-away[1], away[0]]) / np.hypot(*away)
            x, y = np.array([x, y]) + 3 * along / np.hypot(*along)
            points.append((x, y))
        pen.line(points, fill=colour, width=2 + number % 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def page() -> str:
    """docs/gallery/README.md."""
    parts = [
        "# Gallery",
        "Pictures by `cnnlab visualize`, each with its command. `make gallery` (`docs/gallery.py`) trains the "
        "networks, redraws everything and writes this page; add `DATA=FOLDER` if the data are elsewhere.",
    ]
    for picture in PICTURES:
        parts += [f"## {picture.title}", picture.caption, f"![{picture.title}]({picture.file})"]
        parts += [f"    {picture.command}"]
    runs = "\n".join(f"    {command} paths.output_dir={OUTPUTS / name}" for name, command in RUNS.items())
    parts += [
        "## The networks",
        "VGG16, AlexNet, SqueezeNet and MobileNetV2 have ImageNet weights. Trained here:",
        runs,
    ]
    shown = [f"- {credit}: {', '.join(of_photo(photo))}" for photo, credit in CREDITS.items()]
    parts += [
        "## Photographs",
        "Of the TensorFlow flower photos, under [CC BY 2.0](https://creativecommons.org/licenses/by/2.0/), reduced and "
        "changed as each picture says:",
        "\n".join(shown),
        "The strokes that the style is taken from are painted by `docs/gallery.py`.",
    ]
    return "\n\n".join(parts) + "\n"


def of_photo(photo: str) -> list[str]:
    """The files of the pictures that show a photograph."""
    return [f"[{picture.file}]({picture.file})" for picture in PICTURES if photo in picture.command]


if __name__ == "__main__":
    main()
