"""The Penn-Fudan pedestrians: 170 street photos with people outlined (Wang et al., ACCV 2007)."""

from pathlib import Path

from cnnlab.errors import DataError
from cnnlab.system.downloads import fetch_folder
from cnnlab.tasks.detection.annotated import AnnotatedSplits
from cnnlab.tasks.detection.sources.outlines import outlines

URL = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"
ARCHIVE_BYTES = 53_723_336
"""Size of the archive; its authors publish no checksum."""
TEST = {
    "FudanPed": "2 10 18 22 26 29 30 32 33 35 37 39 40 42 43 48 54 59 66 68 71 73",
    "PennPed": "4 6 8 9 14 15 26 30 32 41 42 44 47 54 55 61 65 67 69 70 74 75 77 85 87 89 92 93",
}
"""Beginning of a name -> numbers of the 50 test images; the authors define no split."""


def penn_fudan(root: str, bad_annotations: str) -> AnnotatedSplits:
    """Return the photos below `root` in the authors' layout, downloaded from their address if `root` does not exist.

    Raises DataError that lists the alternatives if they cannot be downloaded, or for bad annotations.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        try:
            fetch_folder(URL, folder, inside="PennFudanPed", sha256="", archive_bytes=ARCHIVE_BYTES)
        except DataError as error:
            raise DataError(
                f"The Penn-Fudan photos are not in {folder.absolute()}, and downloading them failed:\n  {error}\n"
                "Alternatives:\n"
                f"  - unpack {URL} elsewhere and set data.root=FOLDER/PennFudanPed;\n"
                "  - start without a download: data=shapes."
            ) from error
    names = [f"{start}{number:0>5}" for start, numbers in TEST.items() for number in numbers.split()]
    return outlines(str(folder), "person", bad_annotations, {"test": names})
