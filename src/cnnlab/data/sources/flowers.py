"""Five kinds of flowers: 3,670 photos, the data set of TensorFlow's transfer-learning tutorial (CC BY)."""

from pathlib import Path

from cnnlab.data.images import Splits
from cnnlab.data.sources.image_folder import class_folders
from cnnlab.errors import DataError
from cnnlab.system.downloads import fetch_folder

URL = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
ARCHIVE_BYTES = 228_813_984
CLASSES = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]


def flowers(root: str) -> Splits:
    """Return the photos in `root/<class>/*.jpg`, downloaded from the official address if `root` does not exist.

    Raises DataError that lists the alternatives if they cannot be downloaded.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        try:
            fetch_folder(URL, folder, inside="flower_photos", sha256=SHA256, archive_bytes=ARCHIVE_BYTES)
        except DataError as error:
            raise DataError(
                f"The flower photos are not in {folder.absolute()}, and downloading them failed:\n  {error}\n"
                "Alternatives:\n"
                f"  - put the folder flower_photos (with {', '.join(CLASSES)}) there;\n"
                "  - set its location: paths.data_dir=FOLDER (FOLDER/flower_photos) "
                "or data.root=FOLDER/flower_photos;\n"
                "  - start without a download: make quickstart (data=digits)."
            ) from error
    return Splits(class_folders(folder))
